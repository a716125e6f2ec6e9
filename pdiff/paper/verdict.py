"""Do the paper's claims hold? `results/verdict.csv`, and `verdict.md` with the same numbers.

Both have a section for each setting; writing one leaves the others as they are.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pdiff.baselines.registry import label
from pdiff.config import NoveltyConfig
from pdiff.core.files import write_text
from pdiff.novelty.claims import Claim, Kind, bracket, judge, margins, over_pipelines, shown
from pdiff.paper.render import grid
from pdiff.paper.results import Pair, Run, Runs, Setting
from pdiff.system.errors import InputError

READING = """# Do the paper's claims hold?

Each row is a difference, positive if the paper is right, over the whole pipelines of its section
(own base net and checkpoints; several models of one base are averaged first). Accuracies are in
percentage points, similarities are the mean maximum IoU of wrong predictions with an original. The
interval is Student's, 95 %, over pipelines.

- **0** comes first: where the generator does not fit more than half of the runs, no claim gets a
  word. The bars are `pdiff.diffusion.bars`.
- **1 to 3** are the primary claims, fixed beforehand: *better* or *worse* if Holm's p over the
  three is at most 0.05; otherwise *equal within the margin* if two one-sided tests, corrected
  alike, say so; otherwise *unknown*, with the power to find a difference as large as the
  margin. Fewer than two pipelines have no interval and no word.
- **Soup of equal accuracy** (3): the average of originals, of whatever number, whose validation
  accuracy is nearest to the generated models'.
- **All other rows** describe: their intervals are not corrected, and nothing is called significant.
"""
GENERATED, SOUP, LATENT = "generated", "soup of equal accuracy", "ablation=noise_latent"


@dataclass(frozen=True)
class Question:
    """What one row of the verdict measures in each run: `mine` against `rival`.

    Each is a group of models, or `ablation=NAME` for what that ablation generated.
    """

    text: str
    column: str
    """Of `Run.means`."""
    rival: str
    mine: str = GENERATED

    @property
    def kind(self) -> Kind:
        return "similarity" if self.column == NOVEL else "accuracy"

    def measure(self, runs: Runs) -> float:
        """The difference, positive if the paper is right; NaN where something has not run."""
        gap = self._mean(runs, self.mine) - self._mean(runs, self.rival)
        return -gap if self.kind == "similarity" else gap

    def _mean(self, runs: Runs, name: str) -> float:
        _, _, ablation = name.partition("ablation=")
        if ablation:
            return runs[ablation].mean(GENERATED, self.column) if ablation in runs else math.nan
        return runs[""].mean(nearest_soup(runs[""]) if name == SOUP else name, self.column)


def nearest_soup(run: Run) -> str:
    """The average of originals that validation finds most nearly as good as the generated models.

    The ensemble is one of them; "" where there is no other.
    """
    soups = run.means.filter(regex="^(ensemble$|soup)", axis=0)["choosing_accuracy"]
    if len(soups) < 2:
        return ""
    return str((soups - run.mean(GENERATED, "choosing_accuracy")).abs().idxmin())


BETTER, NOVEL, CHOSEN = "accuracy", "max_similarity", "chosen"
PRIMARY = {
    "1": Question("better than its checkpoints on average", BETTER, "original"),
    "2": Question("better than their plain mean", BETTER, "ensemble"),
    "3": Question("more novel than a soup of equal accuracy", NOVEL, SOUP),
}
QUESTIONS = PRIMARY | {
    "3b": Question("better than that soup", BETTER, SOUP),
    "4": Question("more novel than a fresh run", NOVEL, "second_run"),
    "4b": Question("better than a fresh run", BETTER, "second_run"),
    "5": Question("better than more training", BETTER, "held_back"),
    "5b": Question("better than the greedy soup", BETTER, "soup_greedy"),
    "6": Question("the chosen one better than the chosen checkpoint", CHOSEN, "original"),
    "7": Question("more novel than a Gaussian of the checkpoints", NOVEL, "gaussian_full"),
    "7b": Question("better than a Gaussian of the checkpoints", BETTER, "gaussian_full"),
    "8": Question("more novel than a Gaussian of the latents", NOVEL, "latent_gaussian"),
    "8b": Question("better than a Gaussian of the latents", BETTER, "latent_gaussian"),
    "9": Question("more novel than with K = 10", NOVEL, "ablation=checkpoints_10"),
    "10": Question("latent noise beats parameter noise", BETTER, "ablation=noise_param", LATENT),
    "10b": Question("latent noise beats none", BETTER, "ablation=noise_none", LATENT),
}


def learned(runs: Sequence[Run]) -> tuple[str, str]:
    """Row 0: its word, and what the first run that does not fit misses.

    `fits` if more than half of the runs reach every bar; `not measured` if none is known not to.
    """
    missed = [run.missed for run in runs]
    why = "; ".join(next((bars for bars in missed if bars), []))
    if 2 * missed.count([]) > len(runs):
        return "fits", why
    return ("does not fit" if why else "not measured"), why


def claims_of(found: Mapping[Pair, Runs]) -> dict[str, Claim]:
    """All rows over the pipelines; the primary ones have their words if the generators fit.

    Several models of one base are averaged first. Raises `InputError` if the runs' margins differ.
    """
    runs = [runs[""] for runs in found.values()]
    limits = [margins(NoveltyConfig.model_validate(run.params["novelty"])) for run in runs]
    if any(limit != limits[0] for limit in limits):
        raise InputError("verdict: the runs' novelty.margin_* differ; one margin is fixed for all")
    claims = {}
    for key, question in QUESTIONS.items():
        measured = pd.Series({pair: question.measure(own) for pair, own in found.items()})
        pipelines = measured.dropna().groupby(level=0).mean()
        claims[key] = over_pipelines(question.text, question.kind, pipelines.tolist())
    if learned(runs)[0] == "fits":
        words = judge([claims[key] for key in PRIMARY], limits[0])
        claims |= dict(zip(PRIMARY, words, strict=True))
    return claims


def write_verdict(
    setting: Setting,
    found: Mapping[Pair, Runs],
    absent: Sequence[str],
    folder: Path,
    command: str,
) -> tuple[list[Path], pd.DataFrame]:
    """Write the setting's section of both files; their paths, and its rows of the CSV.

    `absent` are lines on runs that are not there. Raises `InputError` if nothing has run.
    """
    if not found:
        raise InputError(f"verdict: no experiment of {setting.title} is there: {'; '.join(absent)}")
    frame = rows_of(found)
    more = [*_notes(found, command), *absent]
    if frame["answer"].str.startswith("not run: ablation").any():
        more.append(f"What was not run, runs with `{command} --ablations`.")
    frame = pd.concat([frame, pd.DataFrame({"row": "note", "text": more})])
    frame.insert(0, "section", setting.title)
    paths = [folder / "verdict.csv", folder / "verdict.md"]
    everything = frame
    if paths[0].exists():
        before = pd.read_csv(paths[0], dtype={"row": str})
        everything = pd.concat([before[before["section"] != setting.title], frame])
    write_text(paths[0], everything.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    sections = everything.groupby("section", sort=False)
    text = "\n".join([READING, *(_section(str(title), rows) for title, rows in sections)])
    write_text(paths[1], text)
    return paths, frame


def rows_of(found: Mapping[Pair, Runs]) -> pd.DataFrame:
    """Row 0 and one row a claim, numbers as fractions; empty where there are none."""
    runs = [runs[""] for runs in found.values()]
    word, why = learned(runs)
    first = {"row": "0", "text": f"did the generator learn? ({_fit(runs)})", "n": len(runs)}
    rows = [first | {"answer": f"{word}: {why}" if why else word}]
    names = ("text", "kind", "estimate", "low", "high", "p", "power")
    for key, claim in claims_of(found).items():
        if not claim.differences:
            answer = f"not run: {QUESTIONS[key].rival}"
        elif key not in PRIMARY:
            answer = "described"
        else:
            answer = claim.word or (f"no word: {'one pipeline' if word == 'fits' else word}")
        row = {name: getattr(claim, name) for name in names}
        rows.append({"row": key, **row, "n": len(claim.differences), "answer": answer})
    return pd.DataFrame(rows)


def _fit(runs: Sequence[Run]) -> str:
    """The means over the runs that have measured their fit."""
    names = ("r2", "variance_first", "outside", "loss_held_out", "loss_gaussian")
    fit = pd.DataFrame([{n: run.metric("fit", n) for n in names} for run in runs]).mean()
    return (
        f"R² {fit['r2']:.2f}, variance of the first latent direction {fit['variance_first']:.2f}, "
        f"outside {fit['outside']:.2f}, held-out / Gaussian loss "
        f"{fit['loss_held_out'] / fit['loss_gaussian']:.2f}"
    ).replace("nan", "-")


def _notes(found: Mapping[Pair, Runs], command: str) -> list[str]:
    """What was run, which soups were as accurate, and how near to checkpoints models lie."""
    runs = [own[""] for own in found.values()]
    commits = dict.fromkeys(run.result.commit for own in found.values() for run in own.values())
    split = runs[0].params["novelty"]["split"]
    notes = [
        f"`{command}`, run at commit {', '.join(commits)}: {len({base for base, _ in found})} "
        f"pipelines, {len(runs)} runs, reported on the {split} split."
    ]
    if runs[0].params["data"]["split"] == "paper":
        notes.append(
            "Both splits are the test images (`data.split: paper`): 3 and 6 chose on them."
        )
    soups = Counter(label(soup) for soup in map(nearest_soup, runs) if soup)
    if soups:
        counts = ", ".join(f"{name} in {count} runs" for name, count in soups.items())
        notes.append(f"Soups of equal accuracy: {counts}.")
    names = ("nearest_relative", "interpolation_index", "outside_span")
    near, index, outside = (np.mean([run.metric("audit", n) for run in runs]) for n in names)
    if not math.isnan(near):
        notes.append(
            f"In parameters, generated models lie {near:.2f} times as far from the nearest "
            f"checkpoint as checkpoints do, at {index:.2f} of the checkpoints' distance from their "
            f"mean, {outside:.0%} of it (squared) outside their span."
        )
    return notes


def _section(title: str, rows: pd.DataFrame) -> str:
    """The Markdown of one setting."""
    heads = ["#", "question", "difference", "95 % interval", "p (Holm)", "n", "answer"]
    notes = rows["row"] == "note"
    table = grid(heads, map(_cells, rows[~notes].to_dict("records")))
    return "\n".join([f"## {title}", "", *table, "", *("- " + rows.loc[notes, "text"]), ""])


def _cells(row: Mapping[str, Any]) -> list[str]:
    numbers, answer = ["-", "-", "-"], row["answer"]
    if isinstance(row["kind"], str):
        numbers = [
            shown(row["estimate"], row["kind"]),
            bracket(row["low"], row["high"], row["kind"]),
        ]
        numbers.append("-" if math.isnan(row["p"]) else f"{row['p']:.3f}")
    if row["row"] in ("0", *PRIMARY):
        power = f" (power at the margin {row['power']:.0%})" if answer == "unknown" else ""
        answer = f"**{answer}**{power}"
    return [row["row"], row["text"], *numbers, f"{row['n']:.0f}", answer]

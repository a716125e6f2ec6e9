"""Do the paper's claims hold? `results/verdict.csv`, and `verdict.md` with the same numbers.

Both have a section for each setting; writing one leaves the others as they are.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pdiff import outputs
from pdiff.baselines.registry import label
from pdiff.config import GenerateConfig, NoveltyConfig
from pdiff.diffusion.bars import NUMBERS, missed_bars
from pdiff.novelty.claims import Claim, Kind, bracket, judge, margins, over_pipelines, shown
from pdiff.paper.experiments import Setting
from pdiff.paper.render import grid, write_pair
from pdiff.paper.results import Found, Result
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
ABLATIONS = ("checkpoints_10", "noise_latent", "noise_param", "noise_none")
"""What is described beside the experiment itself, which is called ""."""
GENERATED, SOUP, LATENT = "generated", "soup of equal accuracy", "ablation=noise_latent"


@dataclass(frozen=True)
class Question:
    """What one row of the verdict measures in each run: `mine` against `rival`.

    Each is a group of models, or `ablation=NAME` for what that ablation generated.
    """

    text: str
    column: str
    """Of `pipeline_means`."""
    rival: str
    mine: str = GENERATED

    @property
    def kind(self) -> Kind:
        return "similarity" if self.column == NOVEL else "accuracy"


def pipeline_means(runs: Mapping[str, Result]) -> pd.DataFrame:
    """`group_means` with the soup of equal accuracy, and with what each ablation generated."""
    means = group_means(runs[""])
    if soup := nearest_soup(means):
        means.loc[SOUP] = means.loc[soup]
    for name in filter(None, runs):
        means.loc[f"ablation={name}"] = group_means(runs[name]).loc[GENERATED]
    return means


def group_means(result: Result) -> pd.DataFrame:
    """Each group's mean accuracy, choosing_accuracy and max_similarity; `chosen`: its accuracy.

    The chosen model is the one that the choosing split likes best, of equal ones the first.
    """
    models = result.frame(outputs.MODELS)
    if models is None:
        raise InputError(f"{result.name}: {outputs.MODELS} is not on this machine; `dvc pull`")
    groups = models.groupby("group", sort=False)
    chosen = models.loc[groups["choosing_accuracy"].idxmax()].set_index("group")["accuracy"]
    columns = ["accuracy", "choosing_accuracy", "max_similarity"]
    return groups[columns].mean().assign(chosen=chosen)


def nearest_soup(means: pd.DataFrame) -> str:
    """The average of originals that validation finds most nearly as good as the generated models.

    The ensemble is one of them; "" where there is no other.
    """
    choosing = means["choosing_accuracy"]
    soups = choosing.filter(regex="^(ensemble$|soup)")
    return str((soups - choosing[GENERATED]).abs().idxmin()) if len(soups) > 1 else ""


BETTER, NOVEL, CHOSEN = "accuracy", "max_similarity", "chosen"
PRIMARY = {
    "1": Question("better than its checkpoints on average", BETTER, "original"),
    "2": Question("better than their plain mean", BETTER, "ensemble"),
    "3": Question("more novel than a soup of equal accuracy", NOVEL, SOUP),
}
QUESTIONS = PRIMARY | {
    "3b": Question("better than that soup", BETTER, SOUP),
    "4": Question("more novel than a fresh run", NOVEL, "fresh"),
    "4b": Question("better than a fresh run", BETTER, "fresh"),
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


def learned(runs: Sequence[Result]) -> tuple[str, str]:
    """Row 0: its word, and what the first run that does not fit misses.

    `fits` if more than half of the runs reach every bar; `not measured` if none is known not to.
    """
    missed = []
    for run in (run for run in runs if run.fit):
        config = GenerateConfig.model_validate(run.params["generate"])
        missed.append(missed_bars(run.fit, config, float(run.params["autoencoder"]["min_r2"])))
    why = "; ".join(next((bars for bars in missed if bars), []))
    if 2 * missed.count([]) > len(runs):
        return "fits", why
    return ("does not fit" if why else "not measured"), why


def claims_of(found: Found) -> dict[str, Claim]:
    """All rows over the pipelines; the primary ones have their words if the generators fit.

    Differences are positive if the paper is right; several models of one base are averaged first.
    """
    runs = [own[""] for own in found.values()]
    means = pd.concat({pair: pipeline_means(own) for pair, own in found.items()}).unstack()
    claims = {}
    for key, question in QUESTIONS.items():
        wanted = [(question.column, group) for group in (question.mine, question.rival)]
        mine, rival = (values for _, values in means.reindex(columns=wanted).items())
        gaps = (rival - mine if question.kind == "similarity" else mine - rival).dropna()
        pipelines = gaps.groupby(level=0).mean().tolist()
        claims[key] = over_pipelines(question.text, question.kind, pipelines)
    if learned(runs)[0] == "fits":
        limits = margins(NoveltyConfig.model_validate(runs[0].params["novelty"]))
        words = judge([claims[key] for key in PRIMARY], limits)
        claims |= dict(zip(PRIMARY, words, strict=True))
    return claims


def write_verdict(
    setting: Setting, found: Found, absent: Sequence[str], folder: Path, command: str
) -> tuple[list[Path], pd.DataFrame]:
    """Write the setting's section of both files; their paths, and its rows of the CSV.

    `absent` are lines on runs that are not there. Raises `InputError` if nothing has run.
    """
    found = {pair: runs for pair, runs in found.items() if "" in runs}
    if not found:
        raise InputError(f"verdict: no experiment of {setting.title} is there: {'; '.join(absent)}")
    frame = rows_of(found)
    more = [*_notes(found, command), *absent]
    if frame["answer"].str.startswith("not run: ablation").any():
        more.append(f"What was not run, runs with `{command} --ablations`.")
    frame = pd.concat([frame, pd.DataFrame({"row": "note", "text": more})])
    frame.insert(0, "section", setting.title)
    everything, path = frame, folder / "verdict.csv"
    if path.exists():
        before = pd.read_csv(path, dtype={"row": str})
        everything = pd.concat([before[before["section"] != setting.title], frame])
    sections = everything.groupby("section", sort=False)
    text = "\n".join([READING, *(_section(str(title), rows) for title, rows in sections)])
    return write_pair(folder, "verdict", everything, text), frame


def rows_of(found: Found) -> pd.DataFrame:
    """Row 0 and one row a claim, numbers as fractions; empty where there are none."""
    runs = [own[""] for own in found.values()]
    word, why = learned(runs)
    fit = pd.DataFrame([run.fit for run in runs], columns=NUMBERS).mean()
    numbers = (
        f"R² {fit['r2']:.2f}, variance of the first latent direction {fit['variance_first']:.2f}, "
        f"outside {fit['outside']:.2f}, held-out / Gaussian loss "
        f"{fit['loss_held_out'] / fit['loss_gaussian']:.2f}"
    ).replace("nan", "-")
    first = {"row": "0", "text": f"did the generator learn? ({numbers})", "n": len(runs)}
    rows = [first | {"answer": f"{word}: {why}" if why else word}]
    none = f"no word: {'one pipeline' if word == 'fits' else word}"
    for key, claim in claims_of(found).items():
        row = asdict(claim)
        count, answer = len(row.pop("differences")), row.pop("word") or none
        if not count:
            answer = f"not run: {QUESTIONS[key].rival}"
        elif key not in PRIMARY:
            answer = "described"
        rows.append({"row": key, **row, "n": count, "answer": answer})
    return pd.DataFrame(rows)


def _notes(found: Found, command: str) -> list[str]:
    """What was run, which soups were as accurate, and how near to checkpoints models lie."""
    runs = [own[""] for own in found.values()]
    commits = dict.fromkeys(run.commit for own in found.values() for run in own.values())
    split, bases = runs[0].params["novelty"]["split"], {base for base, _ in found}
    notes = [
        f"`{command}`, run at commit {', '.join(commits)}: {len(bases)} pipelines, {len(runs)} "
        f"runs, reported on the {split} split."
    ]
    if runs[0].params["data"]["split"] == "paper":
        notes += ["Both splits are the test images (`data.split: paper`): 3 and 6 chose on them."]
    soups = Counter(label(soup) for run in runs if (soup := nearest_soup(group_means(run))))
    if soups:
        counts = ", ".join(f"{name} in {count} runs" for name, count in soups.items())
        notes.append(f"Soups of equal accuracy: {counts}.")
    names = ("audit.nearest_relative", "audit.interpolation_index", "audit.outside_span")
    audits = pd.DataFrame([run.metrics for run in runs], columns=names)
    near, index, outside = audits.mean(skipna=False)
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
    kind, numbers, answer = row["kind"], ["-", "-"], row["answer"]
    if isinstance(kind, str):
        numbers = [shown(row["estimate"], kind), bracket(row["low"], row["high"], kind)]
    numbers.append("-" if math.isnan(row["p"]) else f"{row['p']:.3f}")
    if row["row"] in ("0", *PRIMARY):
        power = f" (power at the margin {row['power']:.0%})" if answer == "unknown" else ""
        answer = f"**{answer}**{power}"
    return [row["row"], row["text"], *numbers, f"{row['n']:.0f}", answer]

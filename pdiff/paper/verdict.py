"""Do the paper's claims hold? `results/verdict.csv`, and `.md` and `.json` with the same numbers.

All have a section for each setting; writing one leaves the others as they are.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pdiff import outputs
from pdiff.baselines.registry import label
from pdiff.config import NoveltyConfig
from pdiff.diffusion.bars import NUMBERS
from pdiff.novelty.claims import ALPHA, Claim, Kind, bracket, judge, margins, over_pipelines, shown
from pdiff.novelty.inference import t_interval, t_power
from pdiff.paper.experiments import Setting
from pdiff.paper.render import grid, write_pair
from pdiff.paper.results import Found, Result, learned
from pdiff.system.errors import InputError

INTRODUCTION = """# Do the paper's claims hold?

## In one minute

Differences are positive where generated models do better: more accurate, in percentage points, or
less similar to their nearest original (maximum IoU of wrong predictions). They have Student's 95 %
interval over whole pipelines (own base net and checkpoints; several models of one base are averaged
first) and the power to find a difference as large as the margin. Below are all rows, and how the
words were found.
"""
READING = """## How to read the sections

- **0** comes first: where the generator misses a bar in the mean over the runs, no claim gets a
  word. The bars are `pdiff.diffusion.bars`.
- **1 to 3** are the primary claims, fixed beforehand: *better* or *worse* if Holm's p over the
  three is at most 0.05 (`p`); otherwise *equal within the margin* if two one-sided tests, corrected
  alike, say so; otherwise *unknown*. Fewer than two pipelines have no interval and no word.
- **3b to 5b** get their words in the same way, each for itself: they are not corrected for their
  number, and 5 % of such words are wrong.
- **6**: how many optimiser steps the nearest twentieth of the generated models lies from a
  checkpoint, in units of the distance from a checkpoint to the next. *None*: more than one step.
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
ALONE = {
    "3b": Question("better than that soup", BETTER, SOUP),
    "4": Question("more novel than a fresh run", NOVEL, "fresh"),
    "4b": Question("better than a fresh run", BETTER, "fresh"),
    "5": Question("better than more training", BETTER, "held_back"),
    "5b": Question("better than the greedy soup", BETTER, "soup_greedy"),
}
"""Judged each for itself."""
NEAR = "6"
PAPERS = {
    "1": "+0.8 (Table 8: 77.7 and 76.9 %)",
    "2": "0.0 on average, +0.2 the best (Table 1: 77.7, 77.9 and 77.7 %)",
    NEAR: "none: similarity 0.85 to 0.87, originals 0.93 to 0.98 (Table 8)",
}
"""What the paper says (ResNet-18, CIFAR-100); it does not ask the other questions."""
QUESTIONS = {
    **PRIMARY,
    **ALONE,
    "1b": Question("the chosen one better than the chosen checkpoint", CHOSEN, "original"),
    "7": Question("more novel than a Gaussian of the checkpoints", NOVEL, "gaussian_full"),
    "7b": Question("better than a Gaussian of the checkpoints", BETTER, "gaussian_full"),
    "8": Question("more novel than a Gaussian of the latents", NOVEL, "latent_gaussian"),
    "8b": Question("better than a Gaussian of the latents", BETTER, "latent_gaussian"),
    "9": Question("more novel than with K = 10", NOVEL, "ablation=checkpoints_10"),
    "10": Question("latent noise beats parameter noise", BETTER, "ablation=noise_param", LATENT),
    "10b": Question("latent noise beats none", BETTER, "ablation=noise_none", LATENT),
}


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
        claims |= {key: judge([claims[key]], limits)[0] for key in ALONE}
    return claims


def near_duplicates(found: Found) -> dict[str, Any]:
    """Row 6: whether generated models lie within an optimiser step of a checkpoint.

    In each pipeline the distance to the nearest checkpoint below which a twentieth of the models
    lies, over the mean distance of a checkpoint to its nearest. The power is that to tell one step
    from two.
    """
    near = {}
    for pair, runs in found.items():
        table = runs[""].frame(outputs.AUDIT / "distances.csv")
        if table is not None:
            table = table.set_index("group")
            near[pair] = table["nearest_median_low"] / table.loc["original", "nearest_mean"]
    steps = pd.DataFrame(near, index=[GENERATED, "fresh"]).T.groupby(level=0).mean()
    own, text = steps[GENERATED].dropna().to_numpy(), "no near-duplicates of checkpoints"
    if not len(own):
        return {"row": NEAR, "text": text, "n": 0, "answer": "not run: the audit"}
    low, high = t_interval(own, ALPHA)
    if steps["fresh"].count():
        text += f" (a fresh run: {steps['fresh'].mean():.1f} steps)"
    answer = "none" if low > 1 else "near-duplicates" if high < 1 else "unknown"
    row = {"row": NEAR, "text": text, "kind": "steps", "estimate": own.mean(), "n": len(own)}
    power = t_power(own, 1.0, ALPHA)
    return row | {"low": low, "high": high, "power": power, "answer": answer}


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
    runs = [run for own in found.values() for run in own.values()]
    commits, metrics = (dict.fromkeys(getattr(r, n) for r in runs) for n in ("commit", "digest"))
    frame = frame.assign(command=command, commit=" ".join(commits), metrics=" ".join(metrics))
    everything, path = frame, folder / "verdict.csv"
    if path.exists():
        before = pd.read_csv(path, dtype={"row": str})
        everything = pd.concat([before[before["section"] != setting.title], frame])
    sections = {str(title): rows for title, rows in everything.groupby("section", sort=False)}
    parts = [INTRODUCTION, *minute(sections), "", READING, *map(_section, sections.items())]
    text, more = "\n".join(parts), json.dumps(records(everything), indent=1) + "\n"
    metrics = everything["metrics"].dropna().unique()
    return write_pair(folder, "verdict", everything, text, metrics, json=more), frame


MINUTE = {  # rows of the table that comes first: what they ask, and the rows that answer
    "0 did it learn?": ("0",),
    "1 better than its checkpoints, on average": ("1",),
    "2 better than their plain mean": ("2",),
    "3 other than a soup of equal accuracy: novelty; accuracy": ("3", "3b"),
    "4 as novel as a fresh run; as accurate": ("4", "4b"),
    "5 better than more steps; than the greedy soup": ("5", "5b"),
    "6 near-duplicates of checkpoints": (NEAR,),
}


RECORD = {
    "section": "setting",
    "row": "row",
    "text": "claim",
    "paper": "paper",
    "estimate": "ours",
    "interval": "interval",
    "kind": "unit",
    "answer": "verdict",
    "power": "power",
    "n": "pipelines",
    "command": "command",
    "commit": "commit",
}
"""Columns of the CSV, and what programs find them by."""


def minute(sections: Mapping[str, pd.DataFrame]) -> list[str]:
    """The lines of the table that is read in a minute, a column a setting."""
    heads = ["question", "the paper"]
    columns = []
    short = Counter(map(_heading, sections))
    for title, rows in sections.items():
        known = {row["row"]: row for row in rows.to_dict("records")}
        name = _heading(title) if short[_heading(title)] == 1 else title
        heads.append(f"{name}: {known['1']['n']:.0f} pipelines")
        columns.append(["; ".join(_short(known[k]) for k in keys) for keys in MINUTE.values()])
    papers = [PAPERS.get(keys[0], "-") for keys in MINUTE.values()]
    return grid(heads, zip(MINUTE, papers, *columns, strict=True))


def _heading(title: str) -> str:
    """A setting's data set, net and recipe."""
    return ", ".join(title.split(", ")[:3])


def _short(row: Mapping[str, Any]) -> str:
    """Word, number, interval and power."""
    number, interval, power = _numbers(row)
    word = f"**{row['answer'].partition(':')[0]}**"
    return " ".join(filter(None, [word, *(x for x in (number, interval) if x != "-"), power]))


def records(everything: pd.DataFrame) -> list[dict[str, Any]]:
    """The same for programs: one record a setting and row from 0 to 6."""
    judged = everything[everything["row"].isin([key for keys in MINUTE.values() for key in keys])]
    judged = judged.astype(object).where(judged.notna(), None)
    judged = judged.assign(interval=judged[["low", "high"]].to_numpy().tolist())
    judged = judged.assign(paper=judged["row"].map(PAPERS).fillna("-"))
    return judged.rename(columns=RECORD)[[*RECORD.values()]].to_dict("records")


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
    r2 = np.array([run.fit.get("r2", math.nan) for run in runs])
    low, high = t_interval(r2, ALPHA)
    first = {"row": "0", "text": f"did the generator learn? ({numbers})", "n": len(runs)}
    first |= {"kind": "r2", "estimate": r2.mean(), "low": low, "high": high}
    rows = [first | {"answer": f"{word}: {why}" if why else word}]
    none = f"no word: {'one pipeline' if word == 'fits' else word}"
    for key, claim in claims_of(found).items():
        row = asdict(claim)
        count, answer = len(row.pop("differences")), row.pop("word") or none
        if not count:
            answer = f"not run: {QUESTIONS[key].rival}"
        elif key not in PRIMARY | ALONE:
            answer = "described"
        rows.append({"row": key, **row, "n": count, "answer": answer})
    order = ["0", *PRIMARY, *ALONE, NEAR]
    rows.append(near_duplicates(found))
    rows.sort(key=lambda row: order.index(row["row"]) if row["row"] in order else len(order))
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


def _section(titled: tuple[str, pd.DataFrame]) -> str:
    """The Markdown of one setting."""
    title, rows = titled
    heads = ["#", "question", "difference", "95 % interval", "p", "n", "answer"]
    notes = rows["row"] == "note"
    table = grid(heads, map(_cells, rows[~notes].to_dict("records")))
    return "\n".join([f"## {title}", "", *table, "", *("- " + rows.loc[notes, "text"]), ""])


def _cells(row: Mapping[str, Any]) -> list[str]:
    number, interval, power = _numbers(row)
    p = "-" if math.isnan(row["p"]) else f"{row['p']:.3f}"
    answer = row["answer"]
    if row["row"] in ("0", *PRIMARY, *ALONE, NEAR):
        answer = " ".join(filter(None, [f"**{answer}**", power]))
    return [row["row"], row["text"], number, interval, p, f"{row['n']:.0f}", answer]


def _numbers(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Estimate and interval as they are shown, `-` for none, and the power if there is one."""
    kind, estimate, low, high = row["kind"], row["estimate"], row["low"], row["high"]
    power = "" if math.isnan(row["power"]) else f"(power {row['power']:.0%})"
    if kind in ("accuracy", "similarity"):
        return shown(estimate, kind), bracket(low, high, kind), power
    if not isinstance(kind, str) or math.isnan(estimate):
        return "-", "-", power
    unit, digits = ("R² ", 3) if kind == "r2" else ("", 1)
    after = " steps" if kind == "steps" else ""
    interval = "-" if math.isnan(low) else f"[{low:.{digits}f}, {high:.{digits}f}]"
    return f"{unit}{estimate:.{digits}f}{after}", interval, power

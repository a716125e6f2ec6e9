"""Did the generator learn? The recipe beside the first version's, over whole pipelines.

`python -m pdiff.paper fit` writes `results/fit_SETTING.md` and `.csv`: the bars of a generator,
then accuracy and similarity of what was generated beside fresh runs and rivals.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pdiff import outputs
from pdiff.baselines.registry import label
from pdiff.diffusion.bars import MORE_ALIKE, SLACK
from pdiff.paper.experiments import Setting
from pdiff.paper.render import grid, write_pair
from pdiff.paper.results import Found, Result
from pdiff.system.errors import InputError

RECIPES = {"": "generated", "normalise_tensor": "generated, `ablation=normalise_tensor`"}
"""The ablations whose generators are compared, and what the table calls them."""
RIVALS = ("original", "fresh", "ensemble", "soup_8", "gaussian_full")
RIVALS += ("projected_4", "projected_16", "projected_64")
MADE = ("reconstructed", "generated")
COLUMNS = ("accuracy", "max_similarity", "similarity_within")
BARS = {  # what is measured; the least and the most that it may be
    "codec: R² of the deviation from the mean checkpoint": ("r2", 0.98, math.inf),
    "codec: similarity within reconstructed, less originals'": ("alike", -math.inf, MORE_ALIKE),
    "latents: least variance ratio": ("variance_least", 0.8, 1.25),
    "latents: largest variance ratio": ("variance_most", 0.8, 1.25),
    "latents: share outside the leading directions": ("outside", 0.0, 0.05),
    "latents: held-out denoising loss over a Gaussian's": ("held_out", 0.0, 1 + SLACK),
    "models: accuracy, less fresh runs'": ("right", -0.003, 0.003),
    "models: similarity within, less fresh runs'": ("similar", -0.05, 0.05),
}
OF_DIGITS = {"right": 0.006}
"""Wider on 360 test images than on thousands: how far accuracy may lie from fresh runs."""
READING = """Variance ratios are generated over originals, along each principal direction of the
originals' latents that holds more than 1 % of their variance."""


def numbers(result: Result) -> pd.Series:
    """What `BARS` measure in one run, and `GROUP.COLUMN`; InputError where it has no audit."""
    groups = result.frame(outputs.AUDIT / "groups.csv")
    if groups is None or not result.fit:
        raise InputError(f"{result.name}: no audit or no measured fit; run it anew")
    table = groups.set_index("group").reindex([*RIVALS, *MADE])[[*COLUMNS]]
    found = pd.Series(result.fit)
    within, accuracy = table["similarity_within"], table["accuracy"]
    found["alike"] = within["reconstructed"] - within["original"]
    found["similar"] = within["generated"] - within["fresh"]
    found["right"] = accuracy["generated"] - accuracy["fresh"]
    found["held_out"] = found["loss_held_out"] / found["loss_gaussian"]
    cells = table.stack(future_stack=True)
    return pd.concat([found, cells.set_axis(cells.index.map(".".join))])


def write_fit(
    setting: Setting, found: Found, absent: Sequence[str], folder: Path, command: str
) -> tuple[list[Path], pd.DataFrame]:
    """Write the table of the results of each ablation; its paths and its rows.

    `absent` are lines on runs that are not there. Raises `InputError` if nothing has run.
    """
    results = of_each(RECIPES, found)
    if not results[""]:
        raise InputError(f"fit: no experiment of {setting.title} is there: {'; '.join(absent)}")
    runs = {n: pd.DataFrame(map(numbers, own)) for n, own in results.items() if own}
    bars, groups = _bar_rows(setting, runs), _group_rows(runs)
    body = [
        f"mean ± standard deviation over them. {READING}",
        "",
        *grid(["bar", "wanted", *RECIPES.values()], _bar_cells(bars)),
        "",
        *grid(
            ["group", "accuracy, %", "maximum similarity", "similarity within"],
            map(_group_cells, groups.to_dict("records")),
        ),
    ]
    heading = f"# Did the generator learn? {setting.data}, {setting.net}, recipe {setting.recipe}"
    called = {name: name or "this recipe" for name in RECIPES}
    text = page(heading, results, called, command, body, absent)
    frame = pd.concat([bars, groups], ignore_index=True)
    metrics = [result.digest for own in results.values() for result in own]
    return write_pair(folder, f"fit_{setting.name}", frame, text, metrics), frame


def of_each(ablations: Iterable[str], found: Found) -> dict[str, list[Result]]:
    """The results of each ablation, one a pipeline that has run."""
    return {name: [runs[name] for runs in found.values() if name in runs] for name in ablations}


def page(
    heading: str,
    results: Mapping[str, Sequence[Result]],
    called: Mapping[str, str],
    command: str,
    body: Iterable[str],
    absent: Sequence[str],
) -> str:
    """Markdown: how many results of each ablation, by what it is `called`, then what was found."""
    commits = ", ".join(dict.fromkeys(r.commit for own in results.values() for r in own))
    counts = ", ".join(f"{len(own)} of {called[name]}" for name, own in results.items())
    told = f"`{command}`, run at commit {commits}. Whole pipelines: {counts};"
    missing = ["", *(f"- {line}" for line in absent)] if absent else []
    return "\n".join([heading, "", told, *body, *missing]) + "\n"


def _bar_rows(setting: Setting, runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    rows = []
    for recipe, own in runs.items():
        for text, (key, low, high) in BARS.items():
            if setting.data == "digits" and key in OF_DIGITS:
                low, high = -OF_DIGITS[key], OF_DIGITS[key]
            mean = own[key].mean(skipna=False)
            row = {"recipe": recipe, "row": text, "low": low, "high": high, "runs": len(own)}
            rows.append(row | {"mean": mean, "std": own[key].std(), "met": low <= mean <= high})
    return pd.DataFrame(rows)


def _group_rows(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Over the runs that have the group; a group that no run has gets no row."""
    rows = []
    for recipe, group in [*(("", g) for g in RIVALS), *((r, g) for r in runs for g in MADE)]:
        own = runs[recipe][[f"{group}.{column}" for column in COLUMNS]]
        row: dict[str, object] = {"recipe": recipe, "row": group, "runs": own.iloc[:, 0].count()}
        for column, mean, std in zip(COLUMNS, own.mean(), own.std(), strict=True):
            row |= {column: mean, f"{column}_std": std}
        rows.append(row)
    return pd.DataFrame(rows).query("runs > 0")


def _bar_cells(bars: pd.DataFrame) -> Iterator[list[str]]:
    for name, rows in bars.groupby("row", sort=False):
        low, high = rows[["low", "high"]].iloc[0]
        wanted = f"{low:g} to {high:g}" if low and not math.isinf(low) else f"at most {high:g}"
        own = dict.fromkeys(RECIPES, "not run")
        for row in rows.itertuples():
            value = "not measured" if math.isnan(row.mean) else spread(row.mean, row.std, 3)
            own[row.recipe] = value if row.met else f"**{value}**, missed"
        yield [name, f"at least {low:g}" if math.isinf(high) else wanted, *own.values()]


def _group_cells(row: Mapping[str, Any]) -> list[str]:
    name = RECIPES[row["recipe"]].replace("generated", label(row["row"]), 1)
    accuracy = spread(100 * row["accuracy"], 100 * row["accuracy_std"], 2)
    return [name, accuracy, *(spread(row[c], row[f"{c}_std"], 3) for c in COLUMNS[1:])]


def spread(mean: float, std: float, digits: int) -> str:
    """`91.40 ± 0.20`, without the deviation of a single run; `-` where there is no number."""
    if math.isnan(mean):
        return "-"
    return f"{mean:.{digits}f}" + ("" if math.isnan(std) else f" ± {std:.{digits}f}")

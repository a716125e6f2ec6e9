"""Did the generator learn? The recipe beside the first version's, over whole pipelines.

`python -m pdiff.paper fit` writes `results/fit_SETTING.md` and `.csv`: the bars of a generator,
then accuracy and similarity of what was generated beside fresh runs and rivals.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pdiff.baselines.registry import label
from pdiff.core.files import write_text
from pdiff.diffusion.bars import MORE_ALIKE, SLACK
from pdiff.paper.experiments import Library, Result
from pdiff.paper.render import line
from pdiff.paper.runs import Setting
from pdiff.system.errors import InputError

RECIPES = {"": "generated", "normalise_tensor": "generated, `ablation=normalise_tensor`"}
"""The ablations whose generators are compared, and what the table calls them."""
RIVALS = ("original", "second_run", "ensemble", "soup_8", "gaussian_full", "projected_4")
RIVALS += ("projected_16", "projected_64")
MADE = ("reconstructed", "generated")
COLUMNS = ("accuracy", "max_similarity", "similarity_within")

Numbers = Mapping[str, float]


def numbers(result: Result) -> dict[str, float]:
    """The fit of one run, and `GROUP.COLUMN` of each group; InputError where it has no audit."""
    groups = result.frame("report/audit/groups.csv")
    if groups is None or "fit" not in result.metrics:
        raise InputError(f"{result.name}: no audit or no measured fit; run it anew")
    found = {name: math.nan if v is None else v for name, v in result.metrics["fit"].items()}
    for group, row in groups.set_index("group").iterrows():
        found |= {f"{group}.{column}": row[column] for column in COLUMNS}
    return found


def gap(a: str, b: str) -> Callable[[Numbers], float]:
    """`a` less `b` in one run."""
    return lambda run: run.get(a, math.nan) - run.get(b, math.nan)


Bar = tuple[str, Callable[[Numbers], float], float, float]
"""What is measured, in one run; the bar's lower and upper end."""


def bars(accuracy: float) -> list[Bar]:
    """The bars of a fitted generator; `accuracy` is how far it may lie from fresh runs."""

    def of(name: str) -> Callable[[Numbers], float]:
        return lambda run: run[name]

    def held_out(run: Numbers) -> float:
        return run["loss_held_out"] / run["loss_gaussian"]

    alike = gap("reconstructed.similarity_within", "original.similarity_within")
    similar = gap("generated.similarity_within", "second_run.similarity_within")
    right = gap("generated.accuracy", "second_run.accuracy")
    return [
        ("codec: R² of the deviation from the mean checkpoint", of("r2"), 0.98, math.inf),
        ("codec: similarity within reconstructed, less originals'", alike, -math.inf, MORE_ALIKE),
        ("latents: least variance ratio", of("variance_least"), 0.8, 1.25),
        ("latents: largest variance ratio", of("variance_most"), 0.8, 1.25),
        ("latents: share outside the leading directions", of("outside"), 0.0, 0.05),
        ("latents: held-out denoising loss over a Gaussian's", held_out, 0.0, 1 + SLACK),
        ("models: accuracy, less fresh runs'", right, -accuracy, accuracy),
        ("models: similarity within, less fresh runs'", similar, -0.05, 0.05),
    ]


def write_fit(
    setting: Setting,
    found: Mapping[str, Sequence[Result]],
    folder: Path,
    command: str,
) -> tuple[list[Path], pd.DataFrame]:
    """Write the table of the results of each ablation; its paths and its rows."""
    if not found.get(""):
        raise InputError(f"fit: no experiment of {setting.name} is there")
    runs = {name: [numbers(result) for result in results] for name, results in found.items()}
    frame = pd.DataFrame([*_bar_rows(setting, runs), *_group_rows(runs)])
    name = "_".join(["fit", setting.recipe, setting.data, setting.net])  # overrides are too long
    paths = [folder / f"{name}.csv", folder / f"{name}.md"]
    write_text(paths[0], frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_text(paths[1], _page(setting, frame, found, command))
    return paths, frame


def _bar_rows(setting: Setting, runs: Mapping[str, Sequence[Numbers]]) -> list[dict[str, object]]:
    wanted = bars(0.006 if setting.data == "digits" else 0.003)
    rows = []
    for name, own in runs.items():
        for text, measure, low, high in wanted:
            values = np.array([measure(run) for run in own])
            row = {"recipe": name, "row": text, "low": low, "high": high, "runs": len(own)}
            mean = float(values.mean()) if len(values) else math.nan
            rows.append(row | {"mean": mean, "std": _std(values), "met": low <= mean <= high})
    return rows


def _group_rows(runs: Mapping[str, Sequence[Numbers]]) -> list[dict[str, object]]:
    chosen = [("", group) for group in RIVALS]
    chosen += [(name, group) for name in runs for group in MADE]
    rows = []
    for name, group in chosen:
        own = [run for run in runs[name] if f"{group}.accuracy" in run]
        row: dict[str, object] = {"recipe": name, "row": group, "runs": len(own)}
        for column in COLUMNS:
            values = np.array([run[f"{group}.{column}"] for run in own])
            row |= {column: values.mean() if len(own) else math.nan, f"{column}_std": _std(values)}
        if own:
            rows.append(row)
    return rows


def _std(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _page(
    setting: Setting, frame: pd.DataFrame, found: Mapping[str, Sequence[Result]], command: str
) -> str:
    is_bar = frame["met"].notna()
    commits = dict.fromkeys(r.commit for results in found.values() for r in results)
    counts = ", ".join(f"{len(r)} of {n or 'this recipe'}" for n, r in found.items())
    lines = [
        f"# Did the generator learn? {setting.data}, {setting.net}, recipe {setting.recipe}",
        "",
        f"`{command}`, run at commit {', '.join(commits)}. Whole pipelines: {counts};",
        "mean ± standard deviation over them. Variance ratios are generated over",
        "originals, along each principal direction of the originals' latents that holds more than",
        "1 % of their variance.",
        "",
        line(["bar", "wanted", *RECIPES.values()]),
        line(["-"] * (2 + len(RECIPES))),
    ]
    for text, rows in frame[is_bar].groupby("row", sort=False):
        cells = rows.set_index("recipe")
        shown = [
            _bar_cell(cells.loc[name]) if name in cells.index else "not run" for name in RECIPES
        ]
        lines.append(line([str(text), _wanted(rows.iloc[0]), *shown]))
    heads = ["group", "accuracy, %", "maximum similarity", "similarity within"]
    lines += ["", line(heads), line(["-", *["-:"] * 3])]
    for _, row in frame[~is_bar].iterrows():
        lines.append(line([_name(row), *(_cell(row, column) for column in COLUMNS)]))
    return "\n".join(lines) + "\n"


def _name(row: pd.Series) -> str:
    return RECIPES[row["recipe"]].replace("generated", label(row["row"]), 1)


def _wanted(row: pd.Series) -> str:
    low, high = row["low"], row["high"]
    if math.isinf(high):
        return f"at least {low:g}"
    return f"{low:g} to {high:g}" if low and not math.isinf(low) else f"at most {high:g}"


def _bar_cell(row: pd.Series) -> str:
    spread = "" if math.isnan(row["std"]) else f" ± {row['std']:.3f}"
    value = "not measured" if math.isnan(row["mean"]) else f"{row['mean']:.3f}{spread}"
    return value if row["met"] else f"**{value}**, missed"


def _cell(row: pd.Series, column: str) -> str:
    value, spread, scale, digits = row[column], row[f"{column}_std"], 1, 3
    if math.isnan(value):
        return "-"
    if column == "accuracy":
        scale, digits = 100, 2
    text = f"{scale * value:.{digits}f}"
    return text if math.isnan(spread) else f"{text} ± {scale * spread:.{digits}f}"


def gather_fit(
    setting: Setting, pairs: Sequence[tuple[int, int]], library: Library
) -> dict[str, list[Result]]:
    """The results of each ablation that there are."""
    found = {
        name: [library.find(setting.experiment(*pair, name)) for pair in pairs] for name in RECIPES
    }
    return {name: [r for r in results if r is not None] for name, results in found.items()}

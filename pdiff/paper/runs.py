"""One fine-tuning run against thirty: what changes where checkpoints differ more.

`python -m pdiff.paper runs` writes `results/runs_SETTING.md` and `.csv`, over whole pipelines.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pdiff import outputs
from pdiff.baselines.registry import label
from pdiff.paper.experiments import Setting
from pdiff.paper.fit import of_each, page, spread
from pdiff.paper.render import grid, write_pair
from pdiff.paper.results import Found, Result
from pdiff.system.errors import InputError

RUNS = {"": "one run", "runs_30": "thirty runs, `ablation=runs_30`"}
"""The ablations that are compared, and what the table calls them."""
GROUPS = ("original", "fresh", "generated", "ensemble", "soup_8", "gaussian_full")
GROUPS += ("gaussian_diagonal",)
COLUMNS = {  # heading, file of the audit, factor and digits
    "accuracy": ("accuracy, %", "groups", 100, 2),
    "max_similarity": ("maximum similarity", "groups", 1, 3),
    "similarity_within": ("similarity within", "groups", 1, 3),
    "nearest_mean": ("distance to the nearest original", "distances", 1, 2),
    "vote_gain": ("vote gain, points", "votes", 100, 2),
}
READING = """Originals are compared with each other: their maximum similarity and distance leave out
the model itself, and in the second row all within `novelty.neighbours` optimiser steps of it in its
run. Vote gain: accuracy of the vote of 20 models, less their mean accuracy."""


def numbers(result: Result) -> pd.DataFrame:
    """One row a group, one column each of `COLUMNS`; `InputError` where a run has no audit."""
    parts = {}
    for name in ("groups", "distances", "votes", "neighbours"):
        table = result.frame(outputs.AUDIT / f"{name}.csv")
        if table is None:
            raise InputError(f"{result.name}: no {outputs.AUDIT / name}.csv; run it anew")
        parts[name] = table
    columns = {
        name: parts[file].set_index("group")[name] for name, (_, file, *_) in COLUMNS.items()
    }
    found = pd.DataFrame(columns).reindex(GROUPS)
    apart = parts["neighbours"].set_index("left_out").loc["neighbours"]
    two = apart[["max_similarity", "nearest"]].tolist()
    found.loc["apart", ["max_similarity", "nearest_mean"]] = two
    return found.reindex([GROUPS[0], "apart", *GROUPS[1:]])


def write_runs(
    setting: Setting, found: Found, absent: Sequence[str], folder: Path, command: str
) -> tuple[list[Path], pd.DataFrame]:
    """Write the table of the results of each ablation; its paths and its rows.

    `absent` are lines on runs that are not there. Raises `InputError` if nothing has run.
    """
    results = of_each(RUNS, found)
    if not any(results.values()):
        raise InputError(f"runs: no experiment of {setting.title} is there: {'; '.join(absent)}")
    rows = []
    for name, own in results.items():
        if own:
            groups = pd.concat([numbers(result) for result in own]).groupby(level=0, sort=False)
            table = groups.mean().join(groups.std().add_suffix("_std"))
            rows.append(table.rename_axis("group").reset_index().assign(runs=name, n=len(own)))
    frame = pd.concat(rows, ignore_index=True)
    body = [
        f"mean ± standard deviation over them. {READING}",
        "",
        *grid(
            ["checkpoints from", "group", *(heading for heading, *_ in COLUMNS.values())],
            map(_cells, frame.to_dict("records")),
        ),
    ]
    heading = f"# One run against thirty: {setting.data}, {setting.net}, recipe {setting.recipe}"
    text = page(heading, results, RUNS, command, body, absent)
    metrics = [result.digest for own in results.values() for result in own]
    return write_pair(folder, f"runs_{setting.name}", frame, text, metrics), frame


def _cells(row: Mapping[str, Any]) -> list[str]:
    name = "originals, without neighbours" if row["group"] == "apart" else label(row["group"])
    cells = [
        spread(factor * row[column], factor * row[f"{column}_std"], digits)
        for column, (_, _, factor, digits) in COLUMNS.items()
    ]
    return [RUNS[row["runs"]], name, *cells]

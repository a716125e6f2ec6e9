"""Copies or new? What the memorisation audit says, over the runs of a verdict."""

from collections.abc import Sequence

import pandas as pd

from pdiff.baselines.registry import label
from pdiff.paper.render import line
from pdiff.paper.runs import Seed

SHOWN = (
    *("generated", "original", "second_run", "ensemble", "reconstructed"),
    *("gaussian_full", "latent_gaussian"),
)
"""The generated models, and what their numbers are read against."""
TESTS = {"z_held_back": "Z_U, held back", "z_second_run": "Z_U, second run"}
DISTANCES = {
    "nearest_relative": "distance to nearest original",
    "interpolation_mean": "interpolation index",
    "outside_span_mean": "outside the span",
}
COLUMNS = (*TESTS.values(), *DISTANCES.values())
READING = """\
Mean ± standard deviation over runs. Z_U far below 0: nearer to the originals than held-out
checkpoints are, which is copying; as checkpoints of a run are alike, compare it with other rows.
Distance in units of the originals' own. Interpolation index: distance to the mean of the originals
over theirs, 0 for the mean itself; outside the span: the share of that distance, squared, which
no mixture of originals explains."""


def audit_table(seeds: Sequence[Seed]) -> pd.DataFrame:
    """One row a run and group, indexed by group, with `COLUMNS`; empty without an audit."""
    tables = [pd.DataFrame(columns=[*COLUMNS])]
    for seed in seeds:
        frames = [seed.run().audit(name) for name in ("copying", "distances")]
        if all(frame is not None for frame in frames):
            copying, distances = (frame.set_index("group") for frame in frames)
            parts = ((copying, TESTS), (distances, DISTANCES))
            chosen = [part[[*names]].rename(columns=names) for part, names in parts]
            tables.append(pd.concat(chosen, axis=1))
    return pd.concat(tables).astype(float)


def copies_lines(seeds: Sequence[Seed]) -> list[str]:
    """The table with mean and spread over runs; nothing without an audit."""
    table = audit_table(seeds)
    if table.empty:
        return []
    mean, std = table.groupby(level=0).mean(), table.groupby(level=0).std()
    lines = ["", "### Copies or new?", "", READING, ""]
    lines += [line(["", *COLUMNS]), line(["-"] * (len(COLUMNS) + 1))]
    for group in (group for group in SHOWN if group in mean.index):
        cells = [_cell(mean.loc[group, name], std.loc[group, name]) for name in COLUMNS]
        lines.append(line([label(group), *cells]))
    return lines


def copies_sentence(seeds: Sequence[Seed]) -> list[str]:
    """The audit's numbers of the generated models in a sentence; nothing without an audit."""
    table = audit_table(seeds)
    if "generated" not in table.index:
        return []
    mean = table.loc[["generated"]].mean()
    distance, index, outside = (mean[name] for name in DISTANCES.values())
    return [
        f"In parameters, generated models lie {distance:.2f} times as far from the nearest "
        f"original as originals do, and at {index:.2f} of the originals' distance from their "
        f"mean, {outside:.0%} of it (squared) in directions that no mixture of originals reaches."
    ]


def _cell(mean: float, std: float) -> str:
    if pd.isna(mean):
        return "-"
    return f"{mean:.2f}" if pd.isna(std) else f"{mean:.2f} ± {std:.2f}"

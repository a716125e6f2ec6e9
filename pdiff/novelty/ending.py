"""How a run ends: six lines on what came out."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from pdiff.baselines.registry import label
from pdiff.novelty.bootstrap import Replicates, interval_around
from pdiff.novelty.claims import bracket, shown

SHOWN = ("original", "ensemble", "reconstructed", "generated")


def accuracies(
    summary: pd.DataFrame, replicates: Mapping[str, Replicates], split: str, *, fits: bool
) -> list[str]:
    """Two lines: how good the groups are; whether the generator fits, and differences.

    `summary` is `summary.csv`. The score of a task other than classification has no interval.
    """
    scored, scale = "score" in summary, 1 if "score" in summary else 100
    kind, name = ("score", summary["score"][0]) if scored else ("accuracy", "accuracy (%)")
    means, gaps = summary.set_index("group")[f"{kind}_mean"], []
    for rival in ("original", "ensemble"):
        gap = means["generated"] - means[rival]
        draws = replicates["generated"].accuracy - replicates[rival].accuracy
        interval = "" if scored else f" {bracket(*interval_around(gap, draws), kind)}"
        gaps.append(f"generated - {label(rival)} {shown(gap, kind)}{interval}")
    word = "fits" if fits else "does not fit"
    groups = ", ".join(f"{label(group)} {scale * means[group]:.2f}" for group in SHOWN)
    return [f"{split} {name}: {groups}", f"the generator {word}; {'; '.join(gaps)}"]


def where(seconds: float, report: Path, keep: str) -> list[str]:
    """Four lines: the time, the report, how to compare, and how to keep what lies here."""
    return [
        f"its stages took {round(seconds) // 60} min {round(seconds) % 60} s",
        f"report:  {report}",
        "compare: make ui, or make table",
        f"keep:    {keep}",
    ]

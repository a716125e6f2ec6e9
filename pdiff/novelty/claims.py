"""What one experiment says of the paper's claims, in words and numbers for its report.

Several seeds say more: `pdiff.paper.verdict`.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from pdiff.baselines.registry import label
from pdiff.novelty.inference import holm

Outcome = Literal["holds", "does not hold", "cannot tell"]

ACCURACY = (
    ("better than the originals on average", "original"),
    ("better than the ensemble", "ensemble"),
    ("better than a Gaussian of the checkpoints", "gaussian_full"),
    ("better than a Gaussian of the latents", "latent_gaussian"),
)
NOVELTY = (
    ("more novel than a Gaussian of the checkpoints", "gaussian_full"),
    ("more novel than a Gaussian of the latents", "latent_gaussian"),
)
LADDERS = {
    "noised": "more novel than noise at equal accuracy",
    "soup": "more novel than a soup at equal accuracy",
}


@dataclass(frozen=True)
class Claim:
    """One statement of the paper, whether it holds here, and by which numbers."""

    text: str
    outcome: Outcome
    numbers: str


def claims(comparisons: pd.DataFrame, ladders: pd.DataFrame, *, fits: bool) -> list[Claim]:
    """The generated models against the paper's rivals and ours, those that this run has.

    `comparisons` and `ladders` are tables of `pdiff.novelty.comparisons`; their p-values are
    corrected for the number of rows in them (Holm). Nothing can be told of a generator that does
    not fit (`pdiff.diffusion.bars`): then the numbers stand without their word.
    """
    rows = comparisons.set_index("group")
    found = [_paired(rows, text, group, "accuracy") for text, group in ACCURACY]
    found.insert(1, _chosen(rows))
    found += [_paired(rows, text, group, "novelty") for text, group in NOVELTY]
    found += _ladders(ladders)
    return found if fits else [replace(claim, outcome="cannot tell") for claim in found]


def words(adjusted: Float[np.ndarray, " C"], side: Float[np.ndarray, " C"]) -> list[str]:
    """What may be said of claims, given adjusted p-values and on which side of 0 they are."""
    seen = adjusted <= 0.05
    cases = [seen & (side > 0), seen & (side < 0)]
    return np.select(cases, ["holds", "does not hold"], "cannot tell").tolist()


def _paired(rows: pd.DataFrame, text: str, group: str, name: str) -> Claim:
    row = rows.loc[group]
    value, low, high = (row[f"{name}_{key}"] for key in ("difference", "low", "high"))
    numbers = f"{_shown(value, low, high, name)} against {label(group)}"
    return Claim(text, row[f"{name}_word"], numbers)


def _chosen(rows: pd.DataFrame) -> Claim:
    row = rows.loc["original"]
    numbers = f"{100 * row['chosen_difference']:+.2f} %, McNemar p {_equals(row['chosen_p'])}"
    return Claim("the chosen one is better than the chosen original", row["chosen_word"], numbers)


def _equals(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _ladders(ladders: pd.DataFrame) -> list[Claim]:
    shown = ladders[ladders["ladder"].isin(list(LADDERS))]
    outcomes = words(holm(shown["p"].to_numpy()), shown["difference"].to_numpy())
    return [
        Claim(LADDERS[row["ladder"]], outcome, _equal(row))
        for (_, row), outcome in zip(shown.iterrows(), outcomes, strict=True)
    ]


def _equal(row: pd.Series) -> str:
    missing = f"no overlap in {100 * row['no_overlap']:.0f} % of replicates"
    if pd.isna(row["difference"]):
        return missing
    ends = row["difference_low"], row["difference_high"]
    return f"{_shown(row['difference'], *ends, 'novelty')}, {missing}"


def _shown(value: float, low: float, high: float, name: str) -> str:
    if name == "accuracy":
        return f"{100 * value:+.2f} % [{100 * low:+.2f}, {100 * high:+.2f}]"
    return f"{value:+.3f} similarity [{low:+.3f}, {high:+.3f}]"


def p_value(value: float) -> str:
    """Three digits, or a bound."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"

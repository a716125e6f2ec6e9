"""What is claimed of the generated models: differences, each positive if the paper is right.

The unit is a whole pipeline, with its own base net and checkpoints. Only the primary claims get a
word, corrected for their number; all other differences are described by their interval. Within one
run that is paired on the test images (`bootstrap.interval_around`) and says nothing of others.

Axes: P pipelines.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pdiff.config import NoveltyConfig
from pdiff.novelty.inference import equivalence_p, holm, t_interval, t_p, t_power

Kind = Literal["accuracy", "similarity", "score"]
"""What a difference is of: accuracies as fractions, IoU of wrong predictions, or the score of a
task other than classification, in the units that papers print."""
Word = Literal["better", "worse", "equal within the margin", "unknown"]
ALPHA = 0.05
"""The error of each kind of word over all primary claims, and of each interval on its own."""


@dataclass(frozen=True)
class Claim:
    """A difference with its 95 % interval, and for a primary claim its word."""

    text: str
    kind: Kind
    estimate: float
    low: float
    high: float
    differences: tuple[float, ...] = ()
    """One a pipeline, whose mean is the estimate; empty within one run."""
    word: Word | None = None
    """None where the difference is only described."""
    p: float = math.nan
    """Two-sided, of no difference, adjusted for all primary claims (Holm)."""
    power: float = math.nan
    """The chance to find a difference as large as the margin, at Holm's first step."""


def shown(value: float, kind: Kind) -> str:
    """A difference with its sign, in percentage points, IoU or the score's unit; `-` for NaN."""
    if math.isnan(value):
        return "-"
    if kind == "similarity":
        return f"{value:+.3f}"
    return f"{100 * value if kind == 'accuracy' else value:+.2f}"


def bracket(low: float, high: float, kind: Kind) -> str:
    """An interval of a difference; `-` where there is none."""
    return "-" if math.isnan(low) else f"[{shown(low, kind)}, {shown(high, kind)}]"


def over_pipelines(text: str, kind: Kind, differences: Sequence[float]) -> Claim:
    """The mean over pipelines with Student's interval; fewer than two have none."""
    values = np.array(differences, dtype=float)
    low, high = t_interval(values, ALPHA)
    estimate = float(values.mean()) if len(values) else math.nan
    return Claim(text, kind, estimate, low, high, tuple(values.tolist()))


def judge(primary: Sequence[Claim], margins: Mapping[Kind, float]) -> list[Claim]:
    """The primary claims over pipelines with their words.

    *Better* and *worse*: Holm's p over all of them is at most `ALPHA`. Otherwise *equal within the
    margin*: Holm's p of the equivalence tests is; otherwise *unknown*. A claim of fewer than two
    pipelines stays without a word, and still counts as one of them.
    """
    values = [np.array(claim.differences) for claim in primary]
    limits = [margins[claim.kind] for claim in primary]
    differ = holm(np.array([t_p(v) for v in values]))
    equal = holm(np.array([equivalence_p(v, m) for v, m in zip(values, limits, strict=True)]))
    found = []
    for claim, own, margin, p, p_equal in zip(primary, values, limits, differ, equal, strict=True):
        word = _word(claim.estimate, p, p_equal)
        power = t_power(own, margin, ALPHA / len(primary))
        found.append(replace(claim, word=word, p=float(p), power=power))
    return found


def _word(estimate: float, p: float, p_equal: float) -> Word | None:
    if math.isnan(p):
        return None
    if p <= ALPHA:
        return "better" if estimate > 0 else "worse"
    return "equal within the margin" if p_equal <= ALPHA else "unknown"


def margins(config: NoveltyConfig) -> dict[Kind, float]:
    """The margins of equivalence, which are fixed before any result is seen."""
    return {"accuracy": config.margin_accuracy, "similarity": config.margin_similarity}

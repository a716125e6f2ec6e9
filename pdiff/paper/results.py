"""What a row of a table measured: numbers over seeds, with their 95 % intervals.

Axes: R bootstrap replicates.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float

from pdiff.novelty.bootstrap import Replicates, by_group, interval_around
from pdiff.paper.definitions import Claim, Row
from pdiff.paper.experiments import Experiment, Result

MODELS = "data/models.csv"
REPLICATES = "data/bootstrap.csv"
HEADLINE = {  # where `metrics/novelty.json` has our measures; group and statistic of replicates
    "original_best": ("accuracy.original_best", "original", "best"),
    "original_mean": ("accuracy.original_mean", "original", "accuracy"),
    "ensemble": ("accuracy.ensemble", "ensemble", "accuracy"),
    "generated_best": ("accuracy.generated_best", "generated", "best"),
    "generated_mean": ("accuracy.generated_mean", "generated", "accuracy"),
    "original_similarity": ("similarity.original_max_mean", "original", "similarity"),
    "generated_similarity": ("similarity.generated_max_mean", "generated", "similarity"),
    "generated_similarity_low": ("similarity.generated_max_low", "generated", "similarity_low"),
    "generated_similarity_high": ("similarity.generated_max_high", "generated", "similarity_high"),
}


@dataclass
class Measured:
    """A row with the experiments that it consists of, one a seed, and what they left."""

    row: Row
    experiments: Sequence[Experiment]
    results: Sequence[Result | None]
    failures: Mapping[str, str] = field(default_factory=dict)
    """Why experiments failed, by their sha."""

    @property
    def found(self) -> list[Result]:
        return [result for result in self.results if result is not None]

    @property
    def status(self) -> str:
        """`run`, `2 of 3 seeds`, `not run` or `failed: why`."""
        reasons = [self.failures[e.sha] for e in self.experiments if e.sha in self.failures]
        if reasons:
            return f"failed: {reasons[0]}"
        if not self.found:
            return "not run"
        if len(self.found) < len(self.results):
            return f"{len(self.found)} of {len(self.results)} seeds"
        return "run"

    @property
    def not_run(self) -> list[Experiment]:
        pairs = zip(self.experiments, self.results, strict=True)
        return [experiment for experiment, result in pairs if result is None]

    @property
    def commits(self) -> str:
        return " ".join(dict.fromkeys(result.commit for result in self.found))

    @property
    def locks(self) -> str:
        return " ".join(result.lock for result in self.found)

    def value(self, measure: str) -> float:
        """The mean over seeds; NaN where nothing has run."""
        values = self._values(measure)
        return sum(values) / len(values) if values else math.nan

    def spread(self, measure: str) -> float:
        """Standard deviation over seeds; NaN for fewer than two."""
        values = self._values(measure)
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    def _values(self, measure: str) -> list[float]:
        """One number a seed that has run; NaN where the experiment has none, null in its JSON."""
        section, key = HEADLINE[measure][0].split(".")
        values = [result.metrics[section].get(key) for result in self.found]
        return [math.nan if value is None else value for value in values]

    def interval(self, measure: str) -> tuple[float, float]:
        """95 %, over images and models and averaged over seeds; NaN without replicates."""
        draws = self.replicates(measure)
        if draws is None:
            return math.nan, math.nan
        return interval_around(self.value(measure), draws)

    def replicates(self, measure: str) -> Float[np.ndarray, " R"] | None:
        """The mean over seeds of replicates that are paired on the images."""
        _, group, statistic = HEADLINE[measure]
        draws = [getattr(groups[group], statistic) for groups in self._groups]
        if not draws or len({len(own) for own in draws}) > 1:
            return None
        return sum(draws) / len(draws)

    @cached_property
    def _groups(self) -> list[dict[str, Replicates]]:
        """The replicates of each seed; none where those of one are missing."""
        frames = [result.frame(REPLICATES) for result in self.found]
        return [] if any(f is None for f in frames) else [by_group(f) for f in frames]

    @cached_property
    def models(self) -> pd.DataFrame | None:
        """Every model of every seed: group, accuracy, max_similarity and the seed's number."""
        frames = [result.frame(MODELS) for result in self.found]
        if not frames or any(frame is None for frame in frames):
            return None
        return pd.concat([f.assign(seed=i) for i, f in enumerate(frames)], ignore_index=True)

    def count(self, group: str) -> int:
        """Models of a group in all seeds, 0 where that is not known."""
        return 0 if self.models is None else int((self.models["group"] == group).sum())


@dataclass(frozen=True)
class Verdict:
    """A claim, the difference that it says is positive, and what the interval says of it."""

    text: str
    measure: str
    difference: float
    low: float
    high: float

    @property
    def word(self) -> str:
        return "not run" if math.isnan(self.low) else word(self.low, self.high)


def word(low: float, high: float) -> str:
    """What an interval says of a claim that the difference is positive."""
    if low > 0:
        return "holds"
    return "does not hold" if high < 0 else "cannot tell"


def judge(claim: Claim, rows: Mapping[str, Measured]) -> Verdict:
    """The difference of two measures, paired on the test images."""
    (a, measure_a), (b, measure_b) = claim.larger, claim.smaller
    first, second = rows[a], rows[b]
    difference = first.value(measure_a) - second.value(measure_b)
    larger, smaller = first.replicates(measure_a), second.replicates(measure_b)
    low = high = math.nan
    if larger is not None and smaller is not None and len(larger) == len(smaller):
        low, high = interval_around(difference, larger - smaller)
    return Verdict(claim.text, measure_a, difference, low, high)

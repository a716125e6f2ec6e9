"""Judge the paper's claims over several runs, and keep `results/verdict.md`.

Axes: R bootstrap replicates, U units of inference (pipelines, or runs).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float

from pdiff.novelty.inference import Combined, combine_seeds, holm, holm_levels
from pdiff.paper.claims import CLAIMS, Claim
from pdiff.paper.results import word
from pdiff.paper.runs import Measure, NotRun, Run, Seed

LEVEL = 0.95
MIN_BASES = 3
"""With fewer bases, and several models on each, the run is the unit and not the pipeline."""


@dataclass(frozen=True)
class Learned:
    """Row 0: did the generators of these runs learn?"""

    runs: Sequence[Run]

    @cached_property
    def word(self) -> str:
        """`fits` if more than half of the runs do; `not measured` if none is known not to."""
        if 2 * self.fitted > len(self.runs):
            return "fits"
        return "does not fit" if self.unfitted else "not measured"

    @property
    def share(self) -> str:
        """The runs that the word is true of."""
        counts = {"fits": self.fitted, "does not fit": len(self.unfitted)}
        count = counts.get(self.word, len(self.runs) - self.fitted)
        return f"{count} of {len(self.runs)} runs"

    @property
    def unfitted(self) -> list[Run]:
        return [run for run in self.runs if run.missed]

    @property
    def fitted(self) -> int:
        return sum(run.missed == [] for run in self.runs)

    @cached_property
    def numbers(self) -> dict[str, float]:
        """`pdiff.paper.runs.FIT`, the mean over the runs that have measured it."""
        return pd.DataFrame([run.fit for run in self.runs]).mean().to_dict()


UNTOLD = {"does not fit": "unfitted", "not measured": "fit not measured"}
"""What a claim is called whatever its interval says, by the word for its generators."""


@dataclass(frozen=True)
class Judged:
    """A claim and what the runs say of it."""

    claim: Claim
    seeds: Sequence[Seed]
    """Those that have what the claim needs."""
    measures: Sequence[Measure]
    """The difference in each of them; empty where nothing can be said."""
    reason: str = ""
    """Why there is no difference."""
    off: bool = False
    """There is none because p-diff's accuracy lies off the noise ladder."""
    combined: Combined | None = None
    """At the level that Holm's correction leaves."""
    level: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan

    @cached_property
    def word(self) -> str:
        if self.combined is None:
            return "cannot tell" if self.off else "not run"
        found = word(self.combined.low, self.combined.high)
        return found if found == "cannot tell" else UNTOLD.get(self.learned.word, found)

    @cached_property
    def learned(self) -> Learned:
        """Of the generators that win if the claim holds."""
        return Learned([seed.run(self.claim.about) for seed in self.seeds])

    @property
    def by_base(self) -> dict[int, float]:
        """The mean difference on each base; nothing where there is no difference."""
        found: dict[int, list[float]] = {}
        for seed, measure in zip(self.seeds, self.measures, strict=bool(self.measures)):
            found.setdefault(seed.base, []).append(measure.estimate)
        return {base: float(np.mean(values)) for base, values in found.items()}


def judge_all(seeds: Sequence[Seed], claims: Sequence[Claim] = CLAIMS) -> list[Judged]:
    """All claims, corrected for their number as Holm (1979) does."""
    tried = [_measure(claim, seeds) for claim in claims]
    tested = [i for i, judged in enumerate(tried) if judged.measures]
    p = np.array([_combine(tried[i], LEVEL).p for i in tested])
    for i, own, adjusted, level in zip(tested, p, holm(p), holm_levels(p, LEVEL), strict=True):
        combined = _combine(tried[i], float(level))
        tried[i] = replace(tried[i], combined=combined, level=float(level), p=float(own))
        tried[i] = replace(tried[i], p_holm=float(adjusted))
    return tried


def _measure(claim: Claim, seeds: Sequence[Seed]) -> Judged:
    """The claim's difference in every run that has it."""
    used, measures, missing = [], [], []
    for seed in seeds:
        try:
            measures.append(claim.measure(seed))
            used.append(seed)
        except NotRun as error:
            missing.append(str(error))
    return Judged(claim, used, measures, "" if used else ", ".join(dict.fromkeys(missing)))


def _combine(judged: Judged, level: float) -> Combined:
    """Over pipelines where there are enough bases, otherwise over runs."""
    estimates, replicates = [], []
    for unit in units(judged.seeds):
        estimates.append(np.mean([judged.measures[i].estimate for i in unit]))
        replicates.append(np.mean([judged.measures[i].replicates for i in unit], 0))
    return combine_seeds(np.array(estimates), _stack(replicates), level)


def _stack(replicates: Sequence[Float[np.ndarray, " R"]]) -> Float[np.ndarray, "U _"]:
    """Without the replicates in which some unit has no difference."""
    stacked = np.stack(replicates)
    return stacked[:, ~np.isnan(stacked).any(0)]


def units(seeds: Sequence[Seed]) -> list[list[int]]:
    """The runs of each unit: all of one base where there are `MIN_BASES`, otherwise one each."""
    bases = list(dict.fromkeys(seed.base for seed in seeds))
    if len(bases) < MIN_BASES:
        return [[i] for i in range(len(seeds))]
    return [[i for i, seed in enumerate(seeds) if seed.base == base] for base in bases]


def is_conditional(seeds: Sequence[Seed]) -> bool:
    """Whether the unit is the run, so that nothing is said of other bases."""
    bases = {seed.base for seed in seeds}
    return len(bases) < min(MIN_BASES, len(seeds))

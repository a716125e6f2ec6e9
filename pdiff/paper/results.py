"""What finished experiments measured: rows of a table over seeds, and whole pipelines.

Axes: R bootstrap replicates.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from pdiff.config import GenerateConfig
from pdiff.diffusion.bars import missed_bars
from pdiff.novelty.bootstrap import Replicates, by_group, interval_around
from pdiff.novelty.claims import Claim, Kind
from pdiff.paper.complete import seed_list
from pdiff.paper.definitions import Row
from pdiff.paper.experiments import Experiment, Library, Result, make_experiment
from pdiff.system.errors import InputError
from pdiff.tracking.files import read_json

MODELS = "data/models.csv"
REPLICATES = "data/bootstrap.csv"
AUDIT = "metrics/audit.json"
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


def difference(
    text: str, larger: tuple[str, str], smaller: tuple[str, str], rows: Mapping[str, Measured]
) -> Claim:
    """One measure of one row less another, each (label, measure), described and not tested.

    All seeds of a table share one base net, so the interval is paired on the test images; it is
    NaN where a row has no replicates.
    """
    (first, a), (second, b) = ((rows[label], measure) for label, measure in (larger, smaller))
    estimate, x, y = first.value(a) - second.value(b), first.replicates(a), second.replicates(b)
    kind: Kind = "similarity" if "similarity" in a else "accuracy"
    if x is None or y is None or len(x) != len(y):
        return Claim(text, kind, estimate, math.nan, math.nan)
    return Claim(text, kind, estimate, *interval_around(estimate, x - y))


ABLATIONS = ("checkpoints_10", "noise_latent", "noise_param", "noise_none")
"""What a verdict describes beside the experiment itself, which is called ""."""


@dataclass(frozen=True)
class Setting:
    """What all runs of one verdict share."""

    recipe: str
    data: str
    net: str
    overrides: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Where images lie does not tell settings apart, other overrides do."""
        other = [o for o in self.overrides if not o.startswith("data.root=")]
        return ", ".join([self.data, self.net, f"recipe {self.recipe}", *other])

    def experiment(self, base: int, model: int, ablation: str = "") -> Experiment:
        chosen = (f"recipe={self.recipe}", f"data={self.data}", f"net={self.net}")
        more = (f"ablation={ablation}",) if ablation else ()
        seeds = (f"seed.base={base}", f"seed.model={model}")
        return make_experiment([*chosen, *more, *self.overrides, *seeds])


@dataclass(frozen=True)
class Run:
    """A finished experiment."""

    result: Result
    params: Mapping[str, Any]

    @cached_property
    def means(self) -> pd.DataFrame:
        """Each group's mean accuracy, choosing_accuracy and max_similarity; `chosen`: its accuracy.

        The chosen model is the one that the choosing split likes best, of equal ones the first.
        """
        models = self.result.frame(MODELS)
        if models is None:
            raise InputError(f"{self.result.name}: {MODELS} is not on this machine; `dvc pull`")
        groups = models.groupby("group", sort=False)
        chosen = models.loc[groups["choosing_accuracy"].idxmax()].set_index("group")["accuracy"]
        columns = ["accuracy", "choosing_accuracy", "max_similarity"]
        return groups[columns].mean().assign(chosen=chosen)

    def mean(self, group: str, column: str) -> float:
        """A column of `means`; NaN for a group that is not there."""
        return float(self.means[column].get(group, math.nan))

    def metric(self, section: str, name: str) -> float:
        """A number of a section of metrics/novelty.json, or of `audit`; NaN where it has none."""
        audit = section == "audit"
        values = (
            read_json(self.result.tree, AUDIT) if audit else self.result.metrics.get(section, {})
        )
        value = values.get(name)
        return math.nan if value is None else float(value)

    @cached_property
    def missed(self) -> list[str] | None:
        """The bars that the generator misses; None for a run that has not measured its fit."""
        found = self.result.metrics.get("fit")
        if found is None:
            return None
        config = GenerateConfig.model_validate(self.params["generate"])
        return missed_bars(found, config, self.params["autoencoder"]["min_r2"])


Pair = tuple[int, int]
"""seed.base and seed.model."""
Runs = Mapping[str, Run]
"""The runs of one pair, by ablation; "" is the experiment itself."""


def seed_pairs(models: str, bases: str | None, whole: bool) -> list[Pair]:
    """Whole pipelines have both seeds equal; otherwise each base goes with each model."""
    seeds = seed_list(models, "--seeds")
    if whole and bases:
        raise InputError("--base-seeds: --whole gives each pipeline its own base")
    if whole:
        return [(seed, seed) for seed in dict.fromkeys(seeds)]
    pairs = [(base, model) for base in seed_list(bases or "0", "--base-seeds") for model in seeds]
    return list(dict.fromkeys(pairs))


def gather(
    setting: Setting, pairs: Sequence[Pair], library: Library, failures: Mapping[str, str]
) -> tuple[dict[Pair, Runs], list[str]]:
    """What has run, the experiment itself at least; and a line for each run that is not there.

    `failures` says why some did not run, by sha; ablations that nobody asked for are no failure.
    """
    found, absent = {}, []
    for pair in pairs:
        wanted = {name: setting.experiment(*pair, name) for name in ("", *ABLATIONS)}
        results = {name: library.find(e) for name, e in wanted.items()}
        runs = {n: Run(r, wanted[n].params) for n, r in results.items() if r is not None}
        for name, experiment in wanted.items():
            if name not in runs and (not name or experiment.sha in failures):
                absent.append(f"{experiment.name}: {failures.get(experiment.sha, 'not run')}")
        if "" in runs:
            found[pair] = runs
    return found, absent

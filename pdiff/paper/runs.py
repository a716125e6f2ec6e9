"""The runs that a verdict gathers: one experiment a pair of seeds, with its ablations.

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
from pdiff.diffusion.bars import NUMBERS, missed_bars
from pdiff.novelty.bootstrap import Replicates, by_group
from pdiff.paper.complete import seed_list
from pdiff.paper.experiments import Experiment, Library, Result, make_experiment
from pdiff.paper.results import MODELS, REPLICATES
from pdiff.system.errors import InputError
from pdiff.tracking.files import clean_name

ABLATIONS = ("checkpoints_10", "noise_latent", "noise_param", "noise_none")
"""What the claims need beside the experiment itself, which is called ""."""
WITHIN = ("generated_within", "reconstructed_within", "original_within")
FIT = (*NUMBERS, *WITHIN)
"""Did the generator learn? `pdiff.diffusion.bars`, and the mean IoU within groups."""


class NotRun(Exception):
    """What a claim needs has not been run: an ablation, or a group of models."""


@dataclass(frozen=True)
class Setting:
    """What all runs of one verdict share."""

    recipe: str
    data: str
    net: str
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its section: where images lie does not tell settings apart, other overrides do."""
        return "_".join([self.recipe, self.data, self.net, *map(clean_name, self._other)])

    @property
    def title(self) -> str:
        return ", ".join([self.data, self.net, f"recipe {self.recipe}", *self._other])

    @property
    def _other(self) -> list[str]:
        return [o for o in self.overrides if not o.startswith("data.root=")]

    def experiment(self, base: int, model: int, ablation: str = "") -> Experiment:
        chosen = (f"recipe={self.recipe}", f"data={self.data}", f"net={self.net}")
        more = (f"ablation={ablation}",) if ablation else ()
        seeds = (f"seed.base={base}", f"seed.model={model}")
        return make_experiment([*chosen, *more, *self.overrides, *seeds])


@dataclass(frozen=True)
class Measure:
    """A number of one run, with its bootstrap replicates.

    Row r stands for the same images in all runs on as many, so differences are paired.
    """

    estimate: float
    replicates: Float[np.ndarray, " R"]

    def __sub__(self, other: "Measure") -> "Measure":
        return Measure(self.estimate - other.estimate, self.replicates - other.replicates)


@dataclass(frozen=True)
class Run:
    """A finished experiment."""

    result: Result
    params: Mapping[str, Any]

    @cached_property
    def models(self) -> pd.DataFrame:
        return self._frame(MODELS)

    @cached_property
    def replicates(self) -> dict[str, Replicates]:
        return by_group(self._frame(REPLICATES))

    def _frame(self, path: str) -> pd.DataFrame:
        frame = self.result.frame(path)
        if frame is None:
            raise InputError(f"{self.result.name}: {path} is not on this machine; `dvc pull`")
        return frame

    @property
    def groups(self) -> list[str]:
        return list(self._means)

    @cached_property
    def _means(self) -> dict[str, dict[str, float]]:
        """The mean of every column of models.csv by group."""
        columns = ["accuracy", "choosing_accuracy", "max_similarity"]
        return self.models.groupby("group", sort=False)[columns].mean().to_dict("index")

    def mean(self, group: str, column: str) -> float:
        """A column of models.csv over a group's models."""
        if group not in self._means:
            raise NotRun(f"no group {group}")
        return self._means[group][column]

    def accuracy(self, group: str) -> Measure:
        return Measure(self.mean(group, "accuracy"), self._draws(group).accuracy)

    def similarity(self, group: str) -> Measure:
        return Measure(self.mean(group, "max_similarity"), self._draws(group).similarity)

    def chosen(self, group: str) -> Measure:
        """Accuracy of the model that the choosing split likes best."""
        models = self.models[self.models["group"] == group]
        place = models["choosing_accuracy"].idxmax()
        return Measure(float(models.loc[place, "accuracy"]), self._draws(group).chosen)

    def audit(self, name: str) -> pd.DataFrame | None:
        """A table of the audit; None where there was none."""
        return self.result.frame(f"report/audit/{name}.csv")

    def _draws(self, group: str) -> Replicates:
        if group not in self.replicates:
            raise NotRun(f"no replicates of {group}")
        return self.replicates[group]

    def metric(self, name: str) -> float:
        """A number of metrics/novelty.json by `section.key`; NaN where it has none."""
        section, key = name.split(".")
        value = self.result.metrics.get(section, {}).get(key)
        return math.nan if value is None else float(value)

    @cached_property
    def fit(self) -> dict[str, float]:
        """How well the generator learned, by `FIT`; NaN where that was not measured."""
        within = {name: self.metric(f"similarity.{name}") for name in WITHIN}
        return {name: self.metric(f"fit.{name}") for name in NUMBERS} | within

    @cached_property
    def missed(self) -> list[str] | None:
        """The bars that the generator misses; None for a run that has not measured its fit."""
        found = self.result.metrics.get("fit")
        if found is None:
            return None
        config = GenerateConfig.model_validate(self.params["generate"])
        return missed_bars(found, config, self.params["autoencoder"]["min_r2"])


@dataclass(frozen=True)
class Seed:
    """The runs of one pair of seeds, by ablation; "" is the experiment itself."""

    base: int
    model: int
    runs: Mapping[str, Run]
    failures: Mapping[str, str] = field(default_factory=dict)
    """Why ablations failed."""

    @property
    def label(self) -> str:
        return f"{self.base}, {self.model}"

    def run(self, ablation: str = "") -> Run:
        if ablation in self.runs:
            return self.runs[ablation]
        raise NotRun(f"ablation={ablation}" if ablation else "the experiment")


def seed_pairs(models: str, bases: str | None, whole: bool) -> list[tuple[int, int]]:
    """(seed.base, seed.model): of whole pipelines equal, otherwise each base with each model."""
    seeds = seed_list(models, "--seeds")
    if whole and bases:
        raise InputError("--base-seeds: --whole gives each pipeline its own base")
    if whole:
        return [(seed, seed) for seed in dict.fromkeys(seeds)]
    pairs = [(base, model) for base in seed_list(bases or "0", "--base-seeds") for model in seeds]
    return list(dict.fromkeys(pairs))


Wanted = Mapping[tuple[int, int], Mapping[str, Experiment]]


def wanted_experiments(setting: Setting, pairs: Sequence[tuple[int, int]]) -> Wanted:
    """For each pair of seeds the experiment and its ablations."""
    return {pair: {a: setting.experiment(*pair, a) for a in ("", *ABLATIONS)} for pair in pairs}


def gather(wanted: Wanted, library: Library, failures: Mapping[str, str]) -> list[Seed]:
    """What has run of the wanted experiments; `failures` says why some did not, by sha."""
    seeds = []
    for pair, experiments in wanted.items():
        found = {name: library.find(e) for name, e in experiments.items()}
        runs = {
            name: Run(result, experiments[name].params)
            for name, result in found.items()
            if result is not None
        }
        why = {n: failures[e.sha] for n, e in experiments.items() if e.sha in failures}
        seeds.append(Seed(*pair, runs, why))
    return seeds

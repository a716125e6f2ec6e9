"""The groups of models that are compared: what each is, how it is made, and what it is called.

A family is registered by the function that makes its groups (`baseline`); names, order, labels,
seeds and counts are read from here, colours from `pdiff.novelty.looks`. A group's name is its
family, with a level behind it where the family has several: `noised_0.15`, `soup_8`.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from pdiff.config import BaselinesConfig, Params
from pdiff.core.runtime import derive_seed
from pdiff.parameters.subset import Models, Subset
from pdiff.system.errors import InputError

AUDITED = 16 * 2**30
"""Most bytes that the parameters of all models in an audit may take; the same on every machine."""
Level = int | float | None
"""A soup's size, a rank, the std of a noise; None in a family of one group."""


@dataclass(frozen=True)
class Draw:
    """One group that is to be drawn, with the section `baselines` and the run's seed."""

    family: str
    level: Level
    config: BaselinesConfig
    run_seed: int

    @property
    def models(self) -> int:
        """The number of models of a rival."""
        return self.config.rival_models

    @property
    def seed(self) -> int:
        """A seed of this group's own."""
        level = repr(self.level) if isinstance(self.level, float) else self.level
        return derive_seed(self.run_seed, self.family, *([] if level is None else [level]))


@dataclass(frozen=True)
class Family:
    """Groups of one kind: what makes them, and what a reader is told of them."""

    label: str
    """In figures; `{}` is where the level stands, in a family that has several."""
    order: int
    """Place in tables, rising; the last ones stand at the back of a figure."""
    what: str
    """One sentence for the report."""
    paper: bool = False
    """The paper compares with it; all others are rivals that only the audit adds."""
    codec: bool = False
    """The decoder makes its parameters: from latents and `seed.model`, not `seed.base`."""
    levels: str = ""
    """Keys of the section `baselines` that list its levels; those after the first: audit only."""
    most: Callable[[int], float] = lambda count: math.inf
    """The highest level for K originals."""
    kind: str | None = None
    """The only `autoencoder.kind` that has it."""
    zoo: bool = False
    """Only zoos of independent nets have it (`baselines.zoo`)."""
    rated: bool = False
    """It is made of the originals with their validation accuracies, and of `seed.model`."""
    make: Callable[[Any, Draw], Any] | None = None
    """Makes one group: parameters from the originals, or latents from the originals' latents. None
    where a stage leaves the models on disk or chooses them."""

    def wanted(self, config: BaselinesConfig, audit: bool) -> Iterable[Level]:
        """The level of each group."""
        keys = self.levels.split()[: None if audit else 1]
        levels = dict.fromkeys(level for key in keys for level in getattr(config, key))
        return levels if keys else [None]


_GENERATED = "Latents from the diffusion model, decoded."
_SOUP = "The mean of originals, each added if the mean gets no worse on the choosing split."
_HELD_BACK = "The checkpoints that follow the K, which nothing learns from."
_FRESH = "Checkpoints of fine-tuning runs that nothing learns from, with other batches."
_SANE_SUB = "The ten models of SANE_KDE30 that do best on the validation split."

FAMILIES: dict[str, Family] = {
    "generated": Family("generated", 30, _GENERATED, paper=True, codec=True),
    "held_back": Family("held back", 80, _HELD_BACK),
    "fresh": Family("fresh run", 90, _FRESH),
    "soup_greedy": Family("greedy soup", 130, _SOUP),
    "sane_sub": Family("SANE_SUB", 63, _SANE_SUB),
}
"""By name: those that no function makes, and those that `baseline` adds."""


def baseline(label: str, order: int, **facts: Any) -> Callable:
    """Register the family that is named as the function which makes its groups.

    Its docstring is `what`; the other `facts` are fields of `Family`.
    """

    def decorate(make: Callable[[Any, Draw], Any]) -> Callable:
        FAMILIES[make.__name__] = Family(label, order, make.__doc__, make=make, **facts)
        return make

    return decorate


def draw_groups(
    known: Any,
    config: BaselinesConfig,
    seed: int,
    *,
    audit: bool,
    kind: str | None = None,
    rated: bool = False,
) -> dict[str, Any]:
    """Every group that a function makes of `known`, by name, in the order of tables.

    These are parameters made of the originals, or, with the `kind` of an autoencoder, latents made
    of the originals' latents; `rated` makes those of a `Zoo`. Without an audit they are the paper's
    alone.
    """
    groups = {}
    for family, entry in FAMILIES.items():
        ours = entry.make and entry.codec == (kind is not None) and entry.kind in (None, kind)
        ours = ours and entry.rated == rated and (config.zoo is not None or not entry.zoo)
        for level in entry.wanted(config, audit) if ours and (audit or entry.paper) else ():
            if level is None or level <= entry.most(len(known)):
                groups[name(family, level)] = entry.make(known, Draw(family, level, config, seed))
    return {group: groups[group] for group in ordered(groups)}


def count_models(params: Params) -> int:
    """How many models both stages evaluate, less the greedy soup's candidates and trajectories."""
    count, config, audit = params.finetune.checkpoints, params.baselines, params.novelty.audit
    matrix, kind = torch.zeros(count, 1), params.autoencoder.kind
    groups = draw_groups(Models(Subset({"one": (1,)}), matrix), config, 0, audit=audit)
    groups |= draw_groups(matrix, config, 0, audit=audit, kind=kind)
    fresh = min(params.finetune.fresh_checkpoints, count) if params.finetune.folder is None else 0
    unseen = params.finetune.held_back + fresh + 1 if audit else 0  # and the greedy soup
    return sum(map(len, groups.values())) + unseen + params.generate.models


def check_audit(params: Params, length: int) -> None:
    """The audit holds every model that is evaluated; `InputError` where no memory would hold them.

    `length` is the number of generated parameters.
    """
    models = count_models(params)
    if params.novelty.audit and 4 * models * length > AUDITED:
        raise InputError(
            f"novelty.audit: it would hold {models:,} models of {length:,} parameters, "
            f"{4 * models * length / 2**30:.0f} GiB of at most {AUDITED // 2**30}; set "
            "novelty.audit: false, fewer baselines.rival_models, or a smaller subset.select"
        )


def name(family: str, level: Level = None) -> str:
    """A group's name."""
    return family if level is None else f"{family}_{level:g}"


def split(group: str) -> tuple[str, float]:
    """Family and level of a group, 0 where there is none; ValueError if no family has that name."""
    family, _, number = group.rpartition("_")
    if group in FAMILIES and not FAMILIES[group].levels:
        return group, 0.0
    with suppress(ValueError):
        if family in FAMILIES and FAMILIES[family].levels and float(number) >= 0:
            return family, float(number)
    raise ValueError(f"unknown group {group!r}; families are {', '.join(FAMILIES)}")


def of_the_paper(group: str, config: BaselinesConfig) -> bool:
    """Whether it is evaluated without an audit too."""
    family, _ = split(group)
    levels = FAMILIES[family].wanted(config, audit=False)
    return FAMILIES[family].paper and group in [name(family, level) for level in levels]


def ordered(groups: Iterable[str]) -> list[str]:
    """Groups in the order of tables: by family, levels rising."""
    places = {group: split(group) for group in groups}
    return sorted(places, key=lambda group: (FAMILIES[places[group][0]].order, places[group][1]))


def label(group: str) -> str:
    """What a figure calls a group."""
    family, level = split(group)
    return FAMILIES[family].label.format(f"{level:g}")

"""The groups of models that are compared: what each is, how it is drawn, and how it is shown.

A family is registered beside the function that makes its groups (`baseline`); names, order,
labels, colours, seeds and counts are read from here. A group's name is its family, with a level
behind it where the family has several: `noised_0.15`, `soup_8`.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import Any

import matplotlib
import torch
from matplotlib.colors import to_hex

from pdiff.config import BaselinesConfig, Params
from pdiff.core.runtime import derive_seed
from pdiff.parameters.subset import Models, Subset

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
        level = (
            self.level if self.level is None or isinstance(self.level, int) else repr(self.level)
        )
        return derive_seed(self.run_seed, self.family, *([] if level is None else [level]))

    @property
    def family_seed(self) -> int:
        """A seed that all levels of the family share."""
        return derive_seed(self.run_seed, self.family)


@dataclass(frozen=True)
class Family:
    """Groups of one kind: what makes them, and what a reader is told of them."""

    label: str
    """In figures; `{}` is where the level stands, in a family that has several."""
    colour: str
    """A colour, or a matplotlib colour map for several levels, darker as they rise."""
    _: KW_ONLY
    what: str
    """One sentence for the report."""
    order: int
    """Place in tables, rising; the last ones stand at the back of a figure."""
    paper: bool = False
    """The paper compares with it; all others are rivals that only the audit adds."""
    codec: bool = False
    """The decoder makes its parameters: from latents and `seed.model`, not `seed.base`."""
    series: bool = False
    """Its models stand in the order of a training run, so neighbours are alike."""
    unseen: bool = False
    """Checkpoints of the base net that nothing learned from."""
    levels: str | None = None
    """The key of the section `baselines` that lists its levels."""
    further: str | None = None
    """The key of further levels, which only the audit adds."""
    most: Callable[[int], float] = lambda count: math.inf
    """The highest level for K originals."""
    kind: str | None = None
    """The only `autoencoder.kind` that has it."""
    make: Callable[[Any, Draw], Any] | None = None
    """Makes one group: parameters from the originals, or latents from the originals' latents. None
    where a stage leaves the models on disk or chooses them."""

    def wanted(self, config: BaselinesConfig, count: int, audit: bool) -> Iterable[Level]:
        """The level of each group, for `count` originals."""
        if self.levels is None:
            return [None]
        keys = [self.levels, self.further] if audit and self.further else [self.levels]
        found = dict.fromkeys(level for key in keys for level in getattr(config, key))
        return [level for level in found if level <= self.most(count)]


FAMILIES: dict[str, Family] = {}
"""By name, in the order of tables."""


def register(name: str, label: str, colour: str, **facts: Any) -> None:
    """Add a family; its `facts` are the fields of `Family`."""
    FAMILIES[name] = Family(label, colour, **facts)
    for other in sorted(FAMILIES, key=lambda other: FAMILIES[other].order):
        FAMILIES[other] = FAMILIES.pop(other)


def baseline(name: str, label: str, colour: str, **facts: Any) -> Callable:
    """Register the family whose groups the decorated function makes; its docstring is `what`."""

    def decorate(make: Callable[[Any, Draw], Any]) -> Callable:
        register(name, label, colour, what=make.__doc__, make=make, **facts)
        return make

    return decorate


register(
    "generated",
    "generated",
    "#d1495b",
    order=30,
    paper=True,
    codec=True,
    what="Latents from the diffusion model, decoded.",
)
register(
    "held_back",
    "held back",
    "#17becf",
    order=80,
    series=True,
    unseen=True,
    what="The checkpoints that follow the K, which nothing learns from.",
)
register(
    "second_run",
    "second run",
    "#0e7c86",
    order=90,
    series=True,
    unseen=True,
    what="Checkpoints of another fine-tuning run, with other batches.",
)


def draw_groups(
    known: Any, config: BaselinesConfig, seed: int, *, codec: bool, audit: bool, kind: str = ""
) -> dict[str, Any]:
    """Every group that a function makes of `known`, by name, in the order of tables.

    With `codec` these are latents made of the originals' latents, for an autoencoder of this
    `kind`; else parameters made of the originals. Without an audit they are the paper's alone.
    """
    groups = {}
    for family, entry in FAMILIES.items():
        if entry.make is None or entry.codec != codec or entry.kind not in (None, kind):
            continue
        if audit or entry.paper:
            for level in entry.wanted(config, len(known), audit):
                groups[name(family, level)] = entry.make(known, Draw(family, level, config, seed))
    return groups


def made_of_originals(params: Params) -> int:
    """How many models `evaluate_originals` evaluates, less the candidates of the greedy soup."""
    config, audit = params.finetune, params.novelty.audit
    tiny = Models(Subset({"one": (1,)}), torch.zeros(config.checkpoints, 1))
    groups = draw_groups(tiny, params.baselines, 0, codec=False, audit=audit)
    second = min(config.second_run, config.checkpoints) if config.folder is None else 0
    chosen = config.held_back + second + 1 if audit else 0
    return sum(map(len, groups.values())) + chosen


def made_by_codec(params: Params) -> int:
    """How many models `evaluate_generated` evaluates, less those along trajectories."""
    tiny, audit = torch.zeros(params.finetune.checkpoints, 1), params.novelty.audit
    kind = params.autoencoder.kind
    groups = draw_groups(tiny, params.baselines, 0, codec=True, audit=audit, kind=kind)
    return params.generate.models + sum(map(len, groups.values()))


def name(family: str, level: Level = None) -> str:
    """A group's name."""
    return family if level is None else f"{family}_{level:g}"


def family(group: str) -> str:
    """The family of a group; ValueError if there is none of that name."""
    kind, _, number = group.rpartition("_")
    with suppress(ValueError):
        if _has_levels(kind) and float(number) >= 0:
            return kind
    if group in FAMILIES and not _has_levels(group):
        return group
    raise ValueError(f"unknown group {group!r}; families are {', '.join(FAMILIES)}")


def _has_levels(kind: str) -> bool:
    return kind in FAMILIES and "{}" in FAMILIES[kind].label


def level(group: str) -> float:
    """The number in a group's name; 0 where there is none."""
    return 0.0 if group in FAMILIES else float(group.rpartition("_")[2])


def of_the_paper(group: str, config: BaselinesConfig) -> bool:
    """Whether it is evaluated without an audit too."""
    kind = family(group)
    entry = FAMILIES[kind]
    levels = getattr(config, entry.levels) if entry.levels else [None]
    return entry.paper and group in [name(kind, own) for own in levels]


def ordered(groups: Iterable[str]) -> list[str]:
    """Groups in the order of tables: by family, levels rising."""
    kinds = list(FAMILIES)
    return sorted(groups, key=lambda group: (kinds.index(family(group)), level(group)))


def label(group: str) -> str:
    """What a figure calls a group."""
    return FAMILIES[family(group)].label.format(f"{level(group):g}")


def colour(group: str, groups: Iterable[str]) -> str:
    """A group's colour, where `groups` are shown together."""
    own = FAMILIES[family(group)].colour
    if own.startswith("#"):
        return own
    others = [other for other in ordered(groups) if family(other) == family(group)]
    place = (others.index(group) + 1) / len(others)
    return to_hex(matplotlib.colormaps[own](0.3 + 0.6 * place))

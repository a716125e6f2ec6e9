"""The groups of models that are compared: how they are called, ordered, labelled and coloured.

A group's name is its family, with a level or size behind it where there are several: `noised_0.15`,
`soup_8`.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import matplotlib
from matplotlib.colors import to_hex


@dataclass(frozen=True)
class Family:
    """Groups of one kind, with what a reader is told of them."""

    label: str
    """In figures; `{}` is where the level stands."""
    colour: str
    """Of a single group, or a matplotlib colour map for several, darker as they rise."""
    what: str
    """One sentence for the report."""


FAMILIES = {
    "original": Family("original", "#3b6fb6", "The K checkpoints that the autoencoder learns."),
    "ensemble": Family("ensemble", "#000000", "The mean of all originals, one model."),
    "generated": Family("generated", "#d1495b", "Latents from the diffusion model, decoded."),
    "reconstructed": Family(
        "reconstructed", "#e0a030", "Originals, encoded and decoded: what the codec alone does."
    ),
    "reconstructed_noise": Family(
        "reconstructed, latent noise {}",
        "YlOrBr",
        "Originals whose latents get Gaussian noise of this std before they are decoded.",
    ),
    "latent_gaussian": Family(
        "Gaussian of latents", "#8c564b", "Decoded from a Gaussian fitted to the latents."
    ),
    "vae_prior": Family("VAE prior", "#7f6a93", "Decoded from N(0, I): the VAE as a generator."),
    "held_back": Family(
        "held back", "#17becf", "The checkpoints that follow the K, which nothing learns from."
    ),
    "second_run": Family(
        "second run", "#0e7c86", "Checkpoints of another fine-tuning run, with other batches."
    ),
    "ema": Family("exponential average", "#9467bd", "Exponential average along the run."),
    "interpolated": Family(
        "interpolated", "#c77dba", "A random point between two random originals."
    ),
    "soup": Family("soup of {}", "Purples", "The mean of so many random originals."),
    "soup_greedy": Family(
        "greedy soup",
        "#4a148c",
        "The mean of originals, each added if the choosing split likes it.",
    ),
    "projected": Family(
        "rank {}", "RdPu", "Originals projected on their first N principal components."
    ),
    "gaussian_diagonal": Family(
        "Gaussian, independent", "#bcbd22", "A Gaussian for each parameter on its own."
    ),
    "gaussian_full": Family(
        "Gaussian, full", "#7a7d00", "A Gaussian with the originals' covariance, in their span."
    ),
    "noised": Family(
        "noise {}", "Greens", "Originals with noise in units of each tensor's std (authors')."
    ),
    "absolute": Family("absolute noise {}", "Greys", "Originals with noise of this std."),
}
"""In the order of tables and figures; the last ones stand at the back of a figure."""

MAIN = ("original", "ensemble", "generated", "reconstructed", "noised")
"""What the paper compares; all other families are rivals that the audit adds."""


def name(family: str, level: float | None = None) -> str:
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

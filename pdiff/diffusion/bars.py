"""Did the generator learn? The numbers that say so, and the bars that they have to reach.

Report, verdict and warnings ask `missed_bars`. The numbers are measured elsewhere: R2 where the
codec is trained, the latents in stage `generate`, the similarities in stage `novelty`.
"""

import math
from collections.abc import Mapping, Sequence

from pdiff.config import GenerateConfig

Numbers = Mapping[str, float | int | None]
"""None or NaN is a number that is not defined, as the loss on held-out latents without any."""

NUMBERS = (
    "r2",
    *("variance_first", "variance_least", "variance_median", "variance_most", "outside"),
    *("loss_held_out", "loss_training", "loss_gaussian"),
    "reconstructed_more_alike",
)
"""R2 of the codec, `pdiff.diffusion.fit` of the latents, and the mean similarity within the
reconstructed group minus that within the originals."""
SLACK = 0.01
"""By this share the loss on held-out latents may exceed a Gaussian's, as draws differ."""
MORE_ALIKE = 0.03
"""By this much the reconstructed models may be more alike than the originals."""


def fit_numbers(codec: Numbers, latents: Numbers, similarity: Numbers) -> dict[str, float | None]:
    """`NUMBERS` from the metrics of train_autoencoder and generate, and from `report.headline`."""
    more_alike = similarity["reconstructed_within"] - similarity["original_within"]
    known = {**latents, "r2": codec["r2"], "reconstructed_more_alike": more_alike}
    return {name: known[name] for name in NUMBERS}


def missed_bars(fit: Numbers, config: GenerateConfig, min_r2: float) -> list[str]:
    """What of `NUMBERS` misses a bar, in words; the generator fits where this is empty."""
    r2, more_alike = _float(fit["r2"]), _float(fit["reconstructed_more_alike"])
    missed = []
    if not r2 >= min_r2:  # also where it is not defined: equal checkpoints
        missed.append(f"the codec's R² is {r2:.2f} (autoencoder.min_r2: {min_r2:g})")
    if more_alike > MORE_ALIKE:
        missed.append(
            f"reconstructed models are more alike than the originals by {more_alike:.3f} "
            f"(at most {MORE_ALIKE:g})"
        )
    return missed + missed_latent_bars(fit, config)


def missed_latent_bars(fit: Numbers, config: GenerateConfig) -> list[str]:
    """The part of `missed_bars` that stage `generate` can tell."""
    low, high = config.variance_ratio
    least, most = _float(fit["variance_least"]), _float(fit["variance_most"])
    outside = _float(fit["outside"])
    missed = []
    if not (low <= least and most <= high):  # also where latents do not vary
        missed.append(
            f"along the originals' leading directions generated latents have {least:.2f} to "
            f"{most:.2f} of their variance (generate.variance_ratio: {low:g} to {high:g})"
        )
    if outside > config.max_outside:
        missed.append(
            f"{outside:.0%} of their variance lies outside these directions (generate.max_outside: "
            f"{config.max_outside:g})"
        )
    held_out, gaussian = _float(fit["loss_held_out"]), _float(fit["loss_gaussian"])
    if held_out > (1 + SLACK) * gaussian:
        missed.append(
            f"the denoising loss on held-out latents is {held_out:.3f}, and that of a Gaussian of "
            f"the latents {gaussian:.3f}"
        )
    return missed


def describe(fit: Numbers, similarity: Numbers) -> str:
    """The numbers in two sentences."""
    number = {name: _float(value) for name, value in fit.items()}
    within = {g: _float(similarity[f"{g}_within"]) for g in ("reconstructed", "original")}
    losses = (
        "no latents were held out"
        if math.isnan(number["loss_held_out"])
        else f"the denoising loss is {number['loss_held_out']:.3f} on held-out latents, "
        f"{number['loss_training']:.3f} on those it learned from and "
        f"{number['loss_gaussian']:.3f} for a Gaussian of these"
    )
    return (
        f"The codec explains R² = {number['r2']:.3f} of the checkpoints' deviation from their "
        f"mean; the mean similarity is {within['reconstructed']:.3f} among reconstructed models "
        f"and {within['original']:.3f} among originals. Along the originals' leading latent "
        f"directions generated latents have {number['variance_least']:.2f} to "
        f"{number['variance_most']:.2f} of their variance "
        f"({number['variance_first']:.2f} along the first), with "
        f"{number['outside']:.1%} of it outside; {losses}."
    )


def conclusion(missed: Sequence[str]) -> str:
    """Whether anything can be said of the method, in one sentence."""
    if not missed:
        return "The generator fits."
    return (
        f"The generator does not fit: {'; '.join(missed)}; no claim about the method can be made "
        "from this run."
    )


def one_line(fit: Numbers, missed: Sequence[str]) -> str:
    """All numbers and the word, for a terminal."""
    shown = (f"{name} {_float(value):.3f}" for name, value in fit.items())
    return f"generator {'does not fit' if missed else 'fits'}: {', '.join(shown)}"


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)

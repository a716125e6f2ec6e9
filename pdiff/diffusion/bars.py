"""Did the generator learn? The numbers that say so, and the bars that they have to reach.

Report, verdict and warnings ask `missed_bars`. Stage `train_autoencoder` measures R2, `generate`
the latents, `novelty` the similarities.
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
"""The loss on held-out latents may exceed a Gaussian's by this share, as draws differ."""
MORE_ALIKE = 0.03
"""The reconstructed models may be more alike than the originals by this similarity."""


def fit_numbers(codec: Numbers, latents: Numbers, similarity: Numbers) -> dict[str, float | None]:
    """`NUMBERS` from the metrics of train_autoencoder and generate, and the headline."""
    more_alike = similarity["reconstructed_within"] - similarity["original_within"]
    known = {**latents, "r2": codec["r2"], "reconstructed_more_alike": more_alike}
    return {name: known[name] for name in NUMBERS}


def missed_bars(fit: Numbers, config: GenerateConfig, min_r2: float) -> list[str]:
    """Each bar that the numbers miss, in words; empty if the generator fits."""
    number, missed = _floats(fit), []
    if not number["r2"] >= min_r2:  # also where it is not defined: equal checkpoints
        missed.append(f"the codec's R² is {number['r2']:.2f} (autoencoder.min_r2: {min_r2:g})")
    if number["reconstructed_more_alike"] > MORE_ALIKE:
        missed.append(
            "reconstructed models are more alike than the originals by "
            f"{number['reconstructed_more_alike']:.3f} (at most {MORE_ALIKE:g})"
        )
    return missed + missed_latent_bars(fit, config)


def missed_latent_bars(fit: Numbers, config: GenerateConfig) -> list[str]:
    """The part of `missed_bars` that stage `generate` can tell."""
    number, missed = _floats(fit), []
    low, high = config.variance_ratio
    least, most = number["variance_least"], number["variance_most"]
    if not (low <= least and most <= high):  # also where latents do not vary
        missed.append(
            f"along the originals' leading directions generated latents have {least:.2f} to "
            f"{most:.2f} of their variance (generate.variance_ratio: {low:g} to {high:g})"
        )
    if number["outside"] > config.max_outside:
        missed.append(
            f"{number['outside']:.0%} of their variance lies outside these directions "
            f"(generate.max_outside: {config.max_outside:g})"
        )
    if number["loss_held_out"] > (1 + SLACK) * number["loss_gaussian"]:
        missed.append(
            f"the denoising loss on held-out latents is {number['loss_held_out']:.3f}, and that "
            f"of a Gaussian of the latents {number['loss_gaussian']:.3f}"
        )
    return missed


def describe(fit: Numbers, similarity: Numbers) -> str:
    """The numbers in two sentences."""
    number = _floats({**similarity, **fit})
    losses = (
        "no latents were held out"
        if math.isnan(number["loss_held_out"])
        else "the denoising loss is {loss_held_out:.3f} on held-out latents, {loss_training:.3f} "
        "on those it learned from and {loss_gaussian:.3f} for a Gaussian of these"
    )
    text = (
        "The codec explains R² = {r2:.3f} of the checkpoints' deviation from their mean; the mean "
        "similarity is {reconstructed_within:.3f} among reconstructed models and "
        "{original_within:.3f} among originals. Along the originals' leading latent directions "
        "generated latents have {variance_least:.2f} to {variance_most:.2f} of their variance "
        "({variance_first:.2f} along the first), with {outside:.1%} of it outside; "
    )
    return f"{text}{losses}.".format(**number)


def conclusion(missed: Sequence[str]) -> str:
    """Whether anything can be said of the method, in one sentence."""
    if not missed:
        return "The generator fits."
    return (
        f"The generator does not fit: {'; '.join(missed)}; no claim about the method can be made "
        "from this run."
    )


def caveats(
    missed: Sequence[str],
    accuracies: Mapping[str, float],
    guess: float,
    drop: float,
    most: float,
) -> list[str]:
    """What earlier stages warned of, from their metrics: whether DVC ran them now or not.

    `missed` are bars of the generator; `accuracies` those of the base net and the originals,
    which must exceed that of a `guess`; reconstructed checkpoints may lose `most` of it.
    """
    found = [conclusion(missed)] if missed else []
    found += [
        f"The accuracy of {name} is {value:.4f}; guessing reaches {guess:.4f}."
        for name, value in accuracies.items()
        if value <= guess
    ]
    if drop > most:
        found.append(
            f"Reconstructed checkpoints lose {drop:.4f} of mean test accuracy "
            f"(evaluate.max_accuracy_drop: {most})."
        )
    return found


def one_line(fit: Numbers, missed: Sequence[str]) -> str:
    """All numbers and the word, for a terminal."""
    shown = (f"{name} {value:.3f}" for name, value in _floats(fit).items())
    return f"generator {'does not fit' if missed else 'fits'}: {', '.join(shown)}"


def _floats(numbers: Numbers) -> dict[str, float]:
    return {name: math.nan if value is None else float(value) for name, value in numbers.items()}

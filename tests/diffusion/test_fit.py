"""Whether a generator learned, by hand-made numbers: one bar missed at a time."""

import math

import pytest

from pdiff.diffusion.bars import NUMBERS, conclusion, describe, fit_numbers, missed_bars, one_line
from tests.toys.runs import FIT

WITHIN = {"reconstructed_within": 0.71, "original_within": 0.70, "generated_within": 0.9}


def missed(params, **numbers: float | None) -> list[str]:
    return missed_bars(FIT | numbers, params.generate, min_r2=0.1)


def test_the_numbers_are_those_of_the_stages(params):
    codec = {"r2": 0.98, "mse": 0.1}
    latents = {n: i for i, n in enumerate(NUMBERS[1:-1])} | {"directions": 5}
    found = fit_numbers(codec, latents, WITHIN)
    assert tuple(found) == NUMBERS
    assert (found["r2"], found["variance_first"], found["loss_gaussian"]) == (0.98, 0, 7)
    assert found["reconstructed_more_alike"] == pytest.approx(0.01)


def test_a_generator_on_its_bars_fits(params):
    low, high = params.generate.variance_ratio
    edge = {"r2": 0.1, "variance_least": low, "variance_most": high, "loss_held_out": 0.6}
    assert missed(params, **edge, outside=0.05, reconstructed_more_alike=0.03) == []


@pytest.mark.parametrize(
    ("number", "value", "words"),
    [
        ("r2", 0.09, "R² is 0.09 (autoencoder.min_r2: 0.1)"),
        ("r2", None, "R² is nan"),
        (
            "reconstructed_more_alike",
            0.031,
            "more alike than the originals by 0.031 (at most 0.03)",
        ),
        ("variance_least", 0.79, "have 0.79 to 1.20 of their variance"),
        ("variance_most", 1.26, "(generate.variance_ratio: 0.8 to 1.25)"),
        ("variance_most", math.nan, "have 0.85 to nan of their variance"),
        ("outside", 0.06, "6% of their variance lies outside"),
        ("loss_held_out", 0.61, "on held-out latents is 0.610, and that of a Gaussian"),
    ],
)
def test_each_bar_can_be_missed_alone(params, number, value, words):
    (reason,) = missed(params, **{number: value})
    assert words in reason


def test_the_bars_are_those_of_the_parameters(params):
    config = params.generate.model_copy(update={"variance_ratio": (0.9, 1.1), "max_outside": 0.01})
    assert len(missed_bars(FIT, config, min_r2=0.995)) == 3


def test_what_is_not_defined_is_no_miss(params):
    assert missed(params, loss_held_out=None, loss_gaussian=None) == []
    assert missed(params, reconstructed_more_alike=math.nan) == []  # one reconstructed model


def test_the_numbers_are_said_in_words():
    assert describe(FIT, WITHIN) == (
        "The codec explains R² = 0.990 of the checkpoints' deviation from their mean; the mean "
        "similarity is 0.710 among reconstructed models and 0.700 among originals. Along the "
        "originals' leading latent directions generated latents have 0.85 to 1.20 of their "
        "variance (1.10 along the first), with 3.0% of it outside; the denoising loss is 0.540 on "
        "held-out latents, 0.500 on those it learned from and 0.600 for a Gaussian of these."
    )
    assert describe(FIT | {"loss_held_out": None}, WITHIN).endswith("; no latents were held out.")


def test_no_claim_can_be_made_with_a_missed_bar():
    assert conclusion([]) == "The generator fits."
    assert conclusion(["a", "b"]) == (
        "The generator does not fit: a; b; no claim about the method can be made from this run."
    )


def test_a_terminal_shows_all_numbers_on_one_line():
    text = one_line(FIT | {"loss_held_out": None}, ["a"])
    assert text.startswith("generator does not fit: r2 0.990, variance_first 1.100,")
    assert "loss_held_out nan" in text and "\n" not in text
    assert one_line(FIT, []).startswith("generator fits: ")

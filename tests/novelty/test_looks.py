"""Colours that colour-blind readers tell apart, computed as in the papers that define them."""

from itertools import combinations

import numpy as np
import pytest

from pdiff.baselines.registry import FAMILIES, name
from pdiff.novelty.looks import MAIN, OTHER, PAPER, look

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
XYZ = np.array(  # of sRGB's primaries, D65
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def linear(colour: str) -> np.ndarray:
    """Linear RGB of #RRGGBB."""
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear RGB."""
    ratio = XYZ @ rgb / XYZ.sum(1)
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one: str, other: str, sight: np.ndarray) -> float:
    """CIELAB distance of two colours as somebody with this sight sees them."""
    seen = [lab(np.clip(sight @ linear(colour), 0, 1)) for colour in (one, other)]
    return float(np.linalg.norm(seen[0] - seen[1]))


def test_white_and_black_have_the_known_distance():
    assert lab(linear("#ffffff")) == pytest.approx([100, 0, 0], abs=0.01)
    assert distance("#ffffff", "#000000", SIGHT["deuteranopia"]) == pytest.approx(100, abs=0.1)


def test_red_and_green_are_near_for_deuteranopia_alone():
    """The simulation tells what it has to."""
    red, green = "#d1495b", "#74a06a"
    assert distance(red, green, SIGHT["deuteranopia"]) < 30 < distance(red, green, np.eye(3))


@pytest.mark.parametrize("sight", SIGHT)
def test_the_main_groups_are_told_apart_by_colour_alone(sight):
    for one, other in combinations(MAIN, 2):
        assert distance(MAIN[one].colour, MAIN[other].colour, SIGHT[sight]) >= 15, (one, other)


@pytest.mark.parametrize("sight", SIGHT)
def test_what_is_drawn_together_differs_in_colour_or_shape(sight):
    """Named groups from each other, and from all that share the grey of the others."""
    looks = {**MAIN, **PAPER, "other": OTHER}
    for one, other in combinations(looks, 2):
        a, b = looks[one], looks[other]
        assert a.marker != b.marker or distance(a.colour, b.colour, SIGHT[sight]) >= 15, one


@pytest.mark.parametrize("group", MAIN)
def test_markers_of_the_main_groups_stand_out_from_white(group):
    """WCAG 2.1, 1.4.11: a contrast of 3."""
    luminance = XYZ[1] @ linear(MAIN[group].colour)
    assert 1.05 / (luminance + 0.05) >= 3


def test_originals_are_blue_and_generated_models_orange_as_in_the_paper():
    red, _, blue = linear(look("original").colour)
    assert blue > 2 * red
    red, green, blue = linear(look("generated").colour)
    assert red > green > blue


def test_every_group_has_a_look_and_levels_share_that_of_their_family():
    for family, entry in FAMILIES.items():
        group = name(family, 0.5 if entry.levels else None)
        assert look(group) in {*MAIN.values(), *PAPER.values(), OTHER}
    assert look("noised_0.15") == look("noised_1") == PAPER["noised"]

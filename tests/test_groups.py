"""Groups of models: their names, and which of many are taken."""

from itertools import pairwise

import pytest

from pdiff.groups import noised_name, spread_evenly


@pytest.mark.parametrize(
    ("available", "count", "expected"),
    [(12, 4, [0, 4, 7, 11]), (5, 5, [0, 1, 2, 3, 4]), (3, 9, [0, 1, 2]), (7, 1, [0]), (1, 1, [0])],
)
def test_some_of_many_are_spread_from_first_to_last(available, count, expected):
    assert spread_evenly(available, count) == expected


@pytest.mark.parametrize("available", [2, 10, 99, 300])
def test_those_spread_are_different_and_evenly_apart(available):
    for count in range(2, available + 1):
        chosen = spread_evenly(available, count)
        gaps = {b - a for a, b in pairwise(chosen)}
        assert (chosen[0], chosen[-1], len(chosen)) == (0, available - 1, count)
        assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 2


def test_noise_levels_have_short_names():
    assert [noised_name(level) for level in (0.05, 0.1, 1.0)] == [
        "noised_0.05",
        "noised_0.1",
        "noised_1",
    ]

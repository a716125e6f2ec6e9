"""Groups of models: their names, and which of many are taken."""

from itertools import pairwise

import pytest
import torch

from pdiff.data import prepare_images
from pdiff.groups import noised_name, predict_groups
from pdiff.subset import spread_evenly
from tests.toy_nets import Branching, noised


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


def test_a_net_that_cannot_be_cut_is_named_once_for_both_splits(tiny):
    data = tiny.data.model_copy(update={"size": 8, "resize": 8})
    images = prepare_images(data, torch.Generator().manual_seed(0))
    net, names = Branching(), ["net.1.weight"]
    groups = {"some": noised(net, names), "more": noised(net, names)}
    with pytest.warns(UserWarning) as caught:
        predictions = predict_groups(net, names, groups, images, data, 50, 1)
    assert ["cannot be cut" in str(warning.message) for warning in caught] == [True]
    assert {name: len(part[0]) for name, part in predictions.items()} == {
        "some.validation": 60,
        "more.validation": 60,
        "some.test": 80,
        "more.test": 80,
    }

"""Groups of models: their names, and which of many are taken."""

from itertools import pairwise

import pytest
import torch

from pdiff.baselines.rivals import greedy_soup
from pdiff.datasets.prepare import prepare_images
from pdiff.evaluation.predict import CutNet
from pdiff.evaluation.predictions import predict_groups
from pdiff.parameters.subset import Models, Subset, spread_evenly
from tests.toys.nets import Branching, noised, small_net


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


NAMES = ("1.weight", "1.bias")


@pytest.fixture
def case(tiny):
    """A net, 12 models of its batch norm, and images of which a boundary takes 1 MiB or more."""
    data = tiny.data.model_copy(update={"train_size": 10, "validation_size": 400, "test_size": 500})
    images = prepare_images(data, torch.Generator().manual_seed(0))
    net = small_net(torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    net[-1] = torch.nn.Linear(4 * 15 * 15, 10)
    subset = Subset(dict.fromkeys(NAMES, (4,)))
    matrix = 1 + torch.randn(12, 8, generator=torch.Generator().manual_seed(1))
    return net.eval(), Models(subset, matrix), images, data


def chosen(case, boundary_mib: int, tried: list):
    net, originals, images, data = case

    def choose(found, predict):
        labels = images.validation.labels
        soup = greedy_soup(originals, found["original"], labels, 8, predict)
        tried.append(soup)
        return {"more": Models(originals.subset, originals.block(slice(0, 8))[soup.members])}

    groups = {"original": originals}
    return predict_groups(net, NAMES, groups, images, data, 30, boundary_mib, choose)


def test_what_is_chosen_after_the_validation_split_is_evaluated_on_both(case):
    soups = []
    found = chosen(case, 64, soups)
    members = soups[0].members
    assert 1 <= len(members) <= 8
    for split in ("validation", "test"):
        assert torch.equal(found[f"more.{split}"], found[f"original.{split}"][members])


@pytest.fixture
def passed(monkeypatch) -> list[int]:
    """Sizes of the batches that the prefix ran on."""
    sizes, prefix = [], CutNet.prefix

    def counted(cut, images):
        sizes.append(len(images))
        return prefix(cut, images)

    monkeypatch.setattr(CutNet, "prefix", counted)
    return sizes


def test_the_prefix_runs_once_for_each_image_whatever_is_chosen(case, passed):
    chosen(case, 64, [])
    assert sum(passed) == 2 + 400 + 500  # two images when the net is cut


def test_memory_for_boundaries_changes_neither_predictions_nor_the_choice(case, passed):
    soups: list = []
    much = chosen(case, 64, soups)
    passed.clear()
    little = chosen(case, 1, soups)
    assert sum(passed) == 2 + 400 * (1 + 7 + 1) + 500  # anew for each candidate, and for the soup
    assert soups[0] == soups[1]
    assert all(torch.equal(much[key], little[key]) for key in much)


def test_the_test_images_are_not_passed_again_where_they_choose(case):
    net, originals, images, data = case
    data = data.model_copy(update={"split": "paper"})
    found = chosen((net, originals, images, data), 64, [])
    assert torch.equal(found["more.test"], found["more.validation"])

"""Groups of models on both splits, what is chosen between them, and which of many are taken."""

from functools import partial
from itertools import pairwise

import pytest
import torch

from pdiff.baselines.originals import greedy_soup
from pdiff.datasets.prepare import prepare_images
from pdiff.evaluation.predict import CutNet, predict_plain
from pdiff.evaluation.predictions import ClassEvaluation, load_predictions, save_predictions
from pdiff.images.batches import EvaluationBatches
from pdiff.parameters.subset import Models, Subset, spread_evenly
from tests.toys.nets import small_net

NAMES = ("1.weight", "1.bias")


@pytest.mark.parametrize("available", [2, 10, 99, 300])
def test_some_of_many_are_different_and_evenly_apart_from_first_to_last(available):
    assert spread_evenly(available, 1) == [0]
    assert spread_evenly(available, available + 2) == [*range(available)]
    for count in range(2, available + 1):
        chosen = spread_evenly(available, count)
        gaps = {b - a for a, b in pairwise(chosen)}
        assert (chosen[0], chosen[-1], len(chosen)) == (0, available - 1, count)
        assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 2


@pytest.fixture(scope="module")
def case(tiny):
    """A net, 12 models of its batch norm, and images of which a boundary takes 1 MiB or more."""
    data = tiny.data.model_copy(update={"train_size": 10, "validation_size": 400, "test_size": 500})
    images = prepare_images(data, torch.Generator().manual_seed(0))
    net = small_net(torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    net[-1] = torch.nn.Linear(4 * 15 * 15, 10)
    subset = Subset(dict.fromkeys(NAMES, (4,)))
    matrix = 1 + torch.randn(12, 8, generator=torch.Generator().manual_seed(1))
    return net.eval(), Models(subset, matrix), images, data


def chosen(case, boundary_mib: int):
    """Predictions of the originals and of those that a greedy soup takes, and these."""
    net, originals, images, data = case
    evaluation = ClassEvaluation(net, NAMES, images, data, 30, boundary_mib)
    groups = {"original": originals}
    found = evaluation.predict_groups("validation", groups)["original"]
    predict = partial(evaluation.predict, "validation")
    soup, _ = greedy_soup(originals, found, images.validation.labels, 8, predict)
    groups["more"] = Models(originals.subset, originals.block(slice(0, 8))[soup])
    for split in ("validation", "test"):
        evaluation.predict_groups(split, groups)
    return evaluation, soup


@pytest.fixture(scope="module")
def found(case):
    return chosen(case, 64)


def test_what_is_chosen_after_the_validation_split_is_evaluated_on_both(found):
    evaluation, soup = found
    assert 1 <= len(soup) <= 8
    for groups in evaluation.predictions.values():
        assert torch.equal(groups["more"], groups["original"][soup])


def test_each_split_has_the_predictions_of_its_own_images(case, found):
    net, originals, images, data = case
    for split, predictions in found[0].predictions.items():
        batches = list(EvaluationBatches(getattr(images, split), data, 30))
        expected = predict_plain(net, originals, lambda batches=batches: batches)
        assert torch.equal(predictions["original"], expected)


def test_predictions_come_back_from_disk_by_split_and_group(case, found, tmp_path):
    save_predictions(tmp_path / "file", found[0])
    for split, predictions in found[0].predictions.items():
        again, labels = load_predictions(tmp_path / "file", split)
        torch.testing.assert_close(again, predictions, rtol=0, atol=0)
        assert torch.equal(labels, getattr(case[2], split).labels)


@pytest.fixture
def passed(monkeypatch) -> list[int]:
    """Sizes of the batches that the prefix ran on."""
    sizes, prefix = [], CutNet.prefix

    def counted(cut, images):
        sizes.append(len(images))
        return prefix(cut, images)

    monkeypatch.setattr(CutNet, "prefix", counted)
    return sizes


def test_memory_for_boundaries_changes_neither_predictions_nor_the_choice(case, passed):
    much = chosen(case, 64)
    assert sum(passed) == 2 + 400 + 500  # two images when the net is cut, and each image once
    passed.clear()
    little = chosen(case, 1)
    assert sum(passed) == 2 + 400 * (1 + 7 + 1) + 500  # anew for each candidate, and for the soup
    assert much[1] == little[1]
    torch.testing.assert_close(much[0].predictions, little[0].predictions, rtol=0, atol=0)


def test_the_test_images_are_not_passed_again_where_they_choose(case, passed):
    net, originals, images, data = case
    data = data.model_copy(update={"split": "paper"})
    predictions = chosen((net, originals, images, data), 64)[0].predictions
    assert torch.equal(predictions["test"]["more"], predictions["validation"]["more"])
    assert sum(passed) == 2 + 400

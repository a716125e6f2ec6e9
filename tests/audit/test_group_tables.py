"""The Pareto front and the similarity matrix, by hand and against the plain way."""

import pandas as pd
import pytest
import torch

from pdiff.audit.similarity import front_table, pareto_front, similarity_matrix
from pdiff.novelty.iou import similarity_within, wrong_iou
from pdiff.novelty.summary import similarity_table


def models(*rows: tuple[float, float], groups: list[str] | None = None) -> pd.DataFrame:
    """Models by similarity and accuracy."""
    table = pd.DataFrame(rows, columns=["max_similarity", "accuracy"])
    return table.assign(group=groups or "generated")


def test_the_front_by_hand():
    table = models((0.9, 0.8), (0.5, 0.7), (0.6, 0.7), (0.95, 0.8), (0.4, 0.2), (0.5, 0.6))
    assert pareto_front(table).tolist() == [True, True, False, False, True, False]


def test_equal_models_are_on_the_front_together():
    assert pareto_front(models((0.5, 0.7), (0.5, 0.7), (0.6, 0.6))).tolist() == [True, True, False]


def test_a_model_without_similarity_is_not_on_the_front():
    assert pareto_front(models((float("nan"), 0.9), (0.5, 0.7))).tolist() == [False, True]


def test_the_front_equals_the_definition_on_random_models(generator):
    points = (torch.rand(200, 2, generator=generator) * 20).round() / 20  # many ties
    table = models(*map(tuple, points.tolist()))
    similarity, accuracy = points.T
    for i, (s, a) in enumerate(points):
        as_good = (similarity <= s) & (accuracy >= a)
        beaten = (as_good & ((similarity < s) | (accuracy > a))).any()
        assert pareto_front(table)[i] == (not beaten)


def test_the_index_of_the_table_does_not_matter():
    table = models((0.9, 0.8), (0.5, 0.7), (0.6, 0.7))
    shuffled = table.set_axis([7, 7, 3])
    assert pareto_front(shuffled).tolist() == [True, True, False]


def test_families_share_the_front():
    groups = ["original", "noised_0.1", "noised_0.2", "noised_0.2"]
    table = front_table(models((0.9, 0.8), (0.5, 0.7), (0.4, 0.6), (0.4, 0.5), groups=groups))
    assert table["family"].tolist() == ["original", "noised"]
    assert table["on_front"].tolist() == [1, 2]
    assert table["share_of_front"].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert table["share_of_models"].tolist() == pytest.approx([1 / 4, 3 / 4])


def test_a_front_of_nobody_is_shared_by_nobody():
    assert front_table(models((float("nan"), 0.9)))["share_of_front"].tolist() == [0]


def test_the_matrix_equals_the_table_of_the_plain_way(generator):
    sizes = {"original": 5, "generated": 4, "ensemble": 1, "noised_0.1": 3}
    predictions = {
        group: torch.randint(0, 2, (count, 50), generator=generator).short()
        for group, count in sizes.items()
    }
    labels = torch.zeros(50, dtype=torch.int64)
    ours = similarity_matrix({group: found != 0 for group, found in predictions.items()})
    pd.testing.assert_frame_equal(ours, similarity_table(predictions, labels), atol=1e-12)


def test_groups_without_an_error_are_fully_similar():
    none = torch.zeros(3, 10, dtype=torch.bool)
    table = similarity_matrix({"original": none, "generated": none[:2]})
    assert table[["original", "generated"]].to_numpy().tolist() == [[1, 1], [1, 1]]


def test_an_empty_group_has_no_similarity():
    errors = torch.eye(4, dtype=torch.bool)
    table = similarity_matrix({"original": errors, "generated": errors[:0]})
    assert table["generated"].isna().all()
    assert table.loc[0, "original"] == 0


def test_the_matrix_leaves_out_pairs_of_a_model_with_itself(generator):
    errors = torch.rand(6, 40, generator=generator) < 0.3
    value = similarity_matrix({"original": errors}).loc[0, "original"]
    assert value == pytest.approx(similarity_within(errors))
    assert value != pytest.approx(wrong_iou(errors, errors).double().mean().item())

"""IoU of wrong predictions and what follows from it."""

from itertools import combinations

import pytest
import torch

from pdiff.novelty.iou import (
    best_of_n,
    chosen_of_n,
    max_similarity,
    max_similarity_among,
    similarity_within,
    wrong_iou,
)

A = [True, True, False, False]
B = [False, True, True, False]
NONE = [False] * 4


def rows(*values: list[bool]) -> torch.Tensor:
    return torch.tensor(values)


def test_iou_of_four_images():
    torch.testing.assert_close(wrong_iou(rows(A), rows(B)), torch.tensor([[1 / 3]]))


def test_two_models_without_an_error_are_identical():
    assert wrong_iou(rows(NONE), rows(NONE, A)).tolist() == [[1.0, 0.0]]


def test_iou_counts_are_exact_for_ten_thousand_images(generator):
    wrong = torch.rand(6, 10_000, generator=generator) < 0.5
    both = (wrong[:, None] & wrong[None]).sum(-1)
    either = (wrong[:, None] | wrong[None]).sum(-1)
    assert torch.equal(wrong_iou(wrong, wrong), both.float() / either.float())


def test_the_maximum_similarity_is_that_to_the_most_similar_original():
    assert max_similarity(rows(A, A), rows(B, A)).tolist() == [1.0, 1.0]


def test_an_original_leaves_out_itself():
    torch.testing.assert_close(max_similarity_among(rows(A, B)), torch.tensor([1 / 3, 1 / 3]))
    assert max_similarity_among(rows(A, A)).tolist() == [1.0, 1.0]


def test_similarity_within_leaves_out_the_diagonal():
    assert similarity_within(rows(A, B, A)) == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)


def test_a_single_model_has_no_similarity_to_its_own_group():
    assert max_similarity_among(rows(A)).isnan().all()
    assert similarity_within(rows(A)) != similarity_within(rows(A))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_is_the_mean_over_all_draws(n):
    accuracy = torch.tensor([0.3, 0.9, 0.5, 0.7, 0.5])
    draws = [max(draw) for draw in combinations(accuracy.tolist(), n)]
    assert best_of_n(accuracy, n) == pytest.approx(sum(draws) / len(draws))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_model_chosen_of_n_is_the_mean_over_all_draws(n):
    accuracy = torch.tensor([0.3, 0.9, 0.5, 0.7, 0.5], dtype=torch.float64)
    choosing = [0.2, 0.1, 0.8, 0.4, 0.6]  # chooses another model than the best
    draws = [accuracy[max(draw, key=lambda i: choosing[i])] for draw in combinations(range(5), n)]
    expected = float(sum(draws) / len(draws))
    assert chosen_of_n(accuracy, torch.tensor(choosing), n) == pytest.approx(expected)


def test_models_that_are_equal_in_choosing_are_chosen_equally_often():
    accuracy, choosing = torch.tensor([0.2, 0.4, 0.9]), torch.tensor([0.5, 0.5, 0.1])
    assert chosen_of_n(accuracy, choosing, 3) == pytest.approx(0.3)


@pytest.mark.parametrize("n", [0, 6])
def test_best_of_more_than_there_are_is_refused(n):
    with pytest.raises(ValueError, match="n must lie in 1 to 5"):
        best_of_n(torch.zeros(5), n)

"""Votes of several models: gain, ties, disagreement."""

import pandas as pd
import pytest
import torch

from pdiff.audit.votes import VOTERS, disagreement, vote_accuracy, vote_table
from tests.toys.audit import made_of, toy_matrices, toy_wrong

LABELS = torch.tensor([0, 1, 2, 0])


def test_voters_that_err_apart_correct_each_other():
    predictions = torch.tensor([[1, 1, 2, 0], [0, 2, 2, 0], [0, 1, 0, 0]], dtype=torch.int16)
    assert vote_accuracy(predictions, LABELS) == 1


def test_copies_vote_as_one_and_never_disagree():
    predictions = torch.tensor([[0, 1, 1, 1]], dtype=torch.int16).repeat(5, 1)
    assert vote_accuracy(predictions, LABELS) == 0.5
    assert disagreement(predictions) == 0


def test_a_tie_counts_as_its_expectation():
    predictions = torch.tensor([[0, 1, 2, 0], [1, 1, 2, 0], [2, 1, 2, 0]], dtype=torch.int16)
    assert vote_accuracy(predictions, LABELS) == pytest.approx((1 / 3 + 3) / 4)


def test_disagreement_is_the_mean_over_pairs_of_models():
    predictions = torch.tensor([[0, 1, 2, 0], [0, 1, 2, 1], [1, 1, 2, 1]], dtype=torch.int16)
    assert disagreement(predictions) == pytest.approx((1 + 2 + 1) / 3 / 4)


def test_groups_with_too_few_models_have_no_row():
    wrong, matrices = toy_wrong(), toy_matrices()
    wrong["generated"] = wrong["generated"].repeat(VOTERS, 1)
    matrices["generated"] = matrices["generated"].repeat(VOTERS, 1)
    found = vote_table(made_of(wrong, matrices, pd.DataFrame(), {}))
    assert list(found["group"]) == ["generated"]
    assert found["accuracy"].item() == pytest.approx(0.9, abs=0.03)
    assert found["vote_gain"].item() > 0.05

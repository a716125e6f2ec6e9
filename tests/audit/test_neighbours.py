"""Originals with and without their neighbours in the run."""

import pytest
import torch

from pdiff.audit.neighbours import neighbour_table, neighbours
from tests.toys.audit import made_of, toy_models


def test_neighbours_lie_near_in_the_same_run(tiny):
    changes = {"checkpoints": 6, "runs": 2, "steps": 12, "save_every": 2, "save_after": 0}
    config = tiny.finetune.model_copy(update=changes)  # steps 2, 6 or 8, 12 of both runs
    near = neighbours(config, 4)
    assert near[0].tolist() == [True, True, False, False, False, False]
    assert near[4].tolist() == [False, False, False, True, True, False]
    assert torch.equal(neighbours(config, 0), torch.eye(6, dtype=torch.bool))


def test_leaving_neighbours_out_lowers_similarity_and_raises_distance():
    wrong = {"original": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1]]).bool()}
    wrong["generated"] = torch.tensor([[0, 0, 1, 1]]).bool()
    matrices = {"original": torch.tensor([[0.0], [1.0], [5.0]]), "generated": torch.tensor([[5.0]])}
    evidence = made_of(wrong, matrices, toy_models(wrong), {})
    evidence.near[0, 1] = evidence.near[1, 0] = True
    found = neighbour_table(evidence)
    assert found["left_out"].tolist() == ["itself", "neighbours", "nothing"]
    similar = [(2 / 3 + 2 / 3 + 1 / 4) / 3, (0 + 1 / 4 + 1 / 4) / 3, 1]
    assert found["max_similarity"].tolist() == pytest.approx(similar)
    assert found["nearest"].tolist() == pytest.approx([(1 + 1 + 4) / 3, (5 + 4 + 4) / 3, 0])


def test_originals_that_are_all_neighbours_have_no_number():
    same = {group: torch.ones(2, 3).bool() for group in ("original", "generated")}
    matrices = {group: torch.rand(2, 3) for group in same}
    evidence = made_of(same, matrices, toy_models(same), {})
    evidence.near[:] = True
    found = neighbour_table(evidence).set_index("left_out")
    assert found.loc["neighbours", ["max_similarity", "nearest"]].isna().all()

"""Logits that are not finite: refused of what was trained, counted of what is generated."""

import math

import pytest
import torch

from pdiff.evaluation.predictions import check_finite, not_finite, numbered
from pdiff.images.batches import chance
from pdiff.system.errors import InputError

GROUPS = {
    "original": torch.tensor([[0, 1], [2, 1]], dtype=torch.int16),
    "generated": torch.tensor([[0, -1], [2, 1], [-1, -1]], dtype=torch.int16),
}


def test_models_are_named_by_group_and_number():
    assert not_finite(GROUPS) == {"generated": [0, 2]}
    assert numbered({"generated": [0, 2], "soup": range(12)}) == (
        "generated 0, 2; soup 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."
    )


def test_a_trained_model_without_finite_logits_is_refused():
    check_finite(GROUPS, ["original", "fresh"])
    with pytest.raises(InputError, match=r"^checkpoints: .* not finite of generated 0, 2$"):
        check_finite(GROUPS, ["original", "generated"])


def test_chance_is_the_largest_classs_share_and_two_standard_errors():
    assert chance(torch.tensor([0, 2, 2, 2])) == pytest.approx(0.75 + 2 * math.sqrt(0.1875 / 4))

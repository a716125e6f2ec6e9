"""The examples that bring nets and weights from elsewhere."""

import pytest
import timm
import torch

from examples.efficientnet_lite0 import by_position


def test_weights_go_over_by_position():
    """To timm's names, from a net with the same tensors under other names."""
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    other = {f"layer_{i}": torch.full_like(t, i) for i, t in enumerate(own.values())}
    moved = by_position(other, own)
    assert list(moved) == list(own)
    assert all((tensor == i).all() for i, tensor in enumerate(moved.values()))


def test_another_net_is_refused():
    own = {"conv": torch.zeros(3, 4), "norm": torch.zeros(4)}
    with pytest.raises(ValueError, match="same layers in the same order"):
        by_position({"a": torch.zeros(4), "b": torch.zeros(3, 4)}, own)

"""Checkpoints and weights as somebody else would bring them."""

from pathlib import Path

import torch

from pdiff.nets.registry import build_net
from tests.conftest import change


class Own:
    """Somebody's own training: a net's weights, and 5 checkpoints of all its parameters."""

    def __init__(self, folder: Path, classes: int = 10) -> None:
        self.weights, self.folder = folder / "base.pth", folder / "checkpoints"
        self.folder.mkdir(parents=True)
        torch.manual_seed(0)
        self.base = build_net("test_resnet", classes, 32).state_dict()
        torch.save(self.base, self.weights)
        self.states = [
            {n: v + 0.01 * torch.randn(v.shape) for n, v in self.base.items() if v.ndim}
            for _ in range(5)
        ]
        for i, state in enumerate(self.states):
            torch.save(state, self.folder / f"epoch_{i + 8}.pth")  # 8, 9, 10, 11, 12

    def params(self, raw: dict, **changes) -> dict:
        own = {"base.weights": str(self.weights), "base.epochs": 0, "finetune.checkpoints": 5}
        own |= {"finetune.folder": str(self.folder), "finetune.watch": str(self.folder)}
        return change(raw, **own, **changes)

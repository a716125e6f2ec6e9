"""A split of a task other than classification: tensors that have one entry for each image.

Axes: N images.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """What a task reads of each image, by name, and what it should find there."""

    columns: Mapping[str, Tensor]
    """{name: (N, ...)}; one of them is `images`."""

    @property
    def labels(self) -> Int64[Tensor, " N"]:
        """Ones: the prediction for an image that a model gets right."""
        images = self.columns["images"]
        return torch.ones(len(images), dtype=torch.long, device=images.device)

    def __len__(self) -> int:
        return len(self.columns["images"])

    def take(self, index: Int64[Tensor, " M"]) -> "Examples":
        return Examples({name: values[index] for name, values in self.columns.items()})

    def to(self, device: torch.device | str) -> "Examples":
        return Examples({name: values.to(device) for name, values in self.columns.items()})

    def tensors(self) -> dict[str, Tensor]:
        """The split on disk."""
        return dict(self.columns)

"""Convolution blocks with batch norm, and ways to run a chain of them that need less memory.

Axes: B batch, C channels, N positions. For the backward pass `plain` keeps every activation,
`checkpointed` each block's input, and `pdiff.autoencoder.low_memory` only the chain's.
"""

from collections.abc import Iterable
from itertools import chain, repeat
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Norm = Literal["batch", "sample", "running"]
"""Where a batch norm takes mean and variance from: the batch, each sample, or training."""


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation whose statistics the caller may choose."""

    def forward(self, x: Float[Tensor, "B C N"], norm: Norm | None = None) -> Tensor:
        """`norm` None follows the mode; the batch's statistics then update the running ones.

        `sample` normalises each sample over its own positions, as the authors' generation does in
        training mode with batches of one.
        """
        if norm is None:
            return super().forward(x)
        if norm == "sample":
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        running = self.running_mean, self.running_var
        if norm == "running":
            return self.apply_statistics(x, *running)
        # momentum 0 leaves the running statistics alone
        return F.batch_norm(x, *running, self.weight, self.bias, True, 0.0, self.eps)

    def apply_statistics(self, x: Float[Tensor, "B C N"], mean: Tensor, variance: Tensor) -> Tensor:
        """Normalise with given statistics of each channel, which no gradient reaches."""
        return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)


class Block(nn.Module):
    """Convolution, batch norm, activation."""

    def __init__(self, conv: nn.Module, channels: int, activation: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.norm = BatchNorm(channels)
        self.activation = activation

    def forward(self, x: Float[Tensor, "B C N"], norm: Norm | None = None) -> Tensor:
        return self.activation(self.norm(self.conv(x), norm))


def plain(
    blocks: Iterable[Block], output: nn.Module, x: Tensor, norm: Norm | None = None
) -> Tensor:
    """The blocks one after the other, then `output`."""
    for block in blocks:
        x = block(x, norm)
    return output(x)


def checkpointed(blocks: Iterable[Block], output: nn.Module, x: Tensor) -> Tensor:
    """`plain` that runs each block again in the backward pass; `output` belongs to the last one."""
    *blocks, last = blocks
    for block in blocks:
        x = _checkpointed_block(block, nn.Identity(), x)
    return _checkpointed_block(last, output, x)


def _checkpointed_block(block: Block, output: nn.Module, x: Tensor) -> Tensor:
    norms = chain([None], repeat("batch"))  # only the first time updates the running statistics

    def run(x: Tensor) -> Tensor:
        return plain([block], output, x, next(norms))

    return checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)

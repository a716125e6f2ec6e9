"""Train a chain of blocks on a whole batch that passes a few samples at a time, exactly.

Axes: B batch, M micro-batch, C channels, N positions. Batch norm couples the samples of a batch
only through each channel's mean and variance. So the forward pass finds these block after block,
each in one pass over the micro-batches, and keeps nothing but them and the chain's input.

The backward pass needs the gradients of the loss by the statistics. Let block i have
a_i = conv(x_{i-1}), statistics m_i and v_i over n values, x_i = act(w (a_i - m_i) r_i + b) with
r_i = (v_i + eps)^(-1/2). With dw and db, the gradients of its w and b over the whole batch,

    dL/dm_i = -w r_i db,    dL/dv_i = -w r_i^2 dw / 2,

and since m_i and v_i are means over a_i, every value of a_i has the further gradient

    dL/dm_i / n + 2 (a_i - m_i) dL/dv_i / n.

dw and db of block i depend only on those terms of later blocks, so one pass for each block, the
last first, finds them, and a final pass finds all other gradients. With k blocks there are k + 1
passes forward and k + 1 back: time for memory.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pdiff.autoencoder.blocks import Block
from pdiff.core.statistics import NOTHING, merged

_Known = tuple[Float[Tensor, " C"], Float[Tensor, " C"], int]
"""Mean and variance of a block's convolution over the whole batch, and values in each channel."""
_Coupling = Callable[[Tensor, Tensor], Tensor]
"""(gradient of values a, a) -> the gradient with what the statistics pass on."""


def streamed(
    blocks: Iterable[Block], output: nn.Module, x: Float[Tensor, "B C N"], micro_batch: int
) -> Tensor:
    """`blocks.plain` in training mode, with the memory of `micro_batch` samples.

    Running statistics are updated once. Gradients are equal but for the order of sums, and have no
    gradient of their own.
    """
    chain = _Chain(blocks, output)
    return _Streamed.apply(x, chain, micro_batch, *chain.parameters())


@torch.no_grad()
def normalised_as_one(
    blocks: Iterable[Block], x: Float[Tensor, "B C N"], micro_batch: int
) -> Float[Tensor, "B _ _"]:
    """`blocks.plain` with the norm `batch`, and the memory of `micro_batch` samples."""
    chain, parts = _Chain(blocks, nn.Identity()), x.split(micro_batch)
    chain.measure(parts)
    return torch.cat([chain.run(part) for part in parts])


class _Streamed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, chain: "_Chain", micro_batch: int, *parameters: Tensor
    ) -> Tensor:
        kind = x.device.type
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        # no cache: a weight cast here without a graph would be taken again where one is needed
        ctx.autocast = {"device_type": kind, "dtype": dtype, "enabled": enabled}
        ctx.chain, ctx.micro_batch, parts = chain, micro_batch, x.split(micro_batch)
        with torch.autocast(**ctx.autocast, cache_enabled=False):
            chain.measure(parts)
            chain.follow()
            ends = [chain.run(part) for part in parts]
        ctx.save_for_backward(x)
        return torch.cat(ends)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        pairs = zip(x.split(ctx.micro_batch), grad.split(ctx.micro_batch), strict=True)
        with torch.autocast(**ctx.autocast, cache_enabled=False):
            of_x, of_parameters = ctx.chain.gradients(list(pairs), ctx.needs_input_grad[0])
        return (of_x, None, None, *of_parameters)


class _Chain:
    """Blocks and an output, with what is known of a batch that passes in parts."""

    def __init__(self, blocks: Iterable[Block], output: nn.Module) -> None:
        self.blocks, self.output = list(blocks), output
        self.known: list[_Known] = []  # of the first blocks, in the end of all
        self.couplings: list[_Coupling] = []  # of the last blocks, in the end of all

    def parameters(self) -> list[nn.Parameter]:
        return [p for module in (*self.blocks, self.output) for p in module.parameters()]

    def measure(self, parts: Iterable[Tensor]) -> None:
        """Find each block's batch statistics."""
        for block in self.blocks:
            self.known.append(_statistics(block.conv(self.through(part)) for part in parts))

    def follow(self) -> None:
        """Let the running statistics follow those of the batch, as in `nn.BatchNorm1d`."""
        for block, (mean, variance, count) in zip(self.blocks, self.known, strict=True):
            norm = block.norm
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
            norm.num_batches_tracked += 1

    def through(self, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """From the input of block `first` to that of block `last`, or the first not yet known.

        The backward pass then adds the couplings that are found.
        """
        start = len(self.blocks) - len(self.couplings)
        for i in range(len(self.known))[first:last]:
            block, (mean, variance, _) = self.blocks[i], self.known[i]
            a = block.conv(x)
            if i >= start:
                a.register_hook(partial(self.couplings[i - start], a=a.detach()))
            x = block.activation(block.norm.apply_statistics(a, mean, variance))
        return x

    def run(self, x: Tensor, first: int = 0) -> Tensor:
        """The output, from the input of block `first`."""
        return self.output(self.through(x, first))

    def gradients(
        self, pairs: list[tuple[Tensor, Tensor]], of_x: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of the input, if `of_x`, and of all parameters.

        `pairs` are parts of the input with the gradients of their outputs.
        """
        self.couplings = []
        for i in reversed(range(len(self.blocks))):
            self.couplings.insert(0, self._coupling(i, pairs))
        parameters = self.parameters()
        sums, found_x = [torch.zeros_like(p) for p in parameters], []
        for x, grad in pairs:
            x = x.detach().requires_grad_(of_x)
            wanted = [*parameters, x] if of_x else parameters
            with torch.enable_grad():
                end = self.run(x)
            found = torch.autograd.grad(end, wanted, grad)
            for total, value in zip(sums, found, strict=False):
                total += value
            found_x += found[len(parameters) :]
        return torch.cat(found_x) if of_x else None, sums

    def _coupling(self, i: int, pairs: list[tuple[Tensor, Tensor]]) -> _Coupling:
        """The coupling of block i, given those of the blocks after it."""
        norm, (mean, variance, count) = self.blocks[i].norm, self.known[i]
        dw, db = torch.zeros_like(norm.weight), torch.zeros_like(norm.bias)
        for x, grad in pairs:
            before = self.through(x, last=i)
            with torch.enable_grad():
                end = self.run(before, i)
            part_dw, part_db = torch.autograd.grad(end, (norm.weight, norm.bias), grad)
            dw, db = dw + part_dw, db + part_db
        inverse = (variance + norm.eps).rsqrt()
        scale = -norm.weight.detach() * inverse / count
        rows = mean, scale * db, scale * inverse * dw
        mean, offset, slope = (row[:, None] for row in rows)
        return lambda grad, a: (grad + offset + slope * (a - mean)).to(grad.dtype)


def _statistics(parts: Iterator[Float[Tensor, "M C N"]]) -> _Known:
    """The statistics of all parts, merged pair by pair."""
    moments = NOTHING
    for part in parts:
        part = part.to(torch.promote_types(part.dtype, torch.float32))
        variance, mean = torch.var_mean(part, dim=(0, 2), correction=0)
        size = part.numel() // part.shape[1]
        moments = merged(moments, (size, mean.double(), variance.double() * size))
    count, mean, squares = moments
    return mean.to(part.dtype), (squares / count).to(part.dtype), count

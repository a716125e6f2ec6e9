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

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pdiff.autoencoder.blocks import Block


def streamed(
    blocks: Iterable[Block], output: nn.Module, x: Float[Tensor, "B C N"], micro_batch: int
) -> Tensor:
    """`blocks.plain` in training mode, with the memory of `micro_batch` samples.

    Running statistics are updated once. Gradients are equal but for the order of sums, and have no
    gradient of their own.
    """
    blocks = list(blocks)
    return _Streamed.apply(x, blocks, output, micro_batch, *_parameters(blocks, output))


@torch.no_grad()
def normalised_as_one(
    blocks: Iterable[Block], x: Float[Tensor, "B C N"], micro_batch: int
) -> Float[Tensor, "B _ _"]:
    """`blocks.plain` with the norm `batch`, and the memory of `micro_batch` samples."""
    blocks = list(blocks)
    known = _measure(blocks, x, micro_batch)
    return torch.cat([_through(blocks, known, part) for part in x.split(micro_batch)])


class _Known(NamedTuple):
    """Statistics of a block's convolution over the whole batch, B * N values a channel."""

    mean: Float[Tensor, " C"]
    variance: Float[Tensor, " C"]
    count: int


class _Coupling(NamedTuple):
    """The gradient that the statistics pass on to each value: `offset + slope * (a - mean)`."""

    mean: Float[Tensor, " C 1"]
    offset: Float[Tensor, " C 1"]
    slope: Float[Tensor, " C 1"]

    def add_to(self, grad: Tensor, a: Tensor) -> Tensor:
        return (grad + self.offset + self.slope * (a - self.mean)).to(grad.dtype)


class _Streamed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        blocks: Sequence[Block],
        output: nn.Module,
        micro_batch: int,
        *parameters: Tensor,
    ) -> Tensor:
        kind = x.device.type
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        # no cache: a weight cast here without a graph would be taken again where one is needed
        ctx.autocast = {"device_type": kind, "dtype": dtype, "enabled": enabled}
        with torch.autocast(**ctx.autocast, cache_enabled=False):
            known = _measure(blocks, x, micro_batch)
            _follow(blocks, known)
            ends = [output(_through(blocks, known, part)) for part in x.split(micro_batch)]
        ctx.chain = blocks, output, known, micro_batch
        ctx.save_for_backward(x)
        return torch.cat(ends)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        blocks, output, known, micro_batch = ctx.chain
        parts = list(zip(x.split(micro_batch), grad.split(micro_batch), strict=True))
        with torch.autocast(**ctx.autocast, cache_enabled=False):
            backward = _Backward(blocks, output, known, parts)
            for i in reversed(range(len(blocks))):
                backward.couple(i)
            of_x, of_parameters = backward.gradients(ctx.needs_input_grad[0])
        return (of_x, None, None, None, *of_parameters)


def _parameters(blocks: Sequence[Block], output: nn.Module) -> list[nn.Parameter]:
    return [p for module in (*blocks, output) for p in module.parameters()]


def _through(blocks: Sequence[Block], known: Sequence[_Known], x: Tensor) -> Tensor:
    """Run `x` through as many blocks as there are statistics."""
    for block, (mean, variance, _) in zip(blocks, known, strict=False):
        x = block.activation(block.norm.apply_statistics(block.conv(x), (mean, variance)))
    return x


def _measure(blocks: Sequence[Block], x: Tensor, micro_batch: int) -> list[_Known]:
    """Each block's batch statistics."""
    known: list[_Known] = []
    for block in blocks:
        inputs = (_through(blocks, known, part) for part in x.split(micro_batch))
        known.append(_statistics(block.conv(part) for part in inputs))
    return known


def _follow(blocks: Sequence[Block], known: Sequence[_Known]) -> None:
    """Let the running statistics follow those of a batch, as in `nn.BatchNorm1d`."""
    for block, (mean, variance, count) in zip(blocks, known, strict=True):
        norm = block.norm
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
        norm.num_batches_tracked += 1


def _statistics(parts: Iterator[Float[Tensor, "M C N"]]) -> _Known:
    """The statistics of all parts, merged pair by pair to keep the digits (Chan et al. 1979)."""
    count, mean, squares = 0, 0.0, 0.0
    for part in parts:
        part = part.to(torch.promote_types(part.dtype, torch.float32))
        part_variance, part_mean = torch.var_mean(part, dim=(0, 2), correction=0)
        size = part.numel() // part.shape[1]
        shift = part_mean.double() - mean
        squares = squares + part_variance.double() * size
        squares = squares + shift**2 * (count * size / (count + size))
        mean = mean + shift * (size / (count + size))
        count += size
    return _Known(mean.to(part.dtype), (squares / count).to(part.dtype), count)


class _Backward:
    """The passes of the backward pass over `parts`, pairs of input and gradient of the output."""

    def __init__(
        self,
        blocks: Sequence[Block],
        output: nn.Module,
        known: Sequence[_Known],
        parts: Sequence[tuple[Tensor, Tensor]],
    ) -> None:
        self.blocks, self.output, self.known, self.parts = blocks, output, known, parts
        self.couplings: list[_Coupling | None] = [None] * len(blocks)

    def couple(self, i: int) -> None:
        """Find the coupling of block i, given those of the blocks after it."""
        norm, (mean, variance, count) = self.blocks[i].norm, self.known[i]
        dw, db = torch.zeros_like(norm.weight), torch.zeros_like(norm.bias)
        for x, grad in self.parts:
            end = self._end(i, _through(self.blocks[:i], self.known, x))
            part_dw, part_db = torch.autograd.grad(end, (norm.weight, norm.bias), grad)
            dw, db = dw + part_dw, db + part_db
        inverse = (variance + norm.eps).rsqrt()
        scale = -norm.weight.detach() * inverse / count
        rows = mean, scale * db, scale * inverse * dw
        self.couplings[i] = _Coupling(*(row[:, None] for row in rows))

    def gradients(self, of_x: bool) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of the input, if `of_x`, and of all parameters."""
        parameters = _parameters(self.blocks, self.output)
        sums, found_x = [torch.zeros_like(p) for p in parameters], []
        for x, grad in self.parts:
            x = x.detach().requires_grad_(of_x)
            wanted = [*parameters, x] if of_x else parameters
            found = torch.autograd.grad(self._end(0, x), wanted, grad)
            for total, value in zip(sums, found, strict=False):
                total += value
            found_x += found[len(parameters) :]
        return torch.cat(found_x) if of_x else None, sums

    @torch.enable_grad()
    def _end(self, first: int, x: Tensor) -> Tensor:
        """The chain's output from the input of block `first`, with all known couplings."""
        rest = zip(self.blocks[first:], self.known[first:], self.couplings[first:], strict=True)
        for block, (mean, variance, _), coupling in rest:
            a = block.conv(x)
            if coupling is not None:
                a.register_hook(partial(coupling.add_to, a=a.detach()))
            x = block.activation(block.norm.apply_statistics(a, (mean, variance)))
        return self.output(x)

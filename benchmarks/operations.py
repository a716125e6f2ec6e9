"""Floating-point operations of a computation, without multiplications by padding."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def operations(work: Callable[[], object]) -> int:
    """Of all matrix products, attentions and convolutions while `work()` runs.

    A convolution's taps that fall on its padding multiply zeros, and are not counted.
    """
    mapping = {torch.ops.aten.convolution: _convolution, torch.ops.aten._convolution: _convolution}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with counter, torch.no_grad():
        work()
    return counter.get_total_flops()


def _convolution(
    image: Sequence[int],
    weight: Sequence[int],
    bias: object,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    *_: Any,
    out_shape: Sequence[int],
    **__: Any,
) -> int:
    """Two for each tap that meets a value: taps are independent along the axes."""
    small, large = (image, out_shape) if not transposed else (out_shape, image)
    axes = zip(small[2:], large[2:], weight[2:], stride, padding, dilation, strict=True)
    met = prod(_met(*axis) for axis in axes)
    return 2 * image[0] * weight[0] * weight[1] * met


def _met(size: int, out: int, taps: int, stride: int, padding: int, dilation: int) -> int:
    """Pairs of output position and tap that lie inside the image, along one axis."""
    return sum(
        0 <= position * stride + tap * dilation - padding < size
        for position in range(out)
        for tap in range(taps)
    )

"""Convolutions of maps that are smaller than the kernel become matrix products, exactly.

On small images nets end in tiny maps (ResNet-18 at 64 pixels: 2x2), where a 3x3 convolution
multiplies mostly padding. A matrix from all input to all output positions skips the padding: 16
products of 36 remain at 2x2, one of nine at 1x1.

Axes: B batch, C channels in, O channels out, G groups of them, H and W sides of a map.
"""

from math import prod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.fx import Graph
from torch.nn.functional import conv1d

Taps = tuple[tuple[int, ...], ...]
"""Along one dimension, for each output position: the kernel's tap on each input position."""


def use_matrices(graph: Graph) -> None:
    """Replace each convolution that is no larger as a matrix."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default):
        image, weight, bias, stride, padding, dilation, groups = (
            *node.args,
            *(None, [1, 1], [0, 0], [1, 1], 1)[len(node.args) - 2 :],
        )
        before, after, kernel = (
            tuple(value.meta["val"].shape[2:]) for value in (image, node, weight)
        )
        # many small products, one for each group, are slower than a convolution
        if prod(before) > (prod(kernel) if groups == 1 else 1) or list(dilation) != [1, 1]:
            continue
        taps = tuple(map(_taps, before, after, stride, padding))
        if all(0 <= tap < kernel[axis] for axis in (0, 1) for row in taps[axis] for tap in row):
            with graph.inserting_before(node):
                matrix = graph.call_function(_matrix, (weight, groups, *taps))
                maps = graph.call_function(_multiply, (image, matrix, bias, after))
            node.replace_all_uses_with(maps)
            maps.meta = node.meta


def _taps(before: int, after: int, stride: int, padding: int) -> Taps:
    return tuple(
        tuple(position + padding - stride * output for position in range(before))
        for output in range(after)
    )


def _matrix(
    weight: Float[Tensor, "O _ _ _"], groups: int, rows: Taps, columns: Taps
) -> Float[Tensor, "G _ _"]:
    """A convolution's weight as a matrix: (O / G * H * W out, H * W * C / G in) for each group."""
    down, right = (torch.tensor(taps, device=weight.device) for taps in (rows, columns))
    taps = down[:, None, :, None] * weight.shape[3] + right[None, :, None, :]  # H, W out; H, W in
    matrix = weight.flatten(2).transpose(1, 2).contiguous()[:, taps.flatten()]
    return matrix.view(groups, -1, down.shape[1] * right.shape[1] * weight.shape[1])


def _multiply(
    image: Float[Tensor, "B C _ _"],
    matrix: Float[Tensor, "G _ _"],
    bias: Float[Tensor, " O"] | None,
    sides: tuple[int, int],
) -> Float[Tensor, "B O _ _"]:
    """The convolution of `image`, a map with these sides.

    The product is a convolution along the images: with the settings of `pdiff.system.portable`
    that takes a third to a half of the time of a product on a CPU.
    """
    grouped = image.unflatten(1, (len(matrix), -1)).flatten(3)  # (B, G, C / G, H * W)
    line = grouped.transpose(2, 3).flatten(1).T  # (G * H * W * C / G, B)
    maps = conv1d(line, matrix.flatten(0, 1)[:, :, None], groups=len(matrix)).T
    maps = maps.reshape(len(image), -1, *sides)
    return maps if bias is None else maps + bias[:, None, None]

"""Positions that cannot reach the output are not computed: an exact rewrite of a traced net.

A vision transformer with a class token classifies by that token alone (`x[:, 0]`). After the last
attention nothing mixes positions, so the layers that follow need run for one token, and the
attention itself for one query. In the graph a slice moves up: a slice of a result becomes the
result of sliced inputs, as long as each position depends only on the same position of the inputs.
"""

import math

import torch
from torch import Tensor
from torch.fx import Graph, Node

aten = torch.ops.aten
SLICE = aten.slice.Tensor
RESHAPE = aten.reshape.default
VIEWS = (aten.view.default, aten._unsafe_view.default, RESHAPE)


def drop_unused_positions(graph: Graph) -> None:
    """Skip positions of a value that no user takes; the output stays the same.

    A dimension of unknown size, such as the batch, is left alone.
    """
    for node in list(graph.nodes):
        _normalise(node)
    graph.eliminate_dead_code()
    for node in reversed(list(graph.nodes)):  # users come before what they use
        _slice_inputs(node)


def _normalise(node: Node) -> None:
    """Write `x[:, 0]` as `x[:, 0:1][:, 0]`, and drop slices of everything."""
    if node.target not in (SLICE, aten.select.int):
        return
    source, dim, start, *rest = (*node.args, *(0, None)[len(node.args) - 1 :])
    shape = source.meta["val"].shape
    dim %= len(shape)
    if node.target is aten.select.int and isinstance(shape[dim], int):
        start %= shape[dim]
        node.args = (_slice(source, dim, start, start + 1), dim, 0)
    elif node.target is SLICE and (start, rest) == (0, [2**63 - 1]):
        node.replace_all_uses_with(source)
    elif node.target is SLICE and isinstance(shape[dim], int):
        limits = slice(start, *rest).indices(shape[dim])
        if limits[2] == 1:
            node.replace_all_uses_with(_slice(source, dim, *limits[:2]))


def _slice(source: Node, dim: int, start: int, stop: int) -> Node:
    """`source[start:stop]` in one dimension, placed once right after `source`."""
    if _is_slice(source) and source.args[1] == dim:  # of a slice
        source, _, offset, _ = source.args
        start, stop = start + offset, stop + offset
    value, args = source.meta["val"], (source, dim, start, stop)
    if (start, stop) == (0, value.shape[dim]):
        return source
    part = next((user for user in source.users if (user.target, user.args) == (SLICE, args)), None)
    if part is None:
        part = source.graph.call_function(SLICE, args)
        part.meta["val"] = value.narrow(dim, start, stop - start)
    source.append(part)  # moves it there
    return part


def _slice_inputs(node: Node) -> None:
    """If all users of `node` slice one dimension of it, compute only the positions they take."""
    parts = list(node.users)
    if not all(map(_is_slice, parts)) or len({part.args[1] for part in parts}) != 1:
        return
    dim = parts[0].args[1]
    start, stop = min(part.args[2] for part in parts), max(part.args[3] for part in parts)
    sources = _sources(node, dim)
    value = node.meta["val"].narrow(dim, start, stop - start)
    if not sources or value.shape == node.meta["val"].shape:
        return
    target, args = node.target, list(node.args)
    for index, source_dim in sources.items():
        args[index] = _slice(args[index], source_dim, start, stop)
    if target in VIEWS:  # a slice is not contiguous, so a view of it may have to be a copy
        target, args[1] = RESHAPE, [*args[1][:dim], stop - start, *args[1][dim + 1 :]]
    with node.graph.inserting_before(node):
        small = node.graph.call_function(target, tuple(args), node.kwargs)
    small.meta["val"] = value
    for part in parts:
        part.replace_all_uses_with(_slice(small, dim, part.args[2] - start, part.args[3] - start))
        node.graph.erase_node(part)
    node.graph.erase_node(node)


def _is_slice(node: Node) -> bool:
    """Whether it is a slice as `_slice` makes them."""
    if node.target is not SLICE or len(node.args) != 4:
        return False
    source, dim, start, stop = node.args
    return all(isinstance(value, int) for value in (source.meta["val"].shape[dim], start, stop))


def _sources(node: Node, dim: int) -> dict[int, int]:
    """{argument: its dimension} if position i of `dim` depends there on position i alone.

    Empty if positions are mixed or the operation is unknown. Other arguments lack the dimension or
    have it at size 1.
    """
    if node.op != "call_function" or any(isinstance(v, Node) for v in node.kwargs.values()):
        return {}
    args, ndim = node.args, node.meta["val"].ndim
    if node.target in (aten.clone.default, aten.contiguous.default, aten.dropout.default):
        return {0: dim}
    if torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return _broadcast(node, dim)
    if node.target in VIEWS:
        return _viewed(args[0].meta["val"].shape, node.meta["val"].shape, dim)
    if node.target is aten.transpose.int:
        swapped = [axis % ndim for axis in args[1:]]
        return {0: sum(swapped) - dim if dim in swapped else dim}
    alone = {
        aten.layer_norm.default: lambda: dim < ndim - len(args[1]),
        aten.linear.default: lambda: dim < ndim - 1,
        # queries; keys and values stay whole, and a mask would tell queries apart
        aten.scaled_dot_product_attention.default: lambda: (
            dim == ndim - 2 and len(args) == 3 and node.kwargs.keys() <= {"scale"}
        ),
    }
    return {0: dim} if node.target in alone and alone[node.target]() else {}


def _broadcast(node: Node, dim: int) -> dict[int, int]:
    """The dimension in each tensor that an elementwise operation combines, aligned at the end."""
    size, ndim = node.meta["val"].shape[dim], node.meta["val"].ndim
    values = {i: arg.meta["val"] for i, arg in enumerate(node.args) if isinstance(arg, Node)}
    own = {i: dim - ndim + v.ndim for i, v in values.items() if isinstance(v, Tensor)}
    return {i: own[i] for i in own if own[i] >= 0 and values[i].shape[own[i]] == size}


def _viewed(before: torch.Size, after: torch.Size, dim: int) -> dict[int, int]:
    """The dimension that a reshape leaves as it is: of the same size, with as much behind it."""
    if not all(isinstance(size, int) for size in after[dim:]):
        return {}
    for own in range(len(before)):
        behind = before[own:]
        if all(isinstance(size, int) for size in behind) and (
            (before[own], math.prod(behind)) == (after[dim], math.prod(after[dim:]))
        ):
            return {0: own}
    return {}

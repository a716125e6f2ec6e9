"""Which parameters are generated, and how they become the rows of a matrix and come back.

Axes: K checkpoints (or any other M models), D parameters in the subset, P its tensors, c columns.

A *stack* is `{parameter name: (K, *shape)}`, as subsets lie on disk. The *matrix* (K, D) holds the
same numbers, flattened in the order of the net's parameters. It need not fit in memory: `Rows`
gives one model or some columns at a time.
"""

import difflib
import fnmatch
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pdiff.config import FinetuneConfig
from pdiff.system.errors import InputError

Columns = Iterable[tuple[slice, Float[Tensor, "M _"]]]
"""A matrix (M, D) as consecutive blocks of its columns, each with the span of D that it covers."""

CHUNK = 2**24
"""Most values in such a block: 64 MiB in fp32. Smaller matrices are one block."""


@dataclass(frozen=True)
class Subset:
    """Names and shapes of the parameters that are generated, in the net's own order."""

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each of the P tensors."""
        return tuple(torch.Size(shape).numel() for shape in self.shapes.values())

    @property
    def length(self) -> int:
        """D, the number of values in all."""
        return sum(self.sizes)

    def unflatten(self, matrix: Float[Tensor, "K D"]) -> dict[str, Tensor]:
        """Matrix to stack, bit for bit; the tensors are views of the matrix."""
        columns = matrix.split(self.sizes, dim=1)
        shapes = self.shapes.items()
        return {n: c.view(len(c), *s) for c, (n, s) in zip(columns, shapes, strict=True)}


class Rows(Sequence):
    """M models of one subset, as the rows of a matrix that may lie on disk."""

    subset: Subset

    @abstractmethod
    def row(self, index: int) -> Float[Tensor, " D"]:
        """All values of one model."""

    @abstractmethod
    def block(self, span: slice) -> Float[Tensor, "M c"]:
        """The columns from `span.start` to before `span.stop`, of all models."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One model, `{parameter name: value}`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return {name: t[0] for name, t in self.subset.unflatten(self.row(index)[None]).items()}

    def columns(self) -> Columns:
        """The matrix in blocks of `CHUNK` values at most, or of one column if M is more."""
        for span in spans(len(self), self.subset.length):
            yield span, self.block(span)


class Models(Rows):
    """The rows of a matrix in memory; reading gives views of it."""

    def __init__(self, subset: Subset, matrix: Float[Tensor, "M D"]) -> None:
        self.subset, self._matrix = subset, matrix

    def __len__(self) -> int:
        return len(self._matrix)

    def row(self, index: int) -> Float[Tensor, " D"]:
        return self._matrix[index]

    def block(self, span: slice) -> Float[Tensor, "M c"]:
        return self._matrix[:, span]


def spans(rows: int, length: int) -> list[slice]:
    """Consecutive spans of `length` columns with at most `CHUNK` values each in `rows` rows."""
    width = max(CHUNK // max(rows, 1), 1)
    return [slice(start, min(start + width, length)) for start in range(0, length, width)]


def spread_evenly(available: int, count: int) -> list[int]:
    """`count` different indices from the first to the last available; all if fewer."""
    count = min(count, available)
    return [round(i * (available - 1) / max(count - 1, 1)) for i in range(count)]


def positions(config: FinetuneConfig) -> list[tuple[int, int]]:
    """Run and step of each of the K checkpoints, in their order."""
    share = spread_evenly(config.checkpoints_of_a_run, config.checkpoints // config.runs)
    steps = [config.save_after + (index + 1) * config.save_every for index in share]
    return [(run, step) for run in range(config.runs) for step in steps]


def overlaps(sizes: Sequence[int], span: slice) -> Iterator[tuple[int, slice, slice]]:
    """The P tensors that a span covers: index, slice of the tensor, slice of the span."""
    for p, (end, size) in enumerate(zip(accumulate(sizes), sizes, strict=True)):
        start = end - size
        first, last = max(start, span.start), min(end, span.stop)
        if first < last:
            inside = slice(first - span.start, last - span.start)
            yield p, slice(first - start, last - start), inside


def select_subset(net: nn.Module, expression: str | Sequence[str]) -> Subset:
    """The parameters of `net` that `expression` names.

    Args:
        expression: `last_norms:N`, the weights and biases of the last N normalisation layers;
            `all`; or one or more names or shell patterns, each of a parameter (`conv1.weight`) or
            of a layer, which stands for all its parameters (`layer4.1.bn?`).

    Raises:
        InputError: a part of the expression selects nothing, or it names a buffer such as a
            batch norm's running statistics, which p-diff does not generate.
    """
    parameters = dict(net.named_parameters())
    if expression == "all":
        chosen = set(parameters)
    elif isinstance(expression, str) and expression.startswith("last_norms:"):
        chosen = _last_norms(net, expression)
    else:
        patterns = [expression] if isinstance(expression, str) else expression
        if not patterns:
            raise InputError("subset.select: the list is empty; it must name a layer or parameter")
        chosen = {name for pattern in patterns for name in _matches(net, pattern)}
    return Subset({n: tuple(p.shape) for n, p in parameters.items() if n in chosen})


def norm_layers(net: nn.Module) -> dict[str, nn.Module]:
    """The normalisation layers that have parameters, by name and in the net's order."""
    return {
        name: module
        for name, module in net.named_modules()
        if "norm" in type(module).__name__.lower() and list(module.parameters(recurse=False))
    }


def _last_norms(net: nn.Module, expression: str) -> set[str]:
    layers, count = norm_layers(net), expression.removeprefix("last_norms:")
    if not layers:
        raise InputError(
            f"subset.select: {expression!r} selects nothing: this net has no normalisation layer "
            "with parameters; name layers or write all"
        )
    if not count.isdecimal() or not 1 <= int(count) <= len(layers):
        raise InputError(
            f"subset.select: {expression!r} selects nothing: this net has {len(layers)} "
            f"normalisation layers, so write last_norms:1 to last_norms:{len(layers)}"
        )
    last = list(layers.items())[-int(count) :]
    return {f"{layer}.{n}" for layer, m in last for n, _ in m.named_parameters(recurse=False)}


def _matches(net: nn.Module, pattern: str) -> list[str]:
    """Names of the parameters that `pattern` fits, or that a layer which it fits holds."""
    names = {name: _prefixes(name) for name, _ in net.named_parameters()}
    found = [name for name, prefixes in names.items() if fnmatch.filter(prefixes, pattern)]
    if found:
        return found
    if fnmatch.filter((name for name, _ in net.named_buffers()), pattern):
        raise InputError(
            f"subset.select: {pattern!r} is a buffer, and running statistics are not generated; "
            "name weights and biases"
        )
    layers = list(dict.fromkeys(prefix for prefixes in names.values() for prefix in prefixes))
    near = difflib.get_close_matches(pattern, layers, n=3) or layers[-3:]
    raise InputError(
        f"subset.select: {pattern!r} selects nothing in this net; it has, for example, "
        + ", ".join(near)
    )


def _prefixes(name: str) -> list[str]:
    """`a.b.c`: a, a.b, a.b.c."""
    return list(accumulate(name.split("."), "{}.{}".format))

"""Which parameters are generated, and how they become the rows of a matrix and come back.

Axes: K checkpoints (or any other models), D parameters in the subset, P its tensors.

A *stack* is `{parameter name: (K, *shape)}`, the form in which subsets lie on disk; the *matrix*
(K, D) is the same numbers flattened in the order of the net's parameters.
"""

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pdiff.errors import InputError
from pdiff.files import load_tensors, save_tensors

Stack = Mapping[str, Tensor]


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

    def read(self, net: nn.Module) -> dict[str, Tensor]:
        """A copy of the net's present values: one model, `{name: shape}`."""
        parameters = dict(net.named_parameters())
        return {name: parameters[name].detach().clone() for name in self.names}

    def flatten(self, stack: Stack) -> Float[Tensor, "K D"]:
        """Stack to matrix, bit for bit."""
        self._check(stack)
        return torch.cat([stack[name].flatten(1) for name in self.names], dim=1)

    def unflatten(self, matrix: Float[Tensor, "K D"]) -> dict[str, Tensor]:
        """Matrix to stack, bit for bit; the tensors are views of the matrix."""
        columns = matrix.split(self.sizes, dim=1)
        shapes = self.shapes.items()
        return {n: c.unflatten(1, s) for c, (n, s) in zip(columns, shapes, strict=True)}

    def _check(self, stack: Stack) -> None:
        found = {name: tuple(tensor.shape[1:]) for name, tensor in stack.items()}
        if found != dict(self.shapes):
            raise InputError(f"stack holds {found}; the subset wants {dict(self.shapes)}")


class Models(Sequence):
    """The rows of a matrix as models, `{parameter name: value}`; the tensors are views."""

    def __init__(self, subset: Subset, matrix: Float[Tensor, "M D"]) -> None:
        self._stack = subset.unflatten(matrix)
        self._length = len(matrix)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return {name: values[index] for name, values in self._stack.items()}


@dataclass(frozen=True)
class Normalisation:
    """One mean and std for each of the P tensors, shared by all checkpoints.

    As in the authors' code: mean and unbiased std over a tensor's values in each checkpoint, then
    averaged over the K checkpoints. Where a tensor has one value or does not vary, the std is 1.
    """

    mean: Float[Tensor, " P"]
    std: Float[Tensor, " P"]
    sizes: tuple[int, ...]

    @classmethod
    def fit(cls, subset: Subset, matrix: Float[Tensor, "K D"]) -> "Normalisation":
        means, stds = [], []
        for column in matrix.double().split(subset.sizes, dim=1):
            means.append(column.mean(1).mean())
            std = column.std(1).mean() if column.shape[1] > 1 else column.new_zeros(())
            stds.append(torch.where(std > 0, std, 1.0))
        return cls(torch.stack(means).float(), torch.stack(stds).float(), subset.sizes)

    def apply(self, matrix: Float[Tensor, "K D"]) -> Float[Tensor, "K D"]:
        mean, std = self._columns(matrix)
        return (matrix - mean) / std

    def invert(self, matrix: Float[Tensor, "K D"]) -> Float[Tensor, "K D"]:
        mean, std = self._columns(matrix)
        return matrix * std + mean

    def _columns(self, like: Tensor) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
        sizes = torch.tensor(self.sizes)
        mean, std = self.mean.cpu(), self.std.cpu()
        return tuple(v.repeat_interleave(sizes).to(like) for v in (mean, std))


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


def norm_layers(net: nn.Module) -> list[str]:
    """Names of the normalisation layers that have parameters, in the net's order."""
    return [
        name
        for name, module in net.named_modules()
        if "norm" in type(module).__name__.lower() and list(module.parameters(recurse=False))
    ]


def _last_norms(net: nn.Module, expression: str) -> set[str]:
    layers = norm_layers(net)
    count = expression.removeprefix("last_norms:")
    if not count.isdecimal() or not 1 <= int(count) <= len(layers):
        raise InputError(
            f"subset.select: {expression!r} selects nothing: this net has {len(layers)} "
            f"normalisation layers, so write last_norms:1 to last_norms:{len(layers)}"
            if layers
            else f"subset.select: {expression!r} selects nothing: this net has no normalisation "
            "layer with parameters; name layers or write all"
        )
    modules = dict(net.named_modules())
    return {
        f"{layer}.{name}"
        for layer in layers[-int(count) :]
        for name, _ in modules[layer].named_parameters(recurse=False)
    }


def _matches(net: nn.Module, pattern: str) -> list[str]:
    names = [name for name, _ in net.named_parameters()]
    found = [n for n in names if any(fnmatch.fnmatchcase(p, pattern) for p in _prefixes(n))]
    if found:
        return found
    if any(fnmatch.fnmatchcase(name, pattern) for name, _ in net.named_buffers()):
        raise InputError(
            f"subset.select: {pattern!r} is a buffer, and running statistics are not generated; "
            "name weights and biases"
        )
    layers = list(dict.fromkeys(prefix for name in names for prefix in _prefixes(name)))
    near = difflib.get_close_matches(pattern, layers, n=3) or layers[-3:]
    raise InputError(
        f"subset.select: {pattern!r} selects nothing in this net; it has, for example, "
        + ", ".join(near)
    )


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def save_stack(path: Path, subset: Subset, matrix: Float[Tensor, "K D"], **header: object) -> None:
    """Write the rows of `matrix` as a stack, one tensor (K, *shape) for each parameter."""
    save_tensors(path, subset.unflatten(matrix), names=subset.names, **header)


def load_stack(path: Path) -> tuple[Subset, Float[Tensor, "K D"]]:
    """The subset and the matrix that `save_stack` wrote.

    Raises:
        InputError: the file is missing, truncated, or not a stack.
    """
    stack, header = load_tensors(path)
    names = header.get("names") if isinstance(header, dict) else None
    if not names or set(names) != set(stack) or len({len(t) for t in stack.values()}) != 1:
        raise InputError(f"{path} is not a stack of checkpoints")
    subset = Subset({name: tuple(stack[name].shape[1:]) for name in names})
    return subset, subset.flatten(stack)

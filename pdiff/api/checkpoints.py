"""State dicts from anywhere: which of their tensors are generated, and which are kept.

Axes: K checkpoints, G generated models, M models, D values that are generated.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pdiff.core.files import load_state_dict, load_tensors, save_tensors
from pdiff.parameters.stack import load_stack, write_columns
from pdiff.parameters.subset import Models, Subset
from pdiff.system.errors import InputError

State = dict[str, Tensor]
Stack = dict[str, Tensor]
"""{name: (M, *shape)}: one tensor of all models."""

SUFFIXES = (".safetensors", ".pth", ".pt")
STATISTICS = ("running_mean", "running_var")
"""Batch norm's own, which belong to weights and images together; they are not generated."""
ROW = "row"
"""The one tensor of checkpoints that are rows of a matrix."""
STACK, OTHERS = "checkpoints.safetensors", "others.safetensors"


@dataclass(frozen=True)
class Checkpoints(Sequence):
    """K state dicts, or the rows of a matrix; `checkpoints[i]` is one of them, whole."""

    names: tuple[str, ...]
    """All tensors, in the order of the first checkpoint."""
    varying: Stack
    """The tensors in which checkpoints differ."""
    constant: State
    """The others."""
    rows: bool
    """Whether the checkpoints are rows of a matrix."""

    @classmethod
    def read(cls, checkpoints: Any) -> "Checkpoints":
        """From state dicts, a folder of them (`2.pt` before `10.pt`), or a matrix (K, D).

        Raises:
            InputError: fewer than two, names or shapes that are not those of the first, NaN or
                infinity, or nothing that differs and could be generated.
        """
        rows = isinstance(checkpoints, Tensor | np.ndarray)
        if rows:
            matrix = torch.as_tensor(checkpoints)
            if matrix.ndim != 2:
                shape = tuple(matrix.shape)
                raise InputError(f"checkpoints: a matrix (K, D) is expected, not {shape}")
            checkpoints = [{ROW: row} for row in matrix]
        names, varying, constant = stacked(checkpoints)
        found = cls(names, varying, constant, rows)
        if not found.subset.shapes:
            raise InputError(
                "checkpoints: no weights differ; copy them when you keep a checkpoint: "
                "{name: value.clone() for name, value in net.state_dict().items()}"
            )
        return found

    @cached_property
    def subset(self) -> Subset:
        """What is generated: all weights that differ, in the order of the names."""
        shapes = {name: tuple(self.varying[name].shape[1:]) for name in self.varying}
        kept = [n for n, t in self.varying.items() if not t.is_floating_point()]
        kept += [name for name in shapes if name.endswith(STATISTICS) or not shapes[name]]
        return Subset({name: shape for name, shape in shapes.items() if name not in kept})

    @cached_property
    def matrix(self) -> Float[Tensor, "K D"]:
        """What is generated, flattened."""
        return torch.cat([self.varying[name].float().flatten(1) for name in self.subset.names], 1)

    def __len__(self) -> int:
        return len(next(iter(self.varying.values()), ()))

    def __getitem__(self, index: int) -> State:
        return {
            name: self.varying[name][index] if name in self.varying else self.constant[name]
            for name in self.names
        }

    def with_generated(self, matrix: Float[Tensor, "G D"]) -> list[State]:
        """State dicts with the rows of `matrix` in them; all else is the last checkpoint's."""
        stack, last = self.subset.unflatten(matrix), self[-1]
        return [last | {n: stack[n][i] for n in stack} for i in range(len(matrix))]

    def save(self, folder: Path) -> None:
        """Two safetensors files: the stack of what is generated, and the rest."""
        columns = Models(self.subset, self.matrix).columns()
        write_columns(folder / STACK, self.subset, len(self), columns)
        others = {n: t for n, t in self.varying.items() if n not in self.subset.names}
        header = {"names": self.names, "rows": self.rows, "varying": list(others)}
        save_tensors(folder / OTHERS, others | self.constant, **header)

    @classmethod
    def load(cls, folder: Path) -> "Checkpoints":
        """What `save` wrote; `InputError` if a file is missing or broken."""
        subset, matrix = load_stack(folder / STACK)
        others, header = load_tensors(folder / OTHERS)
        varying = {name: others.pop(name) for name in header["varying"]}
        varying |= subset.unflatten(matrix)
        names = tuple(header["names"])
        ordered = {name: varying[name] for name in names if name in varying}
        return cls(names, ordered, others, header["rows"])


class _Folder(Sequence):
    """The state dicts of a folder, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"checkpoints: {str(folder)!r} is not a folder")
        files = (p for p in folder.iterdir() if p.suffix in SUFFIXES and p.name[0] != ".")
        self.paths = sorted(files, key=_natural)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> State:
        return load_state_dict(self.paths[index])


def _natural(path: Path) -> list[int | str]:
    """Text and numbers in turn, so that they never meet in a comparison."""
    return [int(t) if t.isdecimal() else t for t in re.split("([0-9]+)", path.name)]


def listed(states: Any) -> Sequence[Any]:
    """State dicts as they are; those of a folder are read when they are asked for."""
    return _Folder(Path(states)) if isinstance(states, str | Path) else states


def stacked(states: Any) -> tuple[tuple[str, ...], Stack, State]:
    """The names of the tensors, those that differ among the state dicts, and the others.

    Raises `InputError` as `Checkpoints.read`; `states` may be a folder.
    """
    states = listed(states)
    if len(states) < 2:
        raise InputError(f"checkpoints: at least 2 are needed, and {len(states)} came")
    first, differing = states[0], set()
    for index, state in enumerate(states):
        where = str(states.paths[index]) if isinstance(states, _Folder) else f"number {index}"
        _check(state, first, f"checkpoints: {where}")
        differing |= {name for name in first if not torch.equal(state[name], first[name])}
    names = [name for name in first if name in differing]
    rows = [[state[name].detach().cpu() for name in names] for state in states]
    varying = {n: torch.stack(ts) for n, ts in zip(names, zip(*rows, strict=True), strict=True)}
    constant = {name: first[name].detach().cpu() for name in first if name not in differing}
    return tuple(first), varying, constant


def _check(state: Any, first: Any, where: str) -> None:
    """Raise `InputError` unless `state` has finite tensors of the names and shapes of `first`."""
    for each in (first, state):
        if not isinstance(each, dict) or not all(isinstance(t, Tensor) for t in each.values()):
            raise InputError(f"{where} is no state dict {{name: tensor}}: {type(state).__name__}")
    if different := sorted(state.keys() ^ first.keys()):
        raise InputError(
            f"{where} and the first differ in {len(different)} keys: {', '.join(different[:3])}"
        )
    for name, value in state.items():
        shape, expected = tuple(value.shape), tuple(first[name].shape)
        if shape != expected:
            raise InputError(f"{where}: {name!r} has shape {shape}, in the first {expected}")
        if not value.isfinite().all():
            raise InputError(f"{where}: {name!r} holds NaN or infinity")

"""Stacks on disk: read by row or column and written piece by piece, never whole in memory.

A stack is a safetensors file with one fp32 tensor (K, *shape) for each parameter of the subset.
Values are read at their offsets, since the pages of a mapped file, which is how safetensors reads,
count as memory of the process.

Axes: K checkpoints or other models, D parameters of the subset, c columns, R rows.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pdiff.core.files import KEY, load_header
from pdiff.parameters.subset import Columns, Rows, Subset, overlaps
from pdiff.system.errors import InputError
from pdiff.system.paths import own_folder, replacing

ITEM = 4  # bytes of an fp32 value
Part = tuple[int, slice, Float[Tensor, "R c"]]
"""Values of R models from an index on, in a span of columns."""


class StackFile(Rows):
    """The models of a stack on disk, read anew at each use."""

    def __init__(self, path: Path) -> None:
        """Reads the header alone.

        Raises:
            InputError: the file is missing, truncated, or not a stack.
        """
        names = load_header(path).get("names")
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            layout = json.loads(file.read(size))
        layout.pop("__metadata__")
        shapes = {name: tuple(entry["shape"]) for name, entry in layout.items()}
        plain = all(entry["dtype"] == "F32" and entry["shape"] for entry in layout.values())
        counts = {shape[0] for shape in shapes.values()} if plain else set()
        if not names or set(names) != set(layout) or len(counts) != 1:
            raise InputError(f"{path} is not a stack of checkpoints")
        self.subset = Subset({name: shapes[name][1:] for name in names})
        self._path, (self._count,) = path, counts
        self._offsets = [8 + size + layout[name]["data_offsets"][0] for name in names]

    def __len__(self) -> int:
        return self._count

    def row(self, index: int) -> Float[Tensor, " D"]:
        return self._read(range(index, index + 1), slice(0, self.subset.length))[0]

    def block(self, span: slice) -> Float[Tensor, "M c"]:
        return self._read(range(self._count), span)

    def _read(self, rows: range, span: slice) -> Float[Tensor, "R c"]:
        sizes = self.subset.sizes
        values = torch.empty(len(rows), span.stop - span.start)
        with self._path.open("rb") as file:
            for p, part, inside in overlaps(sizes, span):
                for row, target in zip(rows, values[:, inside].numpy(), strict=True):
                    file.seek(self._offsets[p] + ITEM * (row * sizes[p] + part.start))
                    if file.readinto(target) != target.nbytes:
                        raise InputError(f"{self._path} became shorter while it was read")
        return values


def write_rows(path: Path, subset: Subset, count: int, rows: Iterable[Float[Tensor, " D"]]) -> None:
    """Write `count` models as they come, one at a time.

    Raises:
        InputError: a model holds a NaN or an infinity, or the disk is too small.
    """

    def parts() -> Iterator[Part]:
        for index, row in enumerate(rows):
            if not row.isfinite().all():
                raise InputError(
                    f"finetune.lr: checkpoint {index} of {count} is not finite; give a smaller rate"
                )
            yield index, slice(0, subset.length), row[None]

    _write(path, subset, count, parts())


def write_columns(path: Path, subset: Subset, count: int, columns: Columns) -> None:
    """Write `count` models in blocks of columns; `InputError` if the disk is too small."""
    _write(path, subset, count, ((0, span, block) for span, block in columns))


def _write(path: Path, subset: Subset, count: int, parts: Iterable[Part]) -> None:
    """Write a stack under a temporary name, and rename it once all its values are written."""
    sizes, missing = subset.sizes, count * subset.length
    head, offsets = _header(subset, count)
    with replacing(path) as partial:
        needed, free = ITEM * missing, shutil.disk_usage(path.parent).free
        if free < needed:
            raise InputError(
                f"{path} needs {needed / 1e9:.2f} GB, and its disk has {free / 1e9:.2f} GB left"
            )
        with partial.open("wb") as file:
            file.write(head)
            for first, span, block in parts:
                values = block.detach().float().cpu().numpy()
                for p, part, inside in overlaps(sizes, span):
                    for row, own in enumerate(values[:, inside], first):
                        file.seek(offsets[p] + ITEM * (row * sizes[p] + part.start))
                        file.write(own.tobytes())
                missing -= values.size
        if missing:
            raise ValueError(f"{path}: {missing} values of the stack were not written")


def load_stack(path: Path) -> tuple[Subset, Float[Tensor, "K D"]]:
    """The subset and the whole matrix of a stack; errors as `StackFile`."""
    stack = StackFile(path)
    return stack.subset, stack.block(slice(0, stack.subset.length))


@contextmanager
def temporary_stack(
    folder: Path, subset: Subset, count: int, columns: Columns
) -> Iterator[StackFile]:
    """Models on disk within a `with` block: more of them than memory holds."""
    with own_folder(folder / "stacks") as own:
        path = own / "stack.safetensors"
        write_columns(path, subset, count, columns)
        yield StackFile(path)


def _header(subset: Subset, count: int) -> tuple[bytes, list[int]]:
    """The header of a stack as `save_tensors` writes it; where each of the P tensors starts."""
    metadata = {KEY: json.dumps({"names": subset.names}, sort_keys=True)}
    layout: dict[str, Any] = {"__metadata__": metadata}
    starts, end = {}, 0
    for name, size in sorted(zip(subset.names, subset.sizes, strict=True)):
        starts[name], end = end, end + ITEM * count * size
        shape = (count, *subset.shapes[name])
        layout[name] = {"dtype": "F32", "shape": shape, "data_offsets": [starts[name], end]}
    text = json.dumps(layout, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return head, [len(head) + starts[name] for name in subset.names]

"""A long training survives being killed: its state, on disk, outside every DVC output.

The state lies under `.work/<stage>/<key>/` in the project's folder (git-ignored, and the same
folder from DVC's temporary experiment folders, which are thrown away). The key is a hash of the
parameters, the input files and the code, so one experiment never continues from another.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from pdiff import ranks
from pdiff.distributed import from_first
from pdiff.errors import InputError
from pdiff.files import load_tensors, save_tensors
from pdiff.paths import root

State = dict[str, Any]
_TENSOR = "__tensor__"


class Checkpointer:
    """Saves a training's state now and then; `with` it, and it is gone once all went well.

    If another process is at the same training (a parallel experiment that shares it, or one left
    over from a killed run), this one waits for it and says so. Of processes that share a stage,
    the first keeps the state, and all load it.
    """

    def __init__(self, folder: Path, every_s: float) -> None:
        self._folder = folder
        self._path = folder / "state.safetensors"
        self._every_s = every_s
        self._saved_at = time.monotonic()

    def __enter__(self) -> "Checkpointer":
        if ranks.is_first():
            self._hold()
        return self

    def _hold(self) -> None:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self._folder.with_suffix(".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process at the same training ({self._folder})", flush=True)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._folder.mkdir(exist_ok=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not ranks.is_first():
            return
        if kind is None:
            shutil.rmtree(self._folder)
        self._lock.close()

    def load(self) -> State | None:
        """The last state saved, or None; a state that does not read is left aside."""
        return from_first(self._read() if ranks.is_first() else None)

    def _read(self) -> State | None:
        if not self._path.exists():
            return None
        try:
            tensors, layout = load_tensors(self._path)
        except InputError:
            return None
        return _join(layout["state"], tensors)

    def save(self, state: Callable[[], State]) -> None:
        """Save what `state` returns, unless the last time was a moment ago."""
        if not ranks.is_first() or time.monotonic() - self._saved_at < self._every_s:
            return
        tensors: dict[str, Tensor] = {}
        layout = _split(state(), tensors)
        save_tensors(self._path, tensors, state=layout)
        self._saved_at = time.monotonic()


def make_checkpointer(
    stage: str, sections: Iterable[BaseModel], inputs: Iterable[Path], device: torch.device
) -> Checkpointer:
    """The checkpointer of one stage with these parameters, input files and this code.

    It saves every 20 seconds at most, or every `PDIFF_SAVE_EVERY_S`.
    """
    digest = hashlib.sha256(device.type.encode())
    for section in sections:
        digest.update(section.model_dump_json().encode())
    for path in [*inputs, *sorted(Path(__file__).parent.glob("*.py"))]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    every_s = float(os.environ.get("PDIFF_SAVE_EVERY_S", "20"))
    return Checkpointer(root() / ".work" / stage / digest.hexdigest()[:16], every_s)


def _split(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The nested `value` as JSON, its tensors moved into `tensors`."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, dict):
        return {"dict": [[key, _split(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_split(item, tensors) for item in value]
    json.dumps(value)  # a TypeError here names what cannot be kept
    return value


def _join(layout: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(layout, dict):
        if _TENSOR in layout:
            return tensors[layout[_TENSOR]]
        return {key: _join(item, tensors) for key, item in layout["dict"]}
    if isinstance(layout, list):
        return [_join(item, tensors) for item in layout]
    return layout

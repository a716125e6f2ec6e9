"""A long training survives being killed: its state lies on disk, outside every DVC output.

The folder is `.work/STAGE/KEY/` in the project, also for DVC's temporary copies of it. KEY hashes
parameters, input files and code, so one experiment never continues from another.
"""

import fcntl
import hashlib
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
from pydantic import BaseModel

from pdiff.system.errors import InputError, reason
from pdiff.system.paths import replacing, root

State = dict[str, Any]
PACKAGE = Path(__file__).resolve().parents[1]


class Checkpointer:
    """Saves a training's state now and then; leaving the `with` block without error deletes it.

    Entering waits while another process is at the same training: a parallel experiment, or one
    left over from a killed run. Where no state can be kept, one warning says so.
    """

    _lock: TextIO | None = None

    def __init__(self, folder: Path, every_s: float) -> None:
        self._folder = folder
        self._path = folder / "state.pt"
        self._every_s = every_s
        self._saved_at = time.monotonic()

    def __enter__(self) -> "Checkpointer":
        with self._optional():
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._folder.with_suffix(".lock").open("w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                where = f"({self._folder})"
                print(f"waiting for another process at the same training {where}", flush=True)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._folder.mkdir(exist_ok=True)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    @contextmanager
    def _optional(self) -> Iterator[None]:
        """Trouble with the state costs one warning, and no training."""
        try:
            yield
        except Exception as error:  # torch has several kinds for a full disk
            self._every_s = math.inf
            text = f"warning: {self._folder}: no state is kept, so a killed training starts anew"
            print(f"{text}: {reason(error)}", file=sys.stderr, flush=True)

    def load(self) -> State | None:
        """The last state saved, on the CPU; None if there is none or it cannot be read."""
        try:
            return torch.load(self._path, map_location="cpu", weights_only=True)
        except Exception:  # torch raises many kinds for a broken file
            return None

    def save(self, state: Callable[[], State]) -> None:
        """Save `state()` if the last save is `every_s` ago."""
        if time.monotonic() - self._saved_at < self._every_s:
            return
        content = state()
        with self._optional(), replacing(self._path) as partial:
            torch.save(content, partial)
        self._saved_at = time.monotonic()


def make_checkpointer(
    stage: str, sections: Iterable[BaseModel], inputs: Iterable[Path], device: torch.device
) -> Checkpointer:
    """The checkpointer of one stage; it saves every `PDIFF_SAVE_EVERY_S` seconds, 20 by default."""
    digest = hashlib.sha256(device.type.encode())
    for section in sections:
        digest.update(section.model_dump_json().encode())
    for path in [*inputs, *sorted(PACKAGE.rglob("*.py"))]:
        if not path.is_file():
            raise InputError(f"{path} is missing")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    every_s = float(os.environ.get("PDIFF_SAVE_EVERY_S", "20"))
    return Checkpointer(root() / ".work" / stage / digest.hexdigest()[:16], every_s)

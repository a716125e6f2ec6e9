"""Where the project's own, git-ignored files lie, and how a file is replaced whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def root() -> Path:
    """The main checkout, also when DVC runs a stage in a temporary copy of it."""
    return Path(os.environ.get("DVC_ROOT") or Path(__file__).resolve().parents[2])


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to; it becomes `path` at the end and is deleted on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)

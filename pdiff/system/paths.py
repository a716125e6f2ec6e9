"""Where the project's own, git-ignored files lie, and how a file is replaced whole."""

import errno
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from pdiff.system.errors import disk_error


def root() -> Path:
    """The main checkout, also when DVC runs a stage in a temporary copy of it.

    Where p-diff is an installed package it is the checkout around the working directory.
    """
    if given := os.environ.get("DVC_ROOT"):
        return Path(given)
    here = Path.cwd()
    places = (Path(__file__).resolve().parents[2], here, *here.parents)
    return next((place for place in places if (place / "dvc.yaml").is_file()), here)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to; it becomes `path` at the end and is deleted on an error.

    The content is on the disk before the name is, so a power cut leaves the old file or the new
    one. Each process has its own name; what killed ones have left goes. An error of the disk names
    `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*.partial"):
        if not _runs(int(left.name.split(".")[-2])):
            left.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        _force(partial)
        partial.replace(path)
        _force(path.parent)
    except Exception as error:
        named = getattr(error, "filename", None)  # the body may read other files
        if (number := disk_error(error)) and named in (None, str(partial)):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def own_folder(parent: Path) -> Iterator[Path]:
    """A folder in `parent` that is deleted at the end, as those that killed processes left are."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob("[0-9]*-*"):
        if not _runs(int(left.name.partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(dir=parent, prefix=f"{os.getpid()}-") as name:
        yield Path(name)


def _force(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _runs(process: int) -> bool:
    """Whether there is such a process, of whatever user."""
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    return True

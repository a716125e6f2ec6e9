"""Image sets of torchvision: the class by its name, its options, and a whole copy on disk.

A copy is the user's own in `data.root`, or one downloaded to `data.root/CLASS`. A download grows
in `data.root/CLASS.partial` and gets its name when all is there, so half a set never passes for
a whole one.
"""

import difflib
import fcntl
import inspect
import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torchvision import datasets

from pdiff.config import DataConfig
from pdiff.system.errors import InputError
from pdiff.system.paths import root as project

OURS = {"self", "root", "transform", "target_transform", "transforms", "download", "loader"}
ARCHIVES = {".gz", ".tgz", ".tar", ".zip", ".bz2", ".tbz", ".tbz2", ".xz", ".mat"}
BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
BY_HAND = {
    "ImageNet": "get ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and "
    "ILSVRC2012_img_val.tar from https://image-net.org (they ask for an account)"
}

Pair = tuple[datasets.VisionDataset, datasets.VisionDataset]


def known_sets() -> dict[str, type[datasets.VisionDataset]]:
    """The classes of torchvision.datasets by name."""
    found = {name: getattr(datasets, name) for name in datasets.__all__}
    return {
        name: kind
        for name, kind in found.items()
        if inspect.isclass(kind) and issubclass(kind, datasets.VisionDataset)
    }


def check_set(config: DataConfig) -> None:
    """Is there such a class, and does it take these options; reads and downloads nothing."""
    kinds = known_sets()
    if config.reader not in kinds:
        lower = {name.lower(): name for name in ["digits", "folder", *kinds]}
        close = difflib.get_close_matches(config.reader.lower(), lower)
        hint = f"; did you mean {' or '.join(lower[name] for name in close)}?" if close else ""
        raise InputError(
            f"data.reader: unknown {config.reader!r}; known: digits, folder and every class of "
            f"torchvision.datasets{hint}"
        )
    kind = kinds[config.reader]
    allowed = sorted(_parameters(kind) - OURS)
    for key in ("train_options", "test_options"):
        options = getattr(config, key)
        if unknown := sorted(set(options) - set(allowed)):
            raise InputError(
                f"data.{key}: {config.reader} takes no {', '.join(unknown)}; "
                f"known: {', '.join(allowed) or 'none'}"
            )
        with tempfile.TemporaryDirectory() as empty:
            _open(kind, Path(empty), options, f"data.{key}", {})


def open_set(config: DataConfig, root: Path, check: Callable[[Pair], None]) -> tuple[Pair, Path]:
    """Training and test set and the folder they lie in, downloaded if need be.

    `check` is called with both before they are used, and before a download gets its name.
    """
    kind, folder = known_sets()[config.reader], root
    with _locked(config.reader):
        found, reason = _open_both(kind, config, root)
        if found is None and "download" not in _parameters(kind):
            advice = BY_HAND.get(config.reader, "get its files as torchvision's documentation says")
            raise InputError(
                f"data.root: {config.reader} is not in {root} and cannot be downloaded; {advice}, "
                f"place them in {root}, and start again ({reason})"
            )
        if found is None:
            folder = root / config.reader
            found, _ = _open_both(kind, config, folder)
        if found is None:
            _download(kind, config, folder, check)
            found, reason = _open_both(kind, config, folder)
    if found is None:
        raise InputError(f"data.root: {folder} was downloaded and yet does not read: {reason}")
    check(found)
    return found, folder


def _download(
    kind: type[datasets.VisionDataset],
    config: DataConfig,
    folder: Path,
    check: Callable[[Pair], None],
) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        if folder.exists():  # it lacks something: its archives need not be downloaded again
            shutil.rmtree(partial, ignore_errors=True)
            folder.rename(partial)
        _keep_archives(partial)
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{error.filename} cannot be written to: {error.strerror}"
        raise InputError(f"data.root: {reason}") from None
    print(f"downloading {config.reader} to {folder}", flush=True)
    try:
        options = (config.train_options, config.test_options)
        train, test = (
            kind(root=str(partial), download=True, **_quiet(kind), **option) for option in options
        )
        check((train, test))
    except InputError:
        raise
    except Exception as error:  # torchvision, tarfile and the network raise many kinds
        if isinstance(error, BROKEN):  # such an archive has no checksum, or it would not be opened
            shutil.rmtree(partial, ignore_errors=True)
        _keep_archives(partial)
        raise InputError(
            f"data.root: {config.reader} could not be downloaded to {folder}: {_line(error)}; "
            f"start again with a network, or place a copy in {folder.parent}"
        ) from None
    partial.rename(folder)


def _keep_archives(folder: Path) -> None:
    """Remove all but archives, which torchvision compares with their checksums; empty folders too.

    What lies beside an archive was extracted from one, perhaps not to the end.
    """
    if not folder.is_dir():
        return
    entries = list(folder.iterdir())
    archives = {path for path in entries if path.is_file() and path.suffix in ARCHIVES}
    for path in entries:
        if path in archives:
            continue
        if path.is_dir() and not path.is_symlink() and not archives:
            _keep_archives(path)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _open_both(
    kind: type[datasets.VisionDataset], config: DataConfig, root: Path
) -> tuple[Pair | None, str]:
    """Both splits from files that are there, or None and the reason."""
    if not root.is_dir():
        return None, f"{root} is not a folder"
    train, reason = _open(kind, root, config.train_options, "data.train_options", _quiet(kind))
    if train is None:
        return None, reason
    test, reason = _open(kind, root, config.test_options, "data.test_options", _quiet(kind))
    return (None if test is None else (train, test)), reason


def _open(
    kind: type[datasets.VisionDataset], root: Path, options: dict, key: str, more: dict
) -> tuple[datasets.VisionDataset | None, str]:
    try:
        arguments = {"root": str(root)} if "root" in _parameters(kind) else {}
        return kind(**arguments, **options, **more), ""
    except (RuntimeError, FileNotFoundError, NotADirectoryError) as error:
        return None, _line(error)  # how torchvision says that files are missing or broken
    except (ValueError, TypeError) as error:
        raise InputError(f"{key}: {kind.__name__} refuses {options}: {_line(error)}") from None
    except (OSError, ImportError, EOFError) as error:
        raise InputError(f"data.root: {kind.__name__} in {root}: {_line(error)}") from None


def _quiet(kind: type[datasets.VisionDataset]) -> dict[str, Callable[[str], str]]:
    """Where a class lets us load its files: a loader that only says which file it would be."""
    return {"loader": str} if "loader" in _parameters(kind) else {}


def _parameters(kind: type[datasets.VisionDataset]) -> set[str]:
    """Names of what a class can be made with, through the **kwargs of those it inherits from."""
    names: set[str] = set()
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters
        names |= {n for n, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
            break
    return names - {"args"}


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """Only one process of the project at a time looks for a set; others wait and find it."""
    path = project() / ".work" / "downloads" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that reads or downloads {name}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield

"""Image sets of torchvision by the name of their class: found in `data.root`, or downloaded there.

torchvision downloads, compares checksums and unpacks; here one process at a time lets it.
"""

import fcntl
import inspect
import tempfile
from contextlib import suppress
from pathlib import Path

from torchvision import datasets
from torchvision.datasets import VisionDataset

from pdiff.config import DataConfig
from pdiff.system.errors import InputError, reason
from pdiff.system.paths import root as project

OURS = {"self", "root", "transform", "target_transform", "transforms", "download", "loader"}
PARTS = ("train", "test")
BY_HAND = {
    "ImageNet": "ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar "
    "from https://image-net.org (they ask for an account)"
}


def check_set(config: DataConfig) -> None:
    """Raise `InputError` for an unknown class or options; reads and downloads nothing."""
    kinds = {name: getattr(datasets, name) for name in datasets.__all__}
    known = [n for n, k in kinds.items() if inspect.isclass(k) and issubclass(k, VisionDataset)]
    if config.reader not in known:
        raise InputError(
            f"data.reader: unknown {config.reader!r}; known: digits, folder, {', '.join(known)}"
        )
    allowed = sorted(_parameters(kinds[config.reader]) - OURS)
    for part in PARTS:
        if unknown := sorted(set(getattr(config, f"{part}_options")) - set(allowed)):
            raise InputError(
                f"data.{part}_options: {config.reader} takes no {', '.join(unknown)}; "
                f"known: {', '.join(allowed) or 'none'}"
            )
        with tempfile.TemporaryDirectory() as empty, suppress(RuntimeError, OSError):
            _open(config, part, Path(empty))


def open_sets(config: DataConfig) -> list[VisionDataset]:
    """Training and test set in `data.root`, downloaded if need be; other processes wait.

    An image is the name of its file if torchvision takes a loader.
    """
    root = project() / config.root
    lock_file = project() / ".work" / "downloads" / f"{config.reader}.lock"
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return [_open(config, part, root) for part in PARTS]
        except (RuntimeError, OSError) as error:  # how torchvision says that files are missing
            why = reason(error)
        if "download" not in _parameters(getattr(datasets, config.reader)):
            raise InputError(
                f"data.root: {config.reader} is not in {root} and cannot be downloaded; place "
                f"{BY_HAND.get(config.reader, 'its files')} in {root}, and start again ({why})"
            )
        print(f"downloading {config.reader} to {root}", flush=True)
        try:
            return [_open(config, part, root, download=True) for part in PARTS]
        except InputError:
            raise
        except Exception as error:  # torchvision, tarfile and the network raise many kinds
            raise InputError(
                f"data.root: {config.reader} could not be downloaded to {root}: {reason(error)}; "
                "start again with a network, or place a copy there"
            ) from None


def _open(config: DataConfig, part: str, root: Path, **more: bool) -> VisionDataset:
    kind, options = getattr(datasets, config.reader), getattr(config, f"{part}_options")
    ours = {"root": str(root), "loader": str} | more
    try:
        return kind(**{k: v for k, v in ours.items() if k in _parameters(kind)}, **options)
    except (ValueError, TypeError) as error:
        key = f"data.{part}_options"
        raise InputError(f"{key}: {config.reader} refuses {options}: {reason(error)}") from None
    except ImportError as error:
        raise InputError(f"data.reader: {config.reader} needs a package: {error}") from None


def _parameters(kind: type[VisionDataset]) -> set[str]:
    """Names of what a class can be made with, through the **kwargs of those it inherits from."""
    names: set[str] = set()
    for base in kind.__mro__:
        parameters = inspect.signature(base.__init__).parameters.values()
        names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return names

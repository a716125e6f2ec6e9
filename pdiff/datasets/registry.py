"""Where images come from: the digits, anyone's own folder, or a class of torchvision.

Sets of one small size become one tensor (`ImageSplit`), all others a list of files
(`ImageFiles`); what comes back decides, not the name.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from pdiff.config import DataConfig
from pdiff.datasets.items import fits_in_memory, name_classes, read_items
from pdiff.images.batches import Split
from pdiff.images.decode import decode, image_size
from pdiff.images.listed import ImageFiles, thread_count
from pdiff.images.pixels import ImageSplit
from pdiff.system.errors import InputError
from pdiff.system.paths import root as project

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
BLOCK = 4096

Source = tuple[Split, Split, tuple[str, ...]]
Files = list[tuple[Path, int]]


def read_images(config: DataConfig, generator: torch.Generator) -> Source:
    """Training images, test images, class names; `InputError` for what is missing or broken."""
    if config.reader == "digits":
        return _digits(config, generator)
    if config.reader == "folder":
        return _folder(config)
    return _torchvision(config)


def check_reader(config: DataConfig) -> None:
    """What can be known without reading an image or downloading; raises `InputError`."""
    if config.reader == "folder":
        _list_folder(project() / config.root)
    elif config.reader != "digits":
        from pdiff.datasets.torchvision import check_set

        check_set(config)


def _digits(config: DataConfig, generator: torch.Generator) -> Source:
    """scikit-learn's 1,797 digits, upscaled; they have no split of their own."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = torch.from_numpy(bunch.images).float()[:, None] / 16  # (N, 1, 8, 8), pixels in [0, 1]
    side = config.resize
    pixels = functional.interpolate(grey, (side, side), mode="bilinear", antialias=True)
    images = (pixels * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    split = ImageSplit(images, torch.from_numpy(bunch.target).long())
    held_back = config.test_size or len(split) // 2
    enough("data.test_size", held_back, len(split) - 1)
    order = torch.randperm(len(split), generator=generator)
    classes = tuple(str(name) for name in bunch.target_names)
    return split.take(order[held_back:]), split.take(order[:held_back]), classes


def _folder(config: DataConfig) -> Source:
    """Anyone's own images, in one folder per class below train/ and test/."""
    folder = project() / config.root
    files, classes = _list_folder(folder)
    _check_counts(config, len(files["train"]), len(files["test"]), folder)
    splits = (_of_files(files[part], config, folder) for part in ("train", "test"))
    return *splits, classes


def _torchvision(config: DataConfig) -> Source:
    """Any classification set of torchvision."""
    from pdiff.datasets.torchvision import open_set

    root = project() / config.root
    found, folder = open_set(
        config, root, lambda pair: _check_counts(config, len(pair[0]), len(pair[1]), root)
    )
    items = [read_items(dataset, config.reader) for dataset in found]
    labels, classes = name_classes([labels for _, labels in items], found[0])
    splits = []
    for (images, _), own in zip(items, labels, strict=True):
        if isinstance(images, np.ndarray):
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
            splits.append(ImageSplit(pixels, torch.tensor(own)))
        else:
            splits.append(_of_files(list(zip(images, own, strict=True)), config, folder))
    return *splits, classes


def _of_files(files: Files, config: DataConfig, folder: Path) -> Split:
    """One tensor if the images share one small size, at most `resize`; else the list itself."""
    sizes = list(_in_threads(lambda file: image_size(file[0]), files, "look at images"))
    labels = torch.tensor([label for _, label in files])
    height, width = sizes[0]
    small = min(height, width) <= config.resize and fits_in_memory(len(files), height, width)
    if len(set(sizes)) > 1 or not small:
        paths = tuple(path.relative_to(folder).as_posix() for path, _ in files)
        return ImageFiles(_as_given(config, folder), paths, torch.tensor(sizes), labels)
    images = np.empty((len(files), height, width, 3), np.uint8)
    decoded = _in_threads(lambda file: np.asarray(decode(file[0])), files, "decode images")
    for i, pixels in enumerate(decoded):
        images[i] = pixels
    return ImageSplit(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels)


def _in_threads(function: Callable[[Any], Any], files: Files, doing: str) -> Iterator[Any]:
    """`function` of each file in order; some thousands at a time, as there may be millions."""
    with (
        ThreadPoolExecutor(thread_count()) as pool,
        tqdm(total=len(files), desc=doing, disable=None, unit="image") as bar,
    ):
        for start in range(0, len(files), BLOCK):
            for result in pool.map(function, files[start : start + BLOCK]):
                yield result
                bar.update()


def _as_given(config: DataConfig, folder: Path) -> str:
    """The folder as the parameters have it: relative to the project's folder, or absolute."""
    if Path(config.root).is_absolute():
        return str(folder)
    return folder.relative_to(project()).as_posix()


def _check_counts(config: DataConfig, train: int, test: int, root: Path) -> None:
    if config.expect is None:
        return
    for name, found, expected in zip(("train", "test"), (train, test), config.expect, strict=True):
        if found != expected:
            kind = "fewer" if found < expected else "more"
            raise InputError(
                f"data.expect: the {name} split of {config.name} in {root} has {found} images, "
                f"{kind} than the {expected} of a whole copy; replace that copy, or give "
                "data.expect=null if it is meant"
            )


def _list_folder(root: Path) -> tuple[dict[str, Files], tuple[str, ...]]:
    """(file, class) for the images below train/ and test/, in the order of their names."""
    try:
        return _listed(root)
    except OSError as error:
        raise InputError(f"data.root: {error.filename} cannot be read: {error.strerror}") from None


def _listed(root: Path) -> tuple[dict[str, Files], tuple[str, ...]]:
    if not root.is_dir():
        raise InputError(
            f"data.root: {str(root)!r} is not a folder; it must hold train/CLASS/ and test/CLASS/ "
            "(queued experiments run elsewhere: give an absolute path)"
        )
    names = {}
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise InputError(f"data.root: {root} lacks the folder {part}/ with one folder a class")
        folders = (path for path in (root / part).iterdir() if path.is_dir())
        names[part] = sorted(path.name for path in folders if not path.name.startswith("."))
    classes = names["train"]
    if len(classes) < 2 or names["test"] != classes:
        raise InputError(
            f"data.root: {root} must have the same two or more class folders in train/ and test/; "
            f"train/ has {_shorten(classes)}, test/ has {_shorten(names['test'])}"
        )
    files: dict[str, Files] = {}
    for part in names:
        files[part] = []
        for label, name in enumerate(classes):
            folder = root / part / name
            found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
            if not found:
                raise InputError(
                    f"data.root: {folder} has no image; allowed are {', '.join(sorted(SUFFIXES))}"
                )
            files[part] += [(path, label) for path in found]
    return files, tuple(classes)


def enough(name: str, wanted: int, available: int) -> None:
    """Are there as many images as the parameter `name` wants?"""
    if wanted > available:
        raise InputError(f"{name}: {wanted} images are wanted, at most {available} can be had")


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") or "none"

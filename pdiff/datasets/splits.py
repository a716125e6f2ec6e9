"""A set of torchvision as a split: one tensor if its images share one small size, else a list."""

import os
from collections.abc import Callable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import EpsImagePlugin, Image
from torchvision.datasets import VisionDataset

from pdiff.config import DataConfig
from pdiff.images.batches import Split
from pdiff.images.decode import decode, image_size, naming, rgb
from pdiff.images.listed import ImageFiles, thread_count
from pdiff.images.pixels import ImageSplit
from pdiff.system.errors import InputError
from pdiff.system.paths import root as project
from pdiff.system.progress import tqdm

SMALL = 96  # pixels: images of one size with no longer side stay in memory
IN_MEMORY = 4 * 2**30  # bytes: if they need no more than this
FILES = {  # sets that take no loader, with which the others give the names of their files
    "OxfordIIITPet": lambda pets: zip(pets._images, pets._labels, strict=True),
    "GTSRB": lambda signs: signs._samples,
}


def read_splits(
    train: VisionDataset, test: VisionDataset, config: DataConfig
) -> tuple[Split, Split, tuple[str, ...]]:
    """Training images, test images and class names of two data sets that lie in `data.root`.

    A set without names for its classes is counted from 0 and keeps its numbers as names.

    Raises:
        InputError: not as many images as `data.expect`, a broken file, a name that is not UTF-8, no
            class for an image, or large images that are no files.
    """
    found = []
    for name, dataset, expected in zip(
        ("train", "test"), (train, test), config.expect or (None, None), strict=True
    ):
        if not len(dataset) or len(dataset) != (expected or len(dataset)):
            raise InputError(
                f"data.expect: the {name} split of {config.name} in {project() / config.root} has "
                f"{len(dataset)} images, a whole copy {expected or 'more'}; replace that copy, or "
                "give data.expect=null if it is meant"
            )
        found.append(_items(dataset, config.reader))
    values = sorted({label for _, labels in found for label in labels})
    classes = [c if isinstance(c, str) else ", ".join(c) for c in getattr(train, "classes", ())]
    if not 0 <= values[0] <= values[-1] < len(classes):
        classes = [str(value) for value in values]
        found = [(images, [values.index(label) for label in labels]) for images, labels in found]
    return *(_split(images, torch.tensor(own), config) for images, own in found), tuple(classes)


def _items(dataset: VisionDataset, reader: str) -> tuple[list[Path] | list[np.ndarray], list[int]]:
    """Each image as a file or as pixels (H, W, 3) of one small size, and its class."""
    rows = tqdm(range(len(dataset)), f"read {reader}", disable=None, unit="image")
    EpsImagePlugin.gs_binary = False  # torchvision opens files of any format itself
    pairs = FILES[reader](dataset) if reader in FILES else (_item(dataset, i, reader) for i in rows)
    images, labels, sizes = [], [], set()
    for image, label in pairs:
        if isinstance(image, str | Path):
            if os.fsencode(image).decode(errors="ignore") != str(image):
                raise InputError(f"data.root: the name of {str(image)!a} is not UTF-8; rename it")
            images.append(Path(image))
        else:
            sizes.add(image.size if isinstance(image, Image.Image) else None)
            if len(sizes) > 1 or None in sizes or not _fits(len(dataset), *image.size):
                raise InputError(
                    f"data.reader: {reader} gives neither files nor images of one size of at most "
                    f"{SMALL} px; write them to a folder and use data=folder"
                )
            images.append(np.asarray(rgb(image)))
        try:
            labels.append(int(label))
        except (TypeError, ValueError):
            raise InputError(f"data.reader: {reader} has no class for each image") from None
    return images, labels


def _item(dataset: VisionDataset, index: int, reader: str) -> tuple[Any, ...]:
    with naming(f"number {index} of {reader}"):
        return dataset[index]


def _split(
    images: list[Path] | list[np.ndarray], labels: torch.Tensor, config: DataConfig
) -> Split:
    """One tensor of the images; a list if they are files of several sizes or larger ones."""
    if isinstance(images[0], Path):
        sizes = list(_in_threads(image_size, images, "look at images"))
        height, width = sizes[0]
        small = min(height, width) <= config.resize and _fits(len(images), height, width)
        if len(set(sizes)) > 1 or not small:
            root = project() / config.root
            paths = tuple(path.relative_to(root).as_posix() for path in images)
            return ImageFiles(config.root, paths, torch.tensor(sizes), labels)
        images = _in_threads(lambda path: np.asarray(decode(path)), images, "decode images")
    pixels = torch.from_numpy(np.stack(list(images)))
    return ImageSplit(pixels.permute(0, 3, 1, 2).contiguous(), labels)


def _fits(count: int, height: int, width: int) -> bool:
    """Whether `count` images of one size are kept as one tensor; the same on every machine."""
    return max(height, width) <= SMALL and count * height * width * 3 <= IN_MEMORY


def _in_threads(function: Callable[[Path], Any], paths: list[Path], doing: str) -> Iterator[Any]:
    with ThreadPool(thread_count()) as pool:
        results = pool.imap(function, paths, chunksize=64)
        yield from tqdm(results, doing, len(paths), disable=None, unit="image")

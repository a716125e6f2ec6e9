"""Images, labels and class names out of a set of torchvision, by what it shows to everyone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision.datasets import VisionDataset
from tqdm import tqdm

from pdiff.images.decode import rgb
from pdiff.system.errors import InputError

SMALL = 96  # pixels: images of one size with no longer side stay in memory
IN_MEMORY = 4 * 2**30  # bytes: if they need no more than this


def fits_in_memory(count: int, height: int, width: int) -> bool:
    """Are so many images of this one size to be kept as one tensor; the same on every machine."""
    return max(height, width) <= SMALL and count * height * width * 3 <= IN_MEMORY


def read_items(dataset: VisionDataset, reader: str) -> tuple[np.ndarray | list[Path], list[int]]:
    """Images and labels of a torchvision set: pixels of one small size, or else files.

    A class with a loader gives file names, see `pdiff.datasets.torchvision`. One without gets
    Pillow's `open` replaced, so that it hands over the file name unread; where that is not how
    it reads, pixels are taken as they come.
    """
    if not len(dataset):
        raise InputError(f"data.reader: {reader} holds no image in data.root")
    with _unread():
        try:
            unread = isinstance(dataset[0][0], str | Path | _Unread)
        except Exception:  # it does more with an image than open it
            unread = False
        if unread:
            items = [dataset[i] for i in range(len(dataset))]
            files = [i.path if isinstance(i, _Unread) else Path(i) for i, _ in items]
            return files, _labels([label for _, label in items], reader)
    first = dataset[0][0]
    if not isinstance(first, Image.Image):
        raise InputError(f"data.reader: {reader} gives {type(first).__name__} and not images")
    small = fits_in_memory(len(dataset), first.height, first.width)
    pixels = np.empty((len(dataset) if small else 0, first.height, first.width, 3), np.uint8)
    labels = []
    for i in tqdm(range(len(dataset)), "read images", disable=None, unit="image"):
        image, label = dataset[i]
        if not small or image.size != first.size:
            raise InputError(
                f"data.reader: {reader} gives neither files nor images of one size of at most "
                f"{SMALL} px; write them to a folder and use data=folder"
            )
        pixels[i] = np.asarray(rgb(image))
        labels.append(label)
    return pixels, _labels(labels, reader)


class _Unread:
    """Stands for an image that was opened and converted, but not read."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def convert(self, mode: str) -> "_Unread":
        return self


@contextmanager
def _unread() -> Iterator[None]:
    opened = Image.open
    Image.open = _Unread
    try:
        yield
    finally:
        Image.open = opened


def _labels(labels: list[Any], reader: str) -> list[int]:
    try:
        return [int(label) for label in labels]
    except (TypeError, ValueError):
        raise InputError(f"data.reader: {reader} has no class for each image") from None


def name_classes(
    labels: list[list[int]], dataset: VisionDataset
) -> tuple[list[list[int]], tuple[str, ...]]:
    """Labels from 0 and the names of the classes, as the set has them or else its own numbers."""
    values = sorted({label for split in labels for label in split})
    classes = getattr(dataset, "classes", None) or ()
    if values[0] >= 0 and values[-1] < len(classes):
        names = [", ".join(c) if isinstance(c, tuple | list) else str(c) for c in classes]
        return labels, tuple(names)
    number = {value: i for i, value in enumerate(values)}
    return [[number[v] for v in split] for split in labels], tuple(map(str, values))

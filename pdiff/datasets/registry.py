"""Where images come from: the digits, anyone's own folder, or a class of torchvision.

torchvision takes seconds to import, so functions import what needs it.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn import functional

from pdiff.config import DataConfig
from pdiff.images.batches import Split
from pdiff.images.pixels import ImageSplit
from pdiff.system.errors import InputError

Source = tuple[Split, Split, tuple[str, ...]]
Item = TypeVar("Item")


def read_images(config: DataConfig, generator: torch.Generator) -> Source:
    """Training images, test images, class names; `InputError` for what is missing or broken."""
    if config.reader == "digits":
        return _digits(config, generator)
    from pdiff.datasets.folder import open_folder
    from pdiff.datasets.splits import read_splits
    from pdiff.datasets.torchvision import open_sets

    sets = open_folder(config) if config.reader == "folder" else open_sets(config)
    return read_splits(*sets, config)


def check_images(config: DataConfig) -> None:
    """Raise `InputError` for a mistake that shows without reading an image or downloading."""
    if config.reader == "digits":
        return
    from pdiff.datasets.folder import open_folder
    from pdiff.datasets.torchvision import check_set

    (open_folder if config.reader == "folder" else check_set)(config)


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


def enough(name: str, wanted: int, available: int) -> None:
    """Raise `InputError` if the parameter `name` wants more images than there are."""
    if wanted > available:
        raise InputError(f"{name}: {wanted} images are wanted, at most {available} can be had")


def split_rows(
    config: DataConfig, train: int, test: int, generator: torch.Generator, own: int = 0
) -> tuple[Int64[Tensor, " _"], Int64[Tensor, " _"], Int64[Tensor, " _"]]:
    """Which of so many training images train, which images validate, which test images count.

    Training images are held back to validate, or where a set has them some of its `own` validation
    images; none with `data.split: paper`. `InputError` if there are too few.
    """
    order = torch.randperm(train, generator=generator)
    validation = order[:0]
    if config.split == "validation":
        known = torch.randperm(own, generator=generator) if own else order
        size = config.validation_size
        count = size if isinstance(size, int) else max(1, round(size * len(known)))
        enough("data.validation_size", count, own or train - 2)
        validation = known[:count]
        order = order if own else order[count:]
    if config.train_size is not None:
        enough("data.train_size", config.train_size, len(order))
        order = order[: config.train_size]
    if config.test_size is None:
        return order, validation, torch.arange(test)
    enough("data.test_size", config.test_size, test)
    return order, validation, torch.randperm(test, generator=generator)[: config.test_size]


def split_lists(
    config: DataConfig, parts: Mapping[str, Sequence[Item]], generator: torch.Generator
) -> tuple[list[Item], list[Item], list[Item]]:
    """What trains, validates and tests, as `split_rows` splits the parts train, test and val.

    The second list is the third one, the same object, where test images validate.
    """
    train, test, own = parts["train"], parts["test"], parts.get("val", ())
    rows = split_rows(config, len(train), len(test), generator, len(own))
    training, validating, testing = (chosen.tolist() for chosen in rows)
    tested = [test[i] for i in testing]
    validated = [(own or train)[i] for i in validating] or tested
    return [train[i] for i in training], validated, tested

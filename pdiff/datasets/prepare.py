"""Read an image set by its name and split it into train, validation and test."""

import torch

from pdiff.config import DataConfig
from pdiff.datasets.registry import check_images, enough, read_images
from pdiff.images.batches import ImageSet


def prepare_images(config: DataConfig, generator: torch.Generator) -> ImageSet:
    """Read an image set and split it.

    Raises:
        InputError: unknown reader, missing or broken files, too few images, no network.
    """
    check_images(config)
    train, test, classes = read_images(config, generator)
    order = torch.randperm(len(train), generator=generator)
    if config.split == "validation":
        size = config.validation_size
        held_back = size if isinstance(size, int) else max(1, round(size * len(train)))
        enough("data.validation_size", held_back, len(train) - 2)
        validation, order = train.take(order[:held_back]), order[held_back:]
    if config.train_size is not None:
        enough("data.train_size", config.train_size, len(order))
        order = order[: config.train_size]
    if config.test_size is not None:
        enough("data.test_size", config.test_size, len(test))
        test = test.take(torch.randperm(len(test), generator=generator)[: config.test_size])
    test = test.with_fixed_noise(config, generator)
    if config.split == "validation":
        validation = validation.with_fixed_noise(config, generator)
    else:
        validation = test
    return ImageSet(train.take(order), validation, test, classes)

"""Read an image set by its name and split it into train, validation and test."""

import torch

from pdiff.config import DataConfig
from pdiff.datasets.registry import check_images, read_images, split_rows
from pdiff.images.batches import ImageSet


def prepare_images(config: DataConfig, generator: torch.Generator) -> ImageSet:
    """Read an image set and split it.

    Raises:
        InputError: unknown reader, missing or broken files, too few images, no network.
    """
    check_images(config)
    train, test, classes = read_images(config, generator)
    rows, validating, testing = split_rows(config, len(train), len(test), generator)
    test = test.take(testing).with_fixed_noise(config, generator)
    validation = test
    if config.split == "validation":
        validation = train.take(validating).with_fixed_noise(config, generator)
    return ImageSet(train.take(rows), validation, test, classes)

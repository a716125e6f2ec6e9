"""Image sets: how they are split, kept on disk, and given out in batches.

A split is one tensor of small images (`ImageSplit`) or a list of files (`ImageFiles`); both are
used in the same way.

Axes: N images, B batch, C = 3 channels, S the side that the net sees.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pdiff.config import DataConfig
from pdiff.errors import InputError
from pdiff.files import load_tensors, save_tensors
from pdiff.image_files import ImageFiles, read_paths
from pdiff.ranks import batch_share, share
from pdiff.readers import Split, check_reader, enough, read_images
from pdiff.splits import ImageSplit

__all__ = [
    "EvaluationBatches",
    "ImageFiles",
    "ImageSet",
    "ImageSplit",
    "Split",
    "batch_sizes",
    "check_images",
    "load_images",
    "own_batches",
    "prepare_images",
    "save_images",
    "training_batches",
]


@dataclass(frozen=True)
class ImageSet:
    """The three splits; with `data.split: paper` the validation split is the test split."""

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]

    def to(self, device: torch.device | str) -> "ImageSet":
        splits = {name: getattr(self, name).to(device) for name in SPLITS}
        return replace(self, **splits)


SPLITS = ("train", "validation", "test")


def prepare_images(config: DataConfig, generator: torch.Generator) -> ImageSet:
    """Read an image set and split it, as `config` and the generator say.

    Raises:
        InputError: unknown reader, missing or broken files, too few images, no network.
    """
    check_images(config)
    train, test, classes = read_images(config, generator)
    order = torch.randperm(len(train), generator=generator)
    if config.split == "validation":
        held_back = _count(config.validation_size, len(train))
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


def check_images(config: DataConfig) -> None:
    """What can be known about the images without decoding one; raises `InputError`."""
    if config.resize < config.size:
        raise InputError(
            f"data.resize: {config.resize} is smaller than data.size: {config.size}, the side of "
            "the centre crop"
        )
    check_reader(config)


def save_images(path: Path, images: ImageSet) -> None:
    tensors, header = {}, {"classes": images.classes}
    for name in SPLITS:
        split = getattr(images, name)
        tensors |= {f"{name}.{key}": tensor for key, tensor in split.tensors().items()}
        if isinstance(split, ImageFiles):
            header["root"] = split.root
    save_tensors(path, tensors, **header)


def load_images(path: Path, device: torch.device | str = "cpu") -> ImageSet:
    """The image set that `save_images` wrote; `InputError` if it is missing or broken."""
    tensors, header = load_tensors(path)
    if f"{SPLITS[0]}.labels" not in tensors or "classes" not in header:
        raise InputError(f"{path} is not an image set")
    splits = {}
    for name in SPLITS:
        own = {k.removeprefix(f"{name}."): t for k, t in tensors.items() if k.startswith(name)}
        if "paths" in own:
            splits[name] = ImageFiles(header["root"], **own | {"paths": read_paths(own["paths"])})
        else:
            splits[name] = ImageSplit(**own)
    return ImageSet(**splits, classes=tuple(header["classes"])).to(device)


def training_batches(
    split: Split, config: DataConfig, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Float[Tensor, "B C S S"], Int64[Tensor, " B"]]]:
    """One pass in random order, augmented and normalised; each batch as `batch_sizes` says.

    Of processes that share a stage, each gets its part of every batch.
    """
    order = torch.randperm(len(split), generator=generator, device=split.labels.device)
    sizes = batch_sizes(len(split), batch_size)
    batches = order[: sum(sizes)].split(sizes)
    images = split.augmented(batches, config, generator)
    for index, pixels in zip(batches, images, strict=True):
        yield _normalise(pixels, config), split.labels[index[batch_share(len(index))]]


def batch_sizes(count: int, batch_size: int) -> list[int]:
    """Sizes of the batches of `count` images; batch norm needs two, so a last one is left out."""
    rest = count % batch_size
    return [batch_size] * (count // batch_size) + [rest] * (rest > 1)


def own_batches(split: Split, batch_size: int) -> Split:
    """This process's share of a split: whole batches in a row, perhaps none."""
    own = share(-(-len(split) // batch_size))
    rows = torch.arange(len(split), device=split.labels.device)
    rows = rows[own.start * batch_size : own.stop * batch_size]
    return split if len(rows) == len(split) else split.take(rows)


@dataclass(frozen=True)
class EvaluationBatches:
    """All images of a split in order: resized, centre-cropped and normalised, B at a time."""

    split: Split
    config: DataConfig
    batch_size: int

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[Float[Tensor, "B C S S"]]:
        if not len(self.split):
            return
        for images in self.split.evaluated(self.batch_size, self.config):
            yield _normalise(images, self.config)


def _normalise(images: Float[Tensor, "B C S S"], config: DataConfig) -> Float[Tensor, "B C S S"]:
    mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (config.mean, config.std))
    return (images - mean) / std


def _count(size: int | float, available: int) -> int:
    count = size if isinstance(size, int) else max(1, round(size * available))
    enough("data.validation_size", count, available - 2)
    return count

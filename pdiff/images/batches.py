"""Image sets: how they are split, kept on disk, and given out in batches.

A split is one tensor of small images (`ImageSplit`), a list of files (`ImageFiles`), or what a task
other than classification needs (`Examples`).

Axes: N images, B batch, C = 3 channels, S the side that the net sees.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pdiff.config import DataConfig
from pdiff.core.files import load_tensors, save_tensors
from pdiff.images.examples import Examples
from pdiff.images.listed import ImageFiles, read_paths
from pdiff.images.pixels import ImageSplit
from pdiff.system.errors import InputError

Split = ImageSplit | ImageFiles | Examples


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


def save_images(path: Path, images: ImageSet) -> None:
    tensors, header = {}, {"classes": images.classes}
    for name in SPLITS:
        split = getattr(images, name)
        tensors |= {f"{name}.{key}": tensor for key, tensor in split.tensors().items()}
        if isinstance(split, ImageFiles):
            header["root"] = split.root
        elif isinstance(split, Examples):
            header["examples"] = True
    save_tensors(path, tensors, **header)


def load_images(path: Path, device: torch.device | str = "cpu") -> ImageSet:
    """The image set that `save_images` wrote; `InputError` if it is missing or broken."""
    tensors, header = load_tensors(path)
    if "classes" not in header or not any(name.startswith(SPLITS) for name in tensors):
        raise InputError(f"{path} is not an image set")
    splits = {}
    for name in SPLITS:
        own = {k.removeprefix(f"{name}."): t for k, t in tensors.items() if k.startswith(name)}
        if "examples" in header:
            splits[name] = Examples(own)
            continue
        if "paths" in own:
            own |= {"paths": read_paths(own["paths"]), "root": header["root"]}
        splits[name] = (ImageFiles if "paths" in own else ImageSplit)(**own)
    return ImageSet(**splits, classes=tuple(header["classes"])).to(device)


def chance(labels: Int64[Tensor, " N"]) -> float:
    """What guessing reaches: the largest class's share, and two standard errors more."""
    share = labels.bincount().max().item() / len(labels)
    return share + 2 * math.sqrt(share * (1 - share) / len(labels))


def training_batches(
    split: Split, config: DataConfig, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Float[Tensor, "B C S S"], Int64[Tensor, " B"]]]:
    """One pass in random order, augmented and normalised.

    Batch norm needs two images, so a last one alone is left out.
    """
    order = torch.randperm(len(split), generator=generator, device=split.labels.device)
    batches = [rows for rows in order.split(batch_size) if len(rows) > 1]
    images = split.augmented(batches, config, generator)
    for rows, pixels in zip(batches, images, strict=True):
        yield _normalise(pixels, config), split.labels[rows]


@dataclass(frozen=True)
class EvaluationBatches:
    """All images of a split in order: resized, centre-cropped and normalised, B at a time."""

    split: Split
    config: DataConfig
    batch_size: int

    def __iter__(self) -> Iterator[Float[Tensor, "B C S S"]]:
        for images in self.split.evaluated(self.batch_size, self.config):
            yield _normalise(images, self.config)


def _normalise(images: Float[Tensor, "B C S S"], config: DataConfig) -> Float[Tensor, "B C S S"]:
    mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (config.mean, config.std))
    return (images - mean) / std

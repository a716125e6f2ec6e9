"""A split of small images: one uint8 tensor that stays on the device, augmented there in batches.

`pdiff.images.listed.ImageFiles`, the other kind of split, has the same methods.

Axes: N images, B batch, C = 3 channels, H and W pixels, S the side that the net sees.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from pdiff.config import DataConfig
from pdiff.images.augment import add_noise, centre_crop, draw_boxes, sample_boxes


@dataclass(frozen=True)
class ImageSplit:
    """Images of one size and their classes."""

    images: UInt8[Tensor, "N C H W"]
    labels: Int64[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Int64[Tensor, " M"]) -> "ImageSplit":
        return ImageSplit(self.images[index], self.labels[index])

    def to(self, device: torch.device | str) -> "ImageSplit":
        return ImageSplit(self.images.to(device), self.labels.to(device))

    def augmented(
        self, batches: Sequence[Int64[Tensor, " _"]], config: DataConfig, generator: torch.Generator
    ) -> Iterator[Float[Tensor, "_ C S S"]]:
        """The images of each batch as training sees them; pixels in [0, 1]."""
        sizes = torch.tensor(self.images.shape[2:], device=self.images.device)
        for index in batches:
            boxes, mirrored = draw_boxes(sizes.expand(len(index), 2), config, generator)
            pixels = self.images[index].float() / 255
            yield add_noise(sample_boxes(pixels, boxes, mirrored, config.size), config, generator)

    def evaluated(self, batch_size: int, config: DataConfig) -> Iterator[Float[Tensor, "_ C S S"]]:
        """All images in order as evaluation sees them; pixels in [0, 1]."""
        as_stored = config.noise > 0  # with_fixed_noise left them at the size of the net
        for images in self.images.split(batch_size):
            yield images.float() / 255 if as_stored else _resize_and_crop(images, config)

    def with_fixed_noise(self, config: DataConfig, generator: torch.Generator) -> "ImageSplit":
        """Evaluation images with noise drawn once, at the size that the net sees."""
        if config.noise == 0:
            return self
        noised = add_noise(_resize_and_crop(self.images, config), config, generator) * 255
        return replace(self, images=noised.round().to(torch.uint8))

    def tensors(self) -> dict[str, Tensor]:
        """The split on disk."""
        return {"images": self.images, "labels": self.labels}


def _resize_and_crop(
    images: UInt8[Tensor, "B C H W"], config: DataConfig
) -> Float[Tensor, "B C S S"]:
    """Pixels in [0, 1]: the shorter side at `resize`, then the centre crop to `size`."""
    pixels, stored = images.float() / 255, tuple(images.shape[2:])
    sides, top, left = centre_crop(*stored, config)
    if sides != stored:
        pixels = functional.interpolate(pixels, sides, mode="bilinear", antialias=True)
    return pixels[..., top : top + config.size, left : left + config.size]

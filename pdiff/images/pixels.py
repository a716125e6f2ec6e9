"""A split of small images: one uint8 tensor that stays on the device, augmented there in batches.

`pdiff.images.listed.ImageFiles` is the other kind of split and is used in the same way.

Axes: N images, B batch, C = 3 channels, H and W pixels, S the side that the net sees.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from pdiff.config import DataConfig
from pdiff.images.augment import augment


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
        for index in batches:
            yield augment(self.images[index], config, generator)

    def evaluated(self, batch_size: int, config: DataConfig) -> Iterator[Float[Tensor, "_ C S S"]]:
        """All images in order as evaluation sees them; pixels in [0, 1]."""
        for images in self.images.split(batch_size):
            yield _resize_and_crop(images, config)

    def with_fixed_noise(self, config: DataConfig, generator: torch.Generator) -> "ImageSplit":
        """Evaluation images with the noise that they keep, at the size that the net sees."""
        if config.noise == 0:
            return self
        pixels = _resize_and_crop(self.images, config)
        noise = torch.randn(pixels.shape, generator=generator)
        noised = (pixels + config.noise * noise).clamp(0, 1) * 255
        return replace(self, images=noised.round().to(torch.uint8))

    def tensors(self) -> dict[str, Tensor]:
        """What is kept of the split on disk."""
        return {"images": self.images, "labels": self.labels}


def _resize_and_crop(
    images: UInt8[Tensor, "B C H W"], config: DataConfig
) -> Float[Tensor, "B C S S"]:
    """Pixels in [0, 1]; as torchvision's Resize(resize) and CenterCrop(size) on tensors."""
    height, width = images.shape[2:]
    pixels = images.float() / 255
    as_the_net_sees_it = config.noise > 0 or config.resize == config.size
    if as_the_net_sees_it and (height, width) == (config.size, config.size):
        return pixels
    shorter = min(height, width)
    new = tuple(int(config.resize * side / shorter) for side in (height, width))
    if new != (height, width):
        pixels = functional.interpolate(pixels, new, mode="bilinear", antialias=True)
    top, left = (round((side - config.size) / 2) for side in new)
    return pixels[:, :, top : top + config.size, left : left + config.size]

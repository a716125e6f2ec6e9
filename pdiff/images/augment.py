"""Training augmentation: each image is sampled bilinearly from a box of its source pixels.

A random resized crop and a shift choose the box; it may be mirrored.

Axes: B batch, C channels, H and W stored pixels, S the side that the net sees.
"""

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from pdiff.config import DataConfig

RATIO = (3 / 4, 4 / 3)  # widest and tallest crop, as torchvision's RandomResizedCrop
TRIES = 10


def draw_boxes(
    sizes: Int64[Tensor, "B 2"], config: DataConfig, generator: torch.Generator
) -> tuple[Float[Tensor, "B 4"], Bool[Tensor, " B"]]:
    """What images of these heights and widths show: each one's box, and whether it is mirrored."""
    batch, device = len(sizes), sizes.device
    if config.crop_scale is None:
        boxes = centre_boxes(sizes, config)
    else:
        boxes = random_boxes(sizes, config.crop_scale, generator)
    if config.shift:
        span = 2 * config.shift + 1
        moves = torch.randint(span, (batch, 2), generator=generator, device=device) - config.shift
        pixel = boxes[:, 2:] / config.size  # one pixel of the result, in stored pixels
        boxes = torch.cat([boxes[:, :2] + moves * pixel, boxes[:, 2:]], dim=1)
    mirrored = torch.zeros(batch, dtype=torch.bool, device=device)
    if config.flip:
        mirrored = torch.rand(batch, generator=generator, device=device) < 0.5
    return boxes, mirrored


def add_noise(
    pixels: Float[Tensor, "_ C S S"], config: DataConfig, generator: torch.Generator
) -> Float[Tensor, "_ C S S"]:
    """Add fresh Gaussian noise of std `config.noise` and clip to [0, 1]."""
    if config.noise:
        noise = torch.randn(pixels.shape, generator=generator, device=pixels.device)
        pixels = (pixels + config.noise * noise).clamp(0, 1)
    return pixels


def centre_crop(height: int, width: int, config: DataConfig) -> tuple[tuple[int, int], int, int]:
    """Evaluation: height and width after resizing, top and left of the crop; as torchvision's."""
    short = min(height, width)
    height, width = (int(config.resize * side / short) for side in (height, width))
    return (height, width), round((height - config.size) / 2), round((width - config.size) / 2)


def centre_boxes(sizes: Int64[Tensor, "B 2"], config: DataConfig) -> Float[Tensor, "B 4"]:
    """The centre crops of images of these heights and widths, in stored pixels."""
    height, width = sizes.double().unbind(1)
    side = torch.minimum(height, width) * config.size / config.resize
    return torch.stack([(width - side) / 2, (height - side) / 2, side, side], dim=1).float()


def random_boxes(
    sizes: Int64[Tensor, "B 2"], scale: tuple[float, float], generator: torch.Generator
) -> Float[Tensor, "B 4"]:
    """Boxes (left, top, width, height) in pixels, distributed as torchvision's RandomResizedCrop.

    Each image takes the first of ten draws that fits, else the largest centred box of an allowed
    aspect ratio.
    """
    batch, device = len(sizes), generator.device
    height, width = sizes.unbind(1)
    uniform = torch.rand(4, TRIES, batch, generator=generator, device=device)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[0])
    low, high = (math.log(bound) for bound in RATIO)
    ratio = torch.exp(low + (high - low) * uniform[1])
    widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)  # (TRIES, B)
    left = (uniform[2] * (width - widths + 1)).floor()
    top = (uniform[3] * (height - heights + 1)).floor()
    boxes = torch.stack([left, top, widths, heights], dim=-1)  # (TRIES, B, 4)
    first = fits.int().argmax(0)  # index of the first draw that fits
    chosen = boxes[first, torch.arange(batch, device=device)]
    return torch.where(fits.any(0)[:, None], chosen, _largest_boxes(sizes))


def _largest_boxes(sizes: Int64[Tensor, "B 2"]) -> Float[Tensor, "B 4"]:
    height, width = sizes.double().unbind(1)
    box_width = torch.minimum(width, (height * RATIO[1]).round())
    box_height = torch.minimum(height, (width / RATIO[0]).round())
    left, top = ((width - box_width) / 2).floor(), ((height - box_height) / 2).floor()
    return torch.stack([left, top, box_width, box_height], dim=1).float()


def sample_boxes(
    pixels: Float[Tensor, "B C H W"],
    boxes: Float[Tensor, "B 4"],
    mirrored: Bool[Tensor, " B"],
    size: int,
) -> Float[Tensor, "B C S S"]:
    """Resize each image's box to (size, size) bilinearly, without antialiasing.

    Beyond its edge a box repeats its own pixels, an image its border.
    """
    height, width = pixels.shape[2:]
    steps = (torch.arange(size, device=pixels.device) + 0.5) / size  # (S,)
    across = torch.where(mirrored[:, None], 1 - steps, steps)  # (B, S)
    x = _positions(boxes[:, 0:1], boxes[:, 2:3], across)
    y = _positions(boxes[:, 1:2], boxes[:, 3:4], steps.expand_as(across))
    grid_x = (2 * x / width - 1)[:, None, :].expand(-1, size, -1)
    grid_y = (2 * y / height - 1)[:, :, None].expand(-1, -1, size)
    grid = torch.stack([grid_x, grid_y], dim=-1)
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _positions(
    start: Float[Tensor, "B 1"], length: Float[Tensor, "B 1"], share: Float[Tensor, "B S"]
) -> Float[Tensor, "B S"]:
    """Where the new pixels lie in the old image, kept within the box's outermost pixel centres."""
    position = start + length * share
    return torch.maximum(torch.minimum(position, start + length - 0.5), start + 0.5)

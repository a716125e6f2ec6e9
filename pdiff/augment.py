"""Training augmentation of a whole batch on its device.

Each image gets one box of source pixels, perhaps mirrored, and is sampled bilinearly from it: a
random resized crop, a shift, or both are boxes.

Axes: B batch, C channels, H and W stored pixels, S the side that the net sees.
"""

import math

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from pdiff.config import DataConfig

RATIO = (3 / 4, 4 / 3)  # widest and tallest crop, as torchvision's RandomResizedCrop
TRIES = 10


def augment(
    images: UInt8[Tensor, "B C H W"], config: DataConfig, generator: torch.Generator
) -> Float[Tensor, "B C S S"]:
    """Crop, shift, mirror and add noise as `config` says; pixels in [0, 1]."""
    batch, _, height, width = images.shape
    device = images.device
    if config.crop_scale is None:
        boxes = centre_box(height, width, config).to(device).repeat(batch, 1)
    else:
        boxes = random_boxes(batch, height, width, config.crop_scale, generator)
    if config.shift:
        span = 2 * config.shift + 1
        moves = torch.randint(span, (batch, 2), generator=generator, device=device) - config.shift
        pixel = boxes[:, 2:] / config.size  # one pixel of the result, in stored pixels
        boxes = torch.cat([boxes[:, :2] + moves * pixel, boxes[:, 2:]], dim=1)
    mirrored = torch.zeros(batch, dtype=torch.bool, device=device)
    if config.flip:
        mirrored = torch.rand(batch, generator=generator, device=device) < 0.5
    pixels = sample_boxes(images.float() / 255, boxes, mirrored, config.size)
    if config.noise:
        noise = torch.randn(pixels.shape, generator=generator, device=device)
        pixels = (pixels + config.noise * noise).clamp(0, 1)
    return pixels


def centre_box(height: int, width: int, config: DataConfig) -> Float[Tensor, " 4"]:
    """What evaluation sees of a stored image: its centre crop, in stored pixels."""
    side = min(height, width) * config.size / config.resize
    return torch.tensor([(width - side) / 2, (height - side) / 2, side, side])


def random_boxes(
    batch: int, height: int, width: int, scale: tuple[float, float], generator: torch.Generator
) -> Float[Tensor, "B 4"]:
    """Boxes (left, top, width, height) in pixels, distributed as torchvision's RandomResizedCrop.

    Each image takes the first of ten draws that fits, else the largest centred box whose aspect
    ratio is allowed.
    """
    device = generator.device
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
    return torch.where(fits.any(0)[:, None], chosen, boxes.new_tensor(_largest(height, width)))


def _largest(height: int, width: int) -> list[float]:
    ratio = width / height
    if ratio < RATIO[0]:
        box_width, box_height = width, round(width / RATIO[0])
    elif ratio > RATIO[1]:
        box_width, box_height = round(height * RATIO[1]), height
    else:
        box_width, box_height = width, height
    box = (width - box_width) // 2, (height - box_height) // 2, box_width, box_height
    return [float(side) for side in box]


def sample_boxes(
    pixels: Float[Tensor, "B C H W"],
    boxes: Float[Tensor, "B 4"],
    mirrored: Bool[Tensor, " B"],
    size: int,
) -> Float[Tensor, "B C S S"]:
    """Resize each image's box to (size, size) bilinearly; beyond its edge a box repeats it.

    Where a box is larger than `size`, this is bilinear sampling without antialiasing. A box may
    reach beyond the image, whose border is then repeated.
    """
    height, width = pixels.shape[2:]
    steps = (torch.arange(size, device=pixels.device) + 0.5) / size  # (S,)
    across = torch.where(mirrored[:, None], 1 - steps, steps)  # (B, S)
    x = _positions(boxes[:, 0:1], boxes[:, 2:3], across)
    y = _positions(boxes[:, 1:2], boxes[:, 3:4], steps.expand_as(across))
    grid_x = (2 * x / width - 1)[:, None, :].expand(-1, size, -1)
    grid_y = (2 * y / height - 1)[:, :, None].expand(-1, -1, size)
    return functional.grid_sample(
        pixels,
        torch.stack([grid_x, grid_y], dim=-1),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )


def _positions(
    start: Float[Tensor, "B 1"], length: Float[Tensor, "B 1"], share: Float[Tensor, "B S"]
) -> Float[Tensor, "B S"]:
    """Where the new pixels lie in the old image, kept within the box's outermost pixel centres."""
    position = start + length * share
    return torch.maximum(torch.minimum(position, start + length - 0.5), start + 0.5)

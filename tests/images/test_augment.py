"""Augmentation on the device does what torchvision does one image at a time."""

import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as reference

from pdiff.images.augment import augment, random_boxes, sample_boxes


@pytest.fixture
def images(generator) -> torch.Tensor:
    return torch.randint(256, (6, 3, 16, 20), dtype=torch.uint8, generator=generator)


def boxes(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize("box", [(0, 0, 20, 16), (3, 2, 9, 7), (19, 15, 1, 1), (0, 4, 20, 5)])
def test_enlarging_a_box_equals_torchvisions_resized_crop(images, box):
    left, top, width, height = box
    pixels = images.float() / 255
    ours = sample_boxes(pixels, boxes(box).float().repeat(6, 1), torch.zeros(6).bool(), 32)
    theirs = reference.resized_crop(pixels, top, left, height, width, [32, 32], antialias=True)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_the_whole_image_at_its_own_size_is_unchanged(images):
    square = images[:, :, :, :16].float() / 255
    whole = boxes([0, 0, 16, 16]).float().repeat(6, 1)
    torch.testing.assert_close(sample_boxes(square, whole, torch.zeros(6).bool(), 16), square)


def test_mirroring_is_per_image(images):
    square = images[:2, :, :, :16].float() / 255
    whole = boxes([0, 0, 16, 16]).float().repeat(2, 1)
    ours = sample_boxes(square, whole, torch.tensor([True, False]), 16)
    torch.testing.assert_close(ours, torch.stack([square[0].flip(-1), square[1]]))


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 0.9)])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 25)])
def test_boxes_are_distributed_as_torchvisions(generator, scale, height, width):
    count = 4000
    ours = random_boxes(sizes(count, height, width), scale, generator)
    theirs = torchvisions_boxes(count, height, width, scale)
    for column in range(4):
        a, b = ours[:, column].sort().values, theirs[:, column].sort().values
        largest_gap = _kolmogorov_smirnov(a, b)
        assert largest_gap < 1.63 * (2 / count) ** 0.5 + 0.01  # 1 % level


def test_each_image_of_a_batch_has_boxes_for_its_own_size(generator):
    """Sizes mixed in one batch: area and aspect ratio are torchvision's for each of them."""
    shapes, count = [(500, 375), (40, 400), (90, 90)], 3000
    mixed = torch.tensor(shapes).repeat(count, 1)  # they take turns
    ours = random_boxes(mixed, (0.08, 1.0), generator)
    for i, (height, width) in enumerate(shapes):
        pair = ours[i :: len(shapes)], torchvisions_boxes(count, height, width, (0.08, 1.0))
        area = [box[:, 2] * box[:, 3] / (height * width) for box in pair]
        aspect = [(box[:, 2] / box[:, 3]).log() for box in pair]
        for a, b in (area, aspect):
            error = (a.var() / count + b.var() / count).sqrt()
            assert abs(a.mean() - b.mean()) < 3.5 * error + 1e-4
            assert a.std().item() == pytest.approx(b.std().item(), rel=0.06)


def sizes(count: int, height: int, width: int) -> torch.Tensor:
    return torch.tensor([height, width]).expand(count, 2)


def torchvisions_boxes(count: int, height: int, width: int, scale: tuple) -> torch.Tensor:
    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    drawn = [RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(count)]
    top, left, box_height, box_width = torch.tensor(drawn, dtype=torch.float32).T
    return torch.stack([left, top, box_width, box_height], dim=1)


def _kolmogorov_smirnov(a: torch.Tensor, b: torch.Tensor) -> float:
    both = torch.cat([a, b]).unique()
    below = [torch.searchsorted(x, both, right=True) / len(x) for x in (a, b)]
    return (below[0] - below[1]).abs().max().item()


def test_boxes_lie_inside_the_image(generator):
    left, top, width, height = random_boxes(sizes(2000, 30, 20), (0.08, 1.0), generator).T
    assert (left >= 0).all() and (top >= 0).all() and (width > 0).all() and (height > 0).all()
    assert (left + width <= 20).all() and (top + height <= 30).all()


def test_an_image_that_no_draw_fits_takes_the_largest_centred_box(generator):
    boxes = random_boxes(sizes(3, 10, 100), (1.0, 1.0), generator)
    assert boxes.tolist() == [[43, 0, 13, 10]] * 3


def test_a_shift_repeats_the_border(params, generator):
    data = params.data.model_copy(update={"noise": 0.0, "shift": 2, "size": 8, "resize": 8})
    ramp = torch.arange(8, dtype=torch.uint8).repeat(8, 1) * 10  # columns 0, 10, ..., 70
    shifted = augment(ramp.expand(200, 3, 8, 8), data, generator)
    rows = {tuple((row * 255).round().int().tolist()) for row in shifted[:, 0, 0]}
    expected = {tuple(min(max(i + s, 0), 7) * 10 for i in range(8)) for s in range(-2, 3)}
    assert rows == expected


def test_noise_is_fresh_and_clipped(params, generator):
    data = params.data.model_copy(update={"shift": 0})
    grey = torch.full((2, 3, 32, 32), 128, dtype=torch.uint8)
    first, second = (augment(grey, data, generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert first.min() == 0 and first.max() == 1
    inner = first[(first > 0) & (first < 1)]
    assert inner.std().item() == pytest.approx(0.24, abs=0.02)  # 0.3, cut at 0 and 1


def test_half_of_the_images_are_mirrored(params, generator):
    data = params.data.model_copy(
        update={"noise": 0.0, "shift": 0, "flip": True, "size": 4, "resize": 4}
    )
    ramp = torch.arange(4, dtype=torch.uint8).repeat(4, 1).expand(2000, 3, 4, 4)
    mirrored = augment(ramp, data, generator)[:, 0, 0, 0] > 0
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.05)

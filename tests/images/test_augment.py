"""Augmentation on the device does what torchvision does one image at a time."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as reference

from pdiff.images.augment import random_boxes, sample_boxes
from pdiff.images.pixels import ImageSplit
from tests.toys.sets import one_file


@pytest.fixture
def images(generator) -> torch.Tensor:
    return torch.randint(256, (6, 3, 16, 20), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("box", [(0, 0, 20, 16), (3, 2, 9, 7), (19, 15, 1, 1), (0, 4, 20, 5)])
def test_enlarging_a_box_equals_torchvisions_resized_crop(images, box):
    left, top, width, height = box
    pixels = images.float() / 255
    ours = sample_boxes(pixels, torch.tensor([box]).float().repeat(6, 1), torch.zeros(6).bool(), 32)
    theirs = reference.resized_crop(pixels, top, left, height, width, [32, 32], antialias=True)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_the_whole_image_at_its_own_size_stays_as_it_is_or_is_mirrored(images):
    square = images[:2, :, :, :16].float() / 255
    whole = torch.tensor([[0.0, 0, 16, 16]]).repeat(2, 1)
    ours = sample_boxes(square, whole, torch.tensor([True, False]), 16)
    torch.testing.assert_close(ours, torch.stack([square[0].flip(-1), square[1]]))


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 0.9)])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 25)])
def test_boxes_are_distributed_as_torchvisions(generator, scale, height, width):
    count = 4000
    ours = random_boxes(torch.tensor([[height, width]] * count), scale, generator)
    theirs = torchvisions_boxes(count, height, width, scale)
    for column in range(4):
        largest_gap = ks_2samp(ours[:, column], theirs[:, column]).statistic
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


def torchvisions_boxes(count: int, height: int, width: int, scale: tuple) -> torch.Tensor:
    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    drawn = [RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(count)]
    top, left, box_height, box_width = torch.tensor(drawn, dtype=torch.float32).T
    return torch.stack([left, top, box_width, box_height], dim=1)


def test_boxes_lie_inside_the_image(generator):
    left, top, width, height = random_boxes(
        torch.tensor([[30, 20]] * 2000), (0.08, 1.0), generator
    ).T
    assert (left >= 0).all() and (top >= 0).all() and (width > 0).all() and (height > 0).all()
    assert (left + width <= 20).all() and (top + height <= 30).all()


def test_an_image_that_no_draw_fits_takes_the_largest_centred_box(generator):
    boxes = random_boxes(torch.tensor([[10, 100], [100, 10]]), (1.0, 1.0), generator)
    assert boxes.tolist() == [[43, 0, 13, 10], [0, 43, 10, 13]]


RAMP = np.arange(24, dtype=np.uint8)[None, :, None].repeat(24, 0).repeat(3, 2) * 10


@pytest.fixture(params=["tensor", "files"])
def augmented(request, params, tmp_path, generator):
    """Augmentations of an image (24, 24, 3) of a set that is a tensor or a list of files."""

    def run(image: np.ndarray, count: int, **changes) -> torch.Tensor:
        still = {"noise": 0.0, "shift": 0, "flip": False, "size": 24, "resize": 24}
        still |= {"mean": (0.0,) * 3, "std": (1.0,) * 3}
        data = params.data.model_copy(update=still | changes)
        split = one_file(tmp_path, image)
        if request.param == "tensor":
            split = ImageSplit(torch.from_numpy(image).movedim(2, 0)[None], split.labels)
        return next(split.augmented([torch.zeros(count).long()], data, generator))

    return run


def test_a_shift_repeats_the_border(augmented):
    rows = augmented(RAMP, 200, shift=2)[:, 0, 0].mul(255).round().int().unique(dim=0).tolist()
    expected = [[min(max(i + s, 0), 23) * 10 for i in range(24)] for s in range(-2, 3)]
    assert rows == expected


def test_a_shift_is_in_pixels_of_the_result(augmented):
    """Each is two pixels of the image, so the ramp's mean of them moves by 20."""
    inner = augmented(RAMP, 200, shift=2, size=12, resize=12)[:, 0, 0, 3:9].mul(255).round().int()
    assert inner.unique(dim=0).tolist() == [
        [20 * (i + s) + 5 for i in range(3, 9)] for s in range(-2, 3)
    ]


def test_half_of_the_images_are_mirrored(augmented):
    mirrored = augmented(RAMP, 1000, flip=True)[:, 0, 0, 0] > 0.5
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.07)


def test_noise_is_fresh_and_clipped(augmented):
    first, second = augmented(np.full((24, 24, 3), 128, np.uint8), 2, noise=0.3)
    assert not torch.equal(first, second)
    assert first.min() == 0 and first.max() == 1
    inner = first[(first > 0) & (first < 1)]
    assert inner.std().item() == pytest.approx(0.24, abs=0.02)  # 0.3, cut at 0 and 1

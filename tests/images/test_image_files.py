"""Lists of larger images: decoded when they are asked for, the same whatever the number of threads.

What evaluation sees of every set's files is compared with torchvision in test_readers.py.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as reference

from pdiff.datasets.prepare import prepare_images
from pdiff.images import decode as decoding
from pdiff.images import listed
from pdiff.images.batches import (
    load_images,
    save_images,
    training_batches,
)
from pdiff.images.decode import decode, image_size
from pdiff.system.errors import InputError
from tests.toys.sets import one_file, pixels


@pytest.fixture
def data(params, image_folder):
    """The folder of mixed sizes, all augmentation on."""
    changes = {"reader": "folder", "root": str(image_folder), "train_size": None, "noise": 0.0}
    changes |= {"test_size": None, "validation_size": 0.25, "size": 24, "resize": 28}
    changes |= {"crop_scale": (0.08, 1.0), "shift": 2, "flip": True}
    return params.data.model_copy(update=changes)


@pytest.fixture
def images(data, generator):
    return prepare_images(data, generator)


def plain(data, **changes):
    """No augmentation and no normalisation but what `changes` says."""
    still = {"crop_scale": None, "shift": 0, "flip": False, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    return data.model_copy(update=still | changes)


def smooth(height: int, width: int) -> np.ndarray:
    small = Image.fromarray(pixels(1, 5, 7)[0])
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def trained(split, data, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return list(training_batches(split, data, 5, generator))


def test_a_list_on_disk_comes_back(images, tmp_path):
    save_images(tmp_path / "images.safetensors", images)
    again = load_images(tmp_path / "images.safetensors")
    assert again.classes == images.classes
    for split, saved in ((again.train, images.train), (again.test, images.test)):
        assert (split.root, split.paths) == (saved.root, saved.paths)
        assert torch.equal(split.sizes, saved.sizes)
        assert torch.equal(split.labels, saved.labels)


def test_taking_some_keeps_path_size_and_label_together(images):
    split = images.train.take(torch.tensor([3, 0]))
    assert split.paths == (images.train.paths[3], images.train.paths[0])
    assert torch.equal(split.sizes, images.train.sizes[[3, 0]])
    assert torch.equal(split.labels, images.train.labels[[3, 0]])


def test_the_seed_decides_the_batches_and_the_number_of_threads_nothing(images, data, monkeypatch):
    found = []
    for threads in (1, 4):
        monkeypatch.setattr(listed, "thread_count", lambda threads=threads: threads)
        found.append(trained(images.train, data))
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert not torch.equal(found[0][0][0], trained(images.train, data, seed=1)[0][0])


def test_a_pass_sees_every_image_with_its_own_label(images, data):
    batches = trained(images.train, plain(data))
    dark, bright = (torch.cat([x[y == k] for x, y in batches]) for k in (0, 1))
    assert len(dark) + len(bright) == 12
    assert dark.mean((1, 2, 3)).max() < 0.5 < bright.mean((1, 2, 3)).min()


def test_a_crop_is_taken_from_the_original_pixels(tmp_path, data, generator):
    """As torchvision's resized crop of the same box, to rounding."""
    split = one_file(tmp_path, smooth(90, 130))
    config = plain(data, crop_scale=(0.2, 0.6))
    (ours,) = split.augmented([torch.tensor([0, 0, 0, 0])], config, generator)
    again = torch.Generator().manual_seed(0)
    boxes, _ = listed.draw_boxes(split.sizes.expand(4, 2), config, again)
    image = Image.open(tmp_path / "a.png")
    for seen, (left, top, width, height) in zip(ours, boxes.int().tolist(), strict=True):
        theirs = reference.resized_crop(image, top, left, height, width, [24, 24])
        # torchvision's crop cannot look beyond its edge, which matters in the outermost pixels
        gap = (seen - reference.to_tensor(theirs)).abs()[:, 1:-1, 1:-1]
        assert gap.max() < 2 / 255


def test_a_large_photo_is_decoded_smaller_and_looks_the_same(tmp_path, data, generator):
    split = one_file(tmp_path, smooth(800, 800), "a.jpg")
    config = plain(data)
    assert decode(tmp_path / "a.jpg", shrink=0.3).size == (400, 400)
    (drafted,) = split.augmented([torch.tensor([0])], config, generator)
    (whole,) = split.evaluated(1, config)
    assert (drafted - whole).abs().max() < 0.03


def test_noise_in_evaluation_is_refused(data, generator):
    with pytest.raises(InputError, match=r"data\.noise: 0\.1 is for sets of one small size only"):
        prepare_images(data.model_copy(update={"noise": 0.1}), generator)


@pytest.mark.parametrize(("turn", "back"), [(3, "ROTATE_180"), (6, "ROTATE_90"), (8, "ROTATE_270")])
def test_a_photo_is_turned_upright(tmp_path, data, generator, turn, back):
    upright = Image.fromarray(smooth(40, 90))
    exif = upright.getexif()
    exif[274] = turn
    stored = upright.transpose(Image.Transpose[back])
    for folder in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(3):
            stored.save(tmp_path / folder / f"{i}.png", exif=exif)
        Image.new("RGB", (97, 97)).save(tmp_path / folder / "other.png")
    images = prepare_images(data.model_copy(update={"root": str(tmp_path)}), generator)
    assert images.test.sizes[0].tolist() == [40, 90]
    (seen,) = images.test.take(torch.tensor([0])).evaluated(1, data)
    theirs = reference.center_crop(reference.resize(upright, data.resize), [data.size])
    assert torch.equal(seen[0], reference.to_tensor(theirs))


@pytest.mark.parametrize("how", ["evaluated", "augmented"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_broken_file_is_named(images, data, image_folder, generator, how, damage):
    path, rows = image_folder / images.train.paths[2], [torch.arange(len(images.train))]
    whole = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(whole[:-200])
    with pytest.raises(InputError, match=rf"{images.train.paths[2]} is not an image that can be"):
        if how == "evaluated":
            list(images.train.evaluated(5, data))
        else:
            list(images.train.augmented(rows, data, generator))


@pytest.mark.parametrize("how", ["evaluated", "augmented"])
def test_a_file_that_was_replaced_by_one_of_another_size_is_refused(
    images, data, image_folder, generator, how
):
    path, (height, width) = images.train.paths[2], images.train.sizes[2].tolist()
    Image.new("RGB", (width + 1, height)).save(image_folder / path)
    message = f"{path} is {height} x {width + 1} pixels, and was {height} x {width} when"
    with pytest.raises(InputError, match=message):
        if how == "evaluated":
            list(images.train.evaluated(5, data))
        else:
            list(images.train.augmented([torch.arange(len(images.train))], data, generator))


def test_a_photo_is_read_to_its_end_in_an_eighth_of_its_size(tmp_path, monkeypatch):
    one_file(tmp_path, smooth(400, 800), "a.jpg")
    seen = []
    monkeypatch.setattr(decoding, "rgb", lambda image: image.load() and seen.append(image.size))
    assert image_size(tmp_path / "a.jpg") == (400, 800)
    assert seen == [(100, 50)]


def test_a_consumer_may_stop_in_the_middle(images, data, generator):
    batches = training_batches(images.train, data, 2, generator)
    next(batches)
    batches.close()

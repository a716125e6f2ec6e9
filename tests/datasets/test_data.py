"""Image sets: splits, the digits, anyone's own folder, and every way that it can be wrong."""

import os
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms import functional as reference

from pdiff.datasets.prepare import prepare_images
from pdiff.datasets.registry import check_images
from pdiff.images.batches import (
    EvaluationBatches,
    ImageFiles,
    ImageSplit,
    load_images,
    save_images,
    training_batches,
)
from pdiff.nets.registry import build_net, check_net
from pdiff.system.errors import InputError
from tests.toys.sets import jpeg

JPEG = jpeg(60, 90)


def folder_config(params, root, **changes):
    own = {"reader": "folder", "root": str(root), "train_size": None, "test_size": None}
    own |= {"validation_size": 0.25, "noise": 0.0, "size": 16, "resize": 16}
    return params.data.model_copy(update=own | changes)


def test_digits_are_split_as_the_parameters_say_and_none_stands_twice(params, generator):
    images = prepare_images(params.data.model_copy(update={"noise": 0.0}), generator)
    parts = [images.train, images.validation, images.test]
    assert [len(split) for split in parts] == [500, 397, 900]
    assert images.train.images.shape == (500, 3, 32, 32)
    assert images.train.images.dtype == torch.uint8
    assert images.train.labels.unique().tolist() == list(range(10))
    seen = {row.tobytes() for split in parts for row in split.images.numpy()}
    assert len(seen) == len(np.unique(load_digits().data, axis=0))  # a few are the same to the bit


def test_the_papers_split_chooses_on_the_test_images(params, generator):
    images = prepare_images(params.data.model_copy(update={"split": "paper"}), generator)
    assert torch.equal(images.validation.images, images.test.images)
    assert len(images.train) == 500


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_seed_decides_the_split(params):
    splits = [prepare_images(params.data, seeded(seed)).test for seed in (0, 0, 1)]
    assert torch.equal(splits[0].images, splits[1].images)
    assert not torch.equal(splits[0].labels, splits[2].labels)


def test_the_noise_of_evaluation_images_is_fixed_and_has_the_std_that_data_says(params):
    clean, noisy = (
        prepare_images(params.data.model_copy(update={"noise": noise}), seeded(0))
        for noise in (0.0, 0.1)
    )
    assert torch.equal(noisy.train.images, clean.train.images)
    for split in ("validation", "test"):
        stored, plain = getattr(noisy, split).images, getattr(clean, split).images
        grey = (plain > 100) & (plain < 155)  # noise takes them to neither 0 nor 1
        noise = (stored.float() - plain.float())[grey] / 255
        assert noise.std().item() == pytest.approx(0.1, rel=0.01)
    batches = EvaluationBatches(noisy.test, params.data, 400)
    assert len(list(batches)) == 3
    torch.testing.assert_close(list(batches), list(batches), rtol=0, atol=0)


def test_digits_and_small_nets_need_neither_torchvision_nor_timm(params, generator, monkeypatch):
    for package in ("torchvision", "torchvision.transforms.v2", "timm"):
        monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    check_images(params.data)
    check_net("cnn_medium")
    images = prepare_images(params.data, generator)
    assert params.data.noise > 0
    batches = EvaluationBatches(images.test, params.data, 400)
    assert build_net("cnn_medium", 10, 32)(next(iter(batches))).shape == (400, 10)


def test_images_on_disk_come_back(params, generator, tmp_path):
    images = prepare_images(params.data, generator)
    save_images(tmp_path / "images.safetensors", images)
    again = load_images(tmp_path / "images.safetensors")
    assert again.classes == images.classes
    assert torch.equal(again.test.images, images.test.images)
    assert torch.equal(again.validation.labels, images.validation.labels)


def seen(split, data):
    """A split's images as evaluation sees them, in [0, 255]."""
    return torch.cat(list(split.evaluated(100, data))) * 255


def test_a_folder_of_mixed_sizes_is_a_list_of_files(params, generator, image_folder):
    data = folder_config(params, image_folder)
    images = prepare_images(data, generator)
    assert images.classes == ("cat", "dog")
    assert [len(s) for s in (images.train, images.validation, images.test)] == [12, 4, 8]
    assert isinstance(images.train, ImageFiles)
    assert images.validation.labels.unique().tolist() == [0, 1]  # in the folder, cats come first
    bright = seen(images.test, data).mean((1, 2, 3)) > 125
    assert torch.equal(bright, images.test.labels == 1)


def test_a_set_with_a_split_of_its_own_gives_as_many_images_as_wanted(
    params, generator, image_folder
):
    data = folder_config(params, image_folder, train_size=5, test_size=3)
    images = prepare_images(data, generator)
    assert [len(s) for s in (images.train, images.validation, images.test)] == [5, 4, 3]
    assert images.test.labels.unique().tolist() == [0, 1]


def flat_folder(root, save):
    """Six training and two test images of the classes 0 and 1; `save` writes number i."""
    for i, part in enumerate(["train"] * 6 + ["test"] * 2):
        path = root / part / str(i % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(i, path)
    return path


def test_a_folder_of_one_small_size_keeps_its_pixels(params, generator, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 96, 12, 3), np.uint8)
    flat_folder(tmp_path, lambda i, path: Image.fromarray(pixels[i]).save(path))
    images = prepare_images(folder_config(params, tmp_path), generator)
    stored = [row.tobytes() for row in images.test.images.permute(0, 2, 3, 1).numpy()]
    assert stored == [pixels[6].tobytes(), pixels[7].tobytes()]


@pytest.mark.parametrize(("side", "resize"), [(97, 128), (20, 16)])
def test_a_folder_of_one_larger_size_is_a_list_of_files(params, generator, tmp_path, side, resize):
    flat_folder(tmp_path, lambda i, path: Image.new("RGB", (side, side)).save(path))
    data = folder_config(params, tmp_path, resize=resize)
    assert isinstance(prepare_images(data, generator).train, ImageFiles)


@pytest.mark.parametrize(
    ("mode", "colour", "stored"),
    [
        ("L", 100, 100),
        ("1", 1, 255),
        ("RGBA", (100, 100, 100, 7), 100),
        ("I;16", 30_000, 30_000 >> 8),
    ],
)
def test_every_kind_of_image_becomes_eight_bit_rgb(
    params, generator, tmp_path, mode, colour, stored
):
    flat_folder(tmp_path, lambda i, path: Image.new(mode, (12, 12), colour).save(path))
    images = prepare_images(folder_config(params, tmp_path), generator).test.images
    assert images.shape == (2, 3, 12, 12) and images.unique().tolist() == [stored]


@pytest.mark.parametrize(
    ("shape", "resize", "size"),
    [
        ((24, 30), 36, 32),
        ((49, 49), 64, 64),  # 49 * (64 / 49) is a little less than 64
        ((47, 94), 96, 96),
        ((64, 64), 64, 64),
        ((32, 32), 36, 32),
        ((60, 40), 32, 24),
    ],
)
def test_evaluation_sees_what_torchvision_makes(params, generator, shape, resize, size):
    images = torch.randint(256, (4, 3, *shape), dtype=torch.uint8, generator=generator)
    data = params.data.model_copy(update={"size": size, "resize": resize, "noise": 0.0})
    data = data.model_copy(update={"mean": (0.1, 0.2, 0.3), "std": (0.2, 0.4, 0.5)})
    split = ImageSplit(images, torch.zeros(4).long())
    (ours,) = EvaluationBatches(split, data, 10)
    resized = reference.resize(images.float() / 255, resize, antialias=True)
    theirs = reference.normalize(reference.center_crop(resized, [size]), data.mean, data.std)
    torch.testing.assert_close(ours, theirs)


def test_a_pass_sees_every_image_once_and_drops_a_last_one(params, generator):
    split = ImageSplit(torch.zeros(21, 3, 32, 32, dtype=torch.uint8), torch.arange(21))
    batches = [labels for _, labels in training_batches(split, params.data, 10, generator)]
    assert [len(labels) for labels in batches] == [10, 10]
    assert len(torch.cat(batches).unique()) == 20


def test_training_without_crops_sees_what_evaluation_sees(params, generator):
    images = torch.randint(256, (3, 3, 36, 48), dtype=torch.uint8, generator=generator)
    changes = {"size": 32, "resize": 36, "noise": 0.0, "shift": 0, "flip": False}
    data = params.data.model_copy(update=changes)
    split = ImageSplit(images, torch.arange(3))
    ((trained, labels),) = training_batches(split, data, 3, generator)
    (evaluated,) = EvaluationBatches(split, data, 3)
    torch.testing.assert_close(trained, evaluated[labels], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("path", "files", "message"),
    [
        (".", "*/*/*", r"images/train: .* no valid file for the classes cat, dog\..* end in \.jpg"),
        ("test", "", r"images/test: No such file .*; .*images must hold train/CLASS/ and test"),
        ("test/dog", "", r"train/ has cat, dog, test/ has cat$"),
    ],
)
def test_a_wrong_folder_is_named_before_any_image_is_read(
    params, image_folder, path, files, message
):
    for file in (image_folder / path).glob(files) if files else ():
        file.unlink()
    if not files:
        shutil.rmtree(image_folder / path)
    with pytest.raises(InputError, match=message) as caught:
        check_images(folder_config(params, image_folder))
    assert "\n" not in str(caught.value)


def test_a_broken_image_of_a_set_of_one_size_is_named(params, generator, tmp_path):
    last = flat_folder(tmp_path, lambda i, path: Image.new("RGB", (12, 12)).save(path))
    last.write_bytes(last.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"test/1/7\.png is not an image that can be read"):
        prepare_images(folder_config(params, tmp_path), generator)


def test_hidden_files_are_left_out(params, generator, image_folder):
    for name in ("._0.png", ".0.jpg"):
        (image_folder / "train/cat" / name).write_bytes(b"what macOS writes")
    images = prepare_images(folder_config(params, image_folder), generator)
    assert len(images.train) + len(images.validation) == 16


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\nshowpage\n"
SPOILT = {
    "PostScript": (lambda path: path.write_bytes(POSTSCRIPT), "it is none of JPEG, PNG, BMP, GIF,"),
    "a pipe": (os.mkfifo, "no regular file is there"),
    "a dead link": (lambda path: path.symlink_to("gone"), "no regular file is there"),
    "a truncated image": (lambda path: path.write_bytes(JPEG[: len(JPEG) // 2]), "truncated"),
    "whole numbers": (lambda path: Image.new("I", (30, 30)).save(path, "TIFF"), "Pillow's mode I,"),
    "floats": (lambda path: Image.new("F", (30, 30)).save(path, "TIFF"), "Pillow's mode F,"),
    "a bomb": (lambda path: Image.new("1", (2**14, 2**12 + 1)).save(path, "PNG"), "16384 x 4097 p"),
}


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=SPOILT)
def test_a_file_that_cannot_be_decoded_is_named_before_any_training(
    params, generator, image_folder, part, spoil, message
):
    """Among images of several sizes, whose pixels nothing keeps."""
    path = image_folder / part / "dog" / "1.jpg"
    path.unlink()
    spoil(path)
    with pytest.raises(InputError, match=rf"{part}/dog/1\.jpg is not an image .*: .*{message}"):
        prepare_images(folder_config(params, image_folder), generator)


@pytest.mark.parametrize("name", ["train/dog/\udcff.png", "*/d\udcffg"])
def test_a_name_that_is_not_utf8_is_one_line_without_it(params, generator, image_folder, name):
    if name.startswith("*"):
        for part in ("train", "test"):
            (image_folder / part / "dog").rename(image_folder / part / "d\udcffg")
    else:
        (image_folder / "train/dog/0.png").rename(image_folder / name)
    with pytest.raises(InputError, match=r"udcff.*' is not UTF-8; rename it") as caught:
        prepare_images(folder_config(params, image_folder), generator)
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_size": 501}, r"data\.train_size: 501 images are wanted, at most 500"),
        ({"validation_size": 900}, r"data\.validation_size: 900 images are wanted, at most 895"),
        ({"test_size": 1797}, r"data\.test_size: 1797 images are wanted, at most 1796"),
    ],
)
def test_wrong_numbers_are_named(params, generator, changes, message):
    with pytest.raises(InputError, match=message):
        prepare_images(params.data.model_copy(update=changes), generator)

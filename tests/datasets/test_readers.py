"""Every image set of the paper is read as it lies on disk, or downloaded by torchvision."""

import hashlib
import io
import sys
import tarfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from torchvision import datasets
from torchvision.transforms import functional as reference

from pdiff.config import DataConfig, parse_params
from pdiff.datasets.prepare import prepare_images
from pdiff.datasets.registry import check_images, read_images
from pdiff.images.batches import ImageFiles, ImageSplit
from pdiff.system.errors import InputError
from tests.conftest import composed
from tests.toys.sets import MAKERS, cifar10

PRESETS = (*MAKERS, "cifar100", "stl10", "food101")
LISTS = {"flowers102", "pets", "imagenet"}
FIRST = {"cifar10": "plane", "flowers102": "pink primrose", "pets": "Abyssinian", "svhn": "0"}
FIRST |= {"imagenet": "tench, Tinca tinca", "mnist": "0 - zero"}


@pytest.fixture(autouse=True)
def _own_project(tmp_path, monkeypatch):
    """Locks and relative roots are not those of this checkout."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


@pytest.fixture(scope="module")
def presets() -> dict[str, DataConfig]:
    return {name: parse_params(composed(f"data={name}")).data for name in PRESETS}


def changed(config: DataConfig, root: Path, **changes) -> DataConfig:
    return config.model_copy(update={"root": str(root), "expect": None} | changes)


@pytest.fixture
def cifar(presets, tmp_path, monkeypatch) -> DataConfig:
    """A small CIFAR-10 in tmp_path/set."""
    cifar10(tmp_path / "set", monkeypatch)
    return changed(presets["cifar10"], tmp_path / "set")


def refused(call, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", MAKERS)
def test_a_set_comes_back_with_its_pixels_labels_and_classes(
    presets, name, tmp_path, monkeypatch, generator
):
    expected = MAKERS[name](tmp_path / "set", monkeypatch)
    config = changed(presets[name], "set")  # a relative root starts at the project's folder
    train, test, classes = read_images(config, generator)
    for split, (images, labels) in ((train, expected["train"]), (test, expected["test"])):
        assert split.labels.tolist() == list(labels)
        if name in LISTS:
            assert isinstance(split, ImageFiles)
            assert [tmp_path / "set" / path for path in split.paths] == images
            assert split.root == "set"
        else:
            assert isinstance(split, ImageSplit)
            assert np.array_equal(split.images.permute(0, 2, 3, 1).numpy(), images)
    assert len(classes) > max(expected["train"][1])
    assert classes[0] == FIRST[name]
    (ours,) = test.evaluated(10, config)
    for seen, source in zip(ours, expected["test"][0], strict=True):
        image = Image.open(source) if name in LISTS else Image.fromarray(source)
        theirs = reference.center_crop(reference.resize(image, config.resize), [config.size])
        gap = (seen * 255 - torch.from_numpy(np.array(theirs)).permute(2, 0, 1)).abs().max()
        assert gap <= (0 if name in LISTS else 1.001)  # a tensor is not rounded after resizing


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_passes_the_check_and_knows_how_many_images_are_whole(presets, name):
    check_images(presets[name])
    assert presets[name].expect and presets[name].root == "downloads"


def odd_set(size: int, labels: tuple, monkeypatch):
    """USPS becomes a class that gives grey images of one size, and these labels in turn."""

    class Odd(datasets.VisionDataset):
        def __init__(self, root):
            super().__init__(root)

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return Image.new("L", (size, size), index), labels[index % 2]

    monkeypatch.setattr(datasets, "USPS", Odd)


def test_another_class_needs_no_code(params, tmp_path, generator):
    """EuroSAT: a folder of 64 px images, of which no preset knows."""
    for i in range(6):
        path = tmp_path / "eurosat" / "2750" / "AB"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (i, i, i)).save(path)
    options = {"train_options": {}, "test_options": {}}
    config = changed(params.data, tmp_path, reader="EuroSAT", resize=64, **options)
    train, _, classes = read_images(config, generator)
    assert train.images.shape == (6, 3, 64, 64)
    assert classes == ("A", "B")


def test_labels_that_do_not_start_at_0_are_counted_anew(params, tmp_path, monkeypatch, generator):
    odd_set(8, (7, 3), monkeypatch)
    train, _, classes = read_images(changed(params.data, tmp_path, reader="USPS"), generator)
    assert train.labels.tolist() == [1, 0, 1, 0]
    assert classes == ("3", "7")


@pytest.mark.parametrize(
    ("size", "labels", "message"),
    [
        (8, ({"boxes": []},) * 2, "USPS has no class for each image"),
        (97, (0, 1), "USPS gives neither files nor images of one size of at most 96 px; write"),
    ],
)
def test_a_set_of_another_kind_is_refused(
    params, tmp_path, monkeypatch, generator, size, labels, message
):
    odd_set(size, labels, monkeypatch)
    assert message in refused(read_images, changed(params.data, tmp_path, reader="USPS"), generator)


def test_no_set_gets_a_file_to_ghostscript(params, tmp_path, monkeypatch, generator):
    """torchvision's classes may open files themselves, of whatever format they find."""
    (tmp_path / "a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    odd_set(8, (0, 1), monkeypatch)
    open_it = lambda *_: (Image.open(tmp_path / "a.eps").convert("RGB"), 0)  # noqa: E731
    monkeypatch.setattr(datasets.USPS, "__getitem__", open_it)
    message = refused(read_images, changed(params.data, tmp_path, reader="USPS"), generator)
    assert message.startswith("data.root: number 0 of USPS is not an image that can be read: Unab")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reader": "cifar100"}, "data.reader: unknown 'cifar100'; known: digits, folder, "),
        ({"reader": "Digit"}, ", CIFAR100, "),
        ({"train_options": {"split": "train"}}, "train_options: CIFAR10 takes no split; known: t"),
        ({"test_options": {"root": "x"}}, "data.test_options: CIFAR10 takes no root"),
        ({"reader": "SVHN", "train_options": {"split": "trian"}, "test_options": {}}, "'trian'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(presets, changes, message):
    assert message in refused(check_images, presets["cifar10"].model_copy(update=changes))


@pytest.mark.parametrize("expect", [(11, 4), (10, 3)])
def test_a_copy_of_another_size_is_refused_and_its_folder_named(cifar, generator, expect):
    message = refused(prepare_images, cifar.model_copy(update={"expect": expect}), generator)
    wrong = f"train split of cifar10 in {cifar.root} has 10" if expect[0] == 11 else "test split"
    assert message.startswith("data.expect: the ") and wrong in message


def test_imagenet_says_which_archives_go_where(presets, tmp_path, generator):
    message = refused(read_images, changed(presets["imagenet"], tmp_path), generator)
    assert "place ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and" in message
    assert f"in {tmp_path}, and start again" in message


def test_a_missing_package_is_named(presets, tmp_path, monkeypatch, generator):
    MAKERS["svhn"](tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    message = refused(read_images, changed(presets["svhn"], tmp_path), generator)
    assert message.startswith("data.reader: SVHN needs a package: ") and "scipy.io" in message


@pytest.fixture
def served(cifar, tmp_path, monkeypatch):
    """The small CIFAR-10 as an archive of a network (None: none), to download to tmp_path/new."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(tmp_path / "set" / "cifar-10-batches-py", "cifar-10-batches-py")
    network = SimpleNamespace(content=buffer.getvalue(), requests=0)

    class Response(io.BytesIO):
        url = length = None

    def urlopen(request, *_, **__):
        network.requests += request.get_header("Method") != "HEAD"  # torchvision looks first
        if network.content is None:
            raise URLError("no network")
        return Response(network.content)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(network.content).hexdigest())
    return cifar.model_copy(update={"root": str(tmp_path / "new")}), network


def test_two_experiments_download_a_set_once(served, generator):
    config, network = served
    found = []
    read = lambda: found.append(len(read_images(config, generator)[0]))  # noqa: E731
    with ThreadPoolExecutor(2) as pool:
        pool.submit(read), pool.submit(read)
    assert found == [10, 10]
    assert network.requests == 1


def test_a_download_that_breaks_off_starts_anew(served, generator):
    config, network = served
    whole, network.content = network.content, network.content[:1000]
    message = refused(read_images, config, generator)
    assert f"CIFAR10 could not be downloaded to {config.root}: " in message
    network.content = whole
    assert len(read_images(config, generator)[0]) == 10


def test_without_a_network_one_line_says_so(served, generator):
    config, network = served
    network.content = None
    assert "; start again with a network, or place" in refused(read_images, config, generator)

"""Every image set of the paper is read as it lies on disk; a download is whole or not there."""

import http.server
import io
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import functional as reference

from pdiff.config import DataConfig, parse_params
from pdiff.datasets.prepare import check_images, prepare_images
from pdiff.datasets.registry import read_images
from pdiff.datasets.torchvision import open_set
from pdiff.images.batches import ImageFiles, ImageSplit
from pdiff.system.errors import InputError
from tests.test_config import composed
from tests.toys.sets import MAKERS, cifar10, md5

LISTS = {"flowers102", "pets", "food101", "imagenet"}
WHOLE = {
    "cifar10": (50000, 10000),
    "cifar100": (50000, 10000),
    "stl10": (5000, 8000),
    "flowers102": (1020, 6149),
    "pets": (3680, 3669),
    "food101": (75750, 25250),
    "imagenet": (1281167, 50000),
    "mnist": (60000, 10000),
    "svhn": (73257, 26032),
}


@pytest.fixture(autouse=True)
def _own_project(tmp_path, monkeypatch):
    """Locks and relative roots are not those of this checkout."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


@pytest.fixture(scope="module")
def presets() -> dict[str, DataConfig]:
    return {name: parse_params(composed(f"data={name}")).data for name in MAKERS}


def changed(config: DataConfig, root: Path, **changes) -> DataConfig:
    return config.model_copy(update={"root": str(root), "expect": None} | changes)


@pytest.fixture(params=sorted(MAKERS))
def toy(request, presets, tmp_path, monkeypatch):
    """A small set: its preset's name, its configuration, and what must come back."""
    expected = MAKERS[request.param](tmp_path / "set", monkeypatch)
    return request.param, changed(presets[request.param], tmp_path / "set"), expected


@pytest.fixture
def cifar(presets, tmp_path, monkeypatch) -> DataConfig:
    """A small CIFAR-10 in tmp_path/set."""
    cifar10(tmp_path / "set", monkeypatch)
    return changed(presets["cifar10"], tmp_path / "set")


def test_a_set_comes_back_with_its_pixels_and_labels(toy, generator):
    name, config, expected = toy
    train, test, classes = read_images(config, generator)
    for split, (images, labels) in ((train, expected["train"]), (test, expected["test"])):
        assert split.labels.tolist() == list(labels)
        if name in LISTS:
            assert isinstance(split, ImageFiles)
            assert [Path(split.root) / path for path in split.paths] == images
        else:
            assert isinstance(split, ImageSplit)
            assert np.array_equal(split.images.permute(0, 2, 3, 1).numpy(), images)
    assert len(classes) > max(expected["train"][1])


def test_a_set_is_seen_as_torchvision_sees_it(toy, generator):
    name, config, expected = toy
    _, test, _ = read_images(config, generator)
    (ours,) = test.evaluated(10, config)
    for seen, source in zip(ours, expected["test"][0], strict=True):
        image = Image.open(source) if name in LISTS else Image.fromarray(source)
        theirs = reference.center_crop(reference.resize(image, config.resize), [config.size])
        gap = (seen * 255 - torch.from_numpy(np.array(theirs)).permute(2, 0, 1)).abs().max()
        assert gap <= (0 if name in LISTS else 1.001)  # a tensor is not rounded after resizing


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_preset_passes_the_check_and_knows_how_many_images_are_whole(presets, name):
    check_images(presets[name])
    assert presets[name].expect == WHOLE[name]
    assert presets[name].root == "downloads"


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("cifar100", "apple"),
        ("flowers102", "pink primrose"),
        ("pets", "Abyssinian"),
        ("imagenet", "tench, Tinca tinca"),
        ("mnist", "0 - zero"),
        ("svhn", "0"),
    ],
)
def test_classes_have_the_names_that_the_set_gives(
    presets, tmp_path, monkeypatch, generator, name, first
):
    MAKERS[name](tmp_path, monkeypatch)
    assert read_images(changed(presets[name], tmp_path), generator)[2][0] == first


def test_a_relative_root_starts_at_the_projects_folder(cifar, generator):
    assert len(read_images(cifar.model_copy(update={"root": "set"}), generator)[0]) == 10


def test_another_class_needs_no_code(params, tmp_path, generator):
    """EuroSAT: a folder of 64 px images, of which no preset knows."""
    for i in range(6):
        path = tmp_path / "eurosat" / "2750" / "AB"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (i, i, i)).save(path)
    config = changed(
        params.data, tmp_path, reader="EuroSAT", train_options={}, test_options={}, resize=64
    )
    train, _, classes = read_images(config, generator)
    assert train.images.shape == (6, 3, 64, 64)
    assert classes == ("A", "B")


def test_labels_that_do_not_start_at_0_are_counted_anew(params, tmp_path, monkeypatch, generator):
    class Odd(datasets.VisionDataset):
        def __init__(self, root):
            super().__init__(root)

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return Image.new("L", (8, 8), index), (7, 3)[index % 2]

    monkeypatch.setattr(datasets, "USPS", Odd)
    config = changed(params.data, tmp_path, reader="USPS")
    train, _, classes = read_images(config, generator)
    assert train.labels.tolist() == [1, 0, 1, 0]
    assert classes == ("3", "7")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reader": "cifar100"}, r"data\.reader: unknown 'cifar100'; known: digits, folder and ev"),
        ({"reader": "cifar100"}, r"did you mean CIFAR100"),
        ({"reader": "Digit"}, r"did you mean digits"),
        ({"train_options": {"split": "train"}}, r"train_options: CIFAR10 takes no split; known: t"),
        ({"test_options": {"root": "x"}}, r"data\.test_options: CIFAR10 takes no root"),
        ({"reader": "SVHN", "train_options": {"split": "trian"}, "test_options": {}}, r"'trian'"),
        ({"reader": "ImageNet", "train_options": {"train": True}}, r"takes no train; known: .*spl"),
        ({"resize": 16}, r"data\.resize: 16 is smaller than data\.size: 224"),
        ({"reader": "folder", "root": "nowhere"}, r"nowhere' is not a folder"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(presets, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        check_images(presets["cifar10"].model_copy(update=changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("expect", "word"), [((11, 4), "fewer"), ((10, 3), "more")])
def test_a_copy_of_another_size_is_refused(cifar, generator, expect, word):
    config = cifar.model_copy(update={"expect": expect})
    with pytest.raises(InputError, match=rf"has (10|4) images, {word} than the (11|3)"):
        prepare_images(config, generator)


def test_imagenet_says_which_archives_go_where(presets, tmp_path, generator):
    with pytest.raises(InputError, match=r"ILSVRC2012_devkit_t12\.tar\.gz, .*train\.tar") as caught:
        read_images(changed(presets["imagenet"], tmp_path), generator)
    assert f"place them in {tmp_path}" in str(caught.value)


def test_a_set_that_gives_no_class_for_each_image_is_refused(
    params, tmp_path, monkeypatch, generator
):
    class Pairs(datasets.VisionDataset):
        def __init__(self, root):
            super().__init__(root)

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return Image.new("L", (8, 8)), {"boxes": []}

    monkeypatch.setattr(datasets, "Kitti", Pairs)
    with pytest.raises(InputError, match=r"Kitti has no class for each image"):
        read_images(changed(params.data, tmp_path, reader="Kitti"), generator)


class Server:
    """Serves one archive on this machine; `cut` is how many of its bytes really arrive."""

    def __init__(self, content: bytes) -> None:
        self.cut, self.requests = len(content), 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests += self.headers.get("Method") != "HEAD"  # torchvision looks first
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: outer.cut])

            def log_message(self, *arguments):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def served(cifar, tmp_path, monkeypatch):
    """The small CIFAR-10 as an archive to download to the empty folder tmp_path/new."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(tmp_path / "set" / "cifar-10-batches-py", "cifar-10-batches-py")
    server = Server(buffer.getvalue())
    path = tmp_path / "archive"
    path.write_bytes(buffer.getvalue())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets.CIFAR10, "url", server.url + datasets.CIFAR10.filename)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(path))
    yield cifar.model_copy(update={"root": str(tmp_path / "new")}), server, tmp_path / "new"
    server.close()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_download_lies_in_a_folder_of_its_own_and_is_used_again(served, generator):
    config, server, folder = served
    for _ in range(2):
        assert len(read_images(config, generator)[0]) == 10
    assert names(folder) == {"CIFAR10"}
    assert server.requests == 1


def test_a_download_that_breaks_off_leaves_nothing_that_passes_for_whole(served, generator):
    config, server, folder = served
    whole, server.cut = server.cut, 1000
    with pytest.raises(InputError, match=r"CIFAR10 could not be downloaded to .*corrupted") as e:
        read_images(config, generator)
    assert "\n" not in str(e.value)
    assert names(folder) <= {"CIFAR10.partial"}
    server.cut = whole
    assert len(read_images(config, generator)[0]) == 10
    assert names(folder) == {"CIFAR10"}


def test_an_interrupted_extraction_starts_anew_from_the_archive(served, generator, monkeypatch):
    config, server, folder = served

    def interrupted(archive, *arguments):
        (folder / "CIFAR10.partial" / "cifar-10-batches-py").mkdir()
        (folder / "CIFAR10.partial" / "cifar-10-batches-py" / "data_batch_1").write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extractall", interrupted)
        with pytest.raises(KeyboardInterrupt):
            read_images(config, generator)
    assert names(folder) == {"CIFAR10.partial"}
    assert len(read_images(config, generator)[0]) == 10
    assert server.requests == 1


def test_a_damaged_download_is_made_whole_from_its_archive(served, generator):
    config, server, folder = served
    read_images(config, generator)
    (folder / "CIFAR10" / "cifar-10-batches-py" / "data_batch_2").unlink()
    assert len(read_images(config, generator)[0]) == 10
    assert names(folder) == {"CIFAR10"}
    assert server.requests == 1


def test_an_archive_that_does_not_unpack_is_not_kept(served, generator, monkeypatch):
    """One without a checksum, whose download was interrupted."""
    config, server, folder = served
    with monkeypatch.context() as patch:
        patch.setattr(datasets.CIFAR10, "tgz_md5", None)
        (folder / "CIFAR10.partial").mkdir(parents=True)
        (folder / "CIFAR10.partial" / datasets.CIFAR10.filename).write_bytes(b"\x1f\x8b half")
        with pytest.raises(InputError, match="CIFAR10 could not be downloaded"):
            read_images(config, generator)
        assert len(read_images(config, generator)[0]) == 10
    assert server.requests == 1


def test_a_folder_that_cannot_be_made_is_named(cifar, tmp_path, generator):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/new.* cannot be written to: Not a directory"):
        read_images(cifar.model_copy(update={"root": str(tmp_path / "file" / "new")}), generator)


def test_half_a_set_without_checksums_does_not_pass_for_whole(
    presets, tmp_path, monkeypatch, generator
):
    """Food-101 takes any two folders of the right names for whole."""
    interrupt = True

    def download(self):
        folder = Path(self.root) / "food-101"
        if folder.exists():  # as torchvision does
            return
        images, _ = MAKERS["food101"](Path(self.root), monkeypatch)["train"]
        (Path(self.root) / "food-101.tar.gz").write_text("the archive")
        if interrupt:
            images[3].unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(datasets.Food101, "_download", download)
    config = changed(presets["food101"], tmp_path / "new")
    with pytest.raises(KeyboardInterrupt):
        read_images(config, generator)
    assert names(tmp_path / "new") == {"Food101.partial"}
    interrupt = False
    assert len(read_images(config, generator)[0]) == 10
    assert (tmp_path / "new" / "Food101" / "food-101.tar.gz").exists()


def test_a_download_with_too_few_images_gets_no_name(served, generator):
    config, _, folder = served
    with pytest.raises(InputError, match=r"fewer than the 50000"):
        read_images(config.model_copy(update={"expect": (50000, 10000)}), generator)
    assert names(folder) == {"CIFAR10.partial"}


def test_two_experiments_download_a_set_once(served):
    config, server, folder = served
    found = []

    def read():
        (train, _), _ = open_set(config, folder, lambda pair: None)
        found.append(len(train))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [10, 10]
    assert server.requests == 1


def test_without_a_network_one_line_says_so_and_nothing_is_left(served, generator):
    config, server, folder = served
    server.close()
    with pytest.raises(InputError, match=r"refused>?; start again with a network, or") as caught:
        read_images(config, generator)
    assert "\n" not in str(caught.value)
    assert names(folder) == set()

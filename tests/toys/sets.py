"""Small image sets in true on-disk formats: of each way in which torchvision gives its images.

Each maker writes to `root` and returns what must come back: {"train": (images, labels), "test":
...}, images as pixels (H, W, 3) or as paths. Where torchvision compares checksums, `patch` (a
`pytest.MonkeyPatch`) tells it those of the small files.
"""

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from pdiff.images.batches import ImageFiles

COUNTS = {"train": 10, "test": 4}


def pixels(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def one_file(folder: Path, array: np.ndarray, name: str = "a.png") -> ImageFiles:
    """A list of one image, of class 0."""
    Image.fromarray(array).save(folder / name, quality=95)
    size = torch.tensor([array.shape[:2]])
    return ImageFiles(str(folder), (name,), size, torch.zeros(1).long())


def jpeg(height: int, width: int) -> bytes:
    """A file of noise."""
    file = io.BytesIO()
    Image.fromarray(pixels(1, height, width)[0]).save(file, "JPEG")
    return file.getvalue()


def cycle(count: int, classes: int = 3) -> list[int]:
    return [i % classes for i in range(count)]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def _jpeg(path: Path, seed: int) -> Path:
    """A smooth photo of a size of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = np.random.default_rng(seed).integers(60, 140, 2)
    small = Image.fromarray(pixels(1, 6, 5, seed)[0])
    small.resize((int(width), int(height)), Image.Resampling.BICUBIC).save(path, quality=95)
    return path


def _pickle(path: Path, content: dict) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return md5(path)


def _flat(images: np.ndarray) -> np.ndarray:
    """Rows of red, green, blue planes, as CIFAR keeps them."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def cifar10(root: Path, patch) -> dict:
    folder, kind = root / "cifar-10-batches-py", datasets.CIFAR10
    train, test = pixels(10, 32, 32, 1), pixels(4, 32, 32, 2)
    train_list = []
    for i in range(5):
        part = {"data": _flat(train[2 * i : 2 * i + 2]), "labels": [2 * i % 3, (2 * i + 1) % 3]}
        name = f"data_batch_{i + 1}"
        train_list.append([name, _pickle(folder / name, part)])
    test_md5 = _pickle(folder / "test_batch", {"data": _flat(test), "labels": cycle(4)})
    meta = _pickle(folder / "batches.meta", {"label_names": ["plane", "car", "bird"]})
    patch.setattr(kind, "train_list", train_list)
    patch.setattr(kind, "test_list", [["test_batch", test_md5]])
    patch.setattr(kind, "meta", kind.meta | {"md5": meta})
    return {"train": (train, cycle(10)), "test": (test, cycle(4))}


def flowers102(root: Path, patch) -> dict:
    folder, kind = root / "flowers-102", datasets.Flowers102
    labels, ids = cycle(14), {"trnid": range(5, 15), "valid": range(0), "tstid": range(1, 5)}
    files = [_jpeg(folder / "jpg" / f"image_{i:05d}.jpg", i) for i in range(1, 15)]
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels]) + 1})
    savemat(folder / "setid.mat", {key: np.array([list(value)]) for key, value in ids.items()})
    sums = {"label": "imagelabels.mat", "setid": "setid.mat"}
    own = {key: (name, md5(folder / name)) for key, name in sums.items()}
    patch.setattr(kind, "_file_dict", kind._file_dict | own)
    return {"train": (files[4:], labels[4:]), "test": (files[:4], labels[:4])}


def pets(root: Path, patch) -> dict:
    folder, found = root / "oxford-iiit-pet", {}
    names = ["Abyssinian", "great_pyrenees", "pug"]
    (folder / "annotations").mkdir(parents=True)
    for part, (name, count) in zip(("trainval", "test"), COUNTS.items(), strict=True):
        ids = [f"{names[label]}_{part}{i}" for i, label in enumerate(cycle(count))]
        files = [_jpeg(folder / "images" / f"{key}.jpg", i) for i, key in enumerate(ids)]
        rows = [f"{key} {label + 1} 1 1\n" for key, label in zip(ids, cycle(count), strict=True)]
        (folder / "annotations" / f"{part}.txt").write_text("".join(rows))
        found[name] = (files, cycle(count))
    return found


def imagenet(root: Path, patch) -> dict:
    found, wnids = {}, ["n01440764", "n01443537"]
    for part, name, count in (("train", "train", 5), ("val", "test", 2)):
        keys = [f"{part}/{wnid}/{wnid}_{i}.JPEG" for wnid in wnids for i in range(count)]
        files = [_jpeg(root / key, i) for i, key in enumerate(keys)]
        found[name] = (files, [0] * count + [1] * count)
    classes = {wnids[0]: ("tench", "Tinca tinca"), wnids[1]: ("goldfish",)}
    torch.save((classes, [wnids[0]] * 4), root / "meta.bin")
    return found


def mnist(root: Path, patch) -> dict:
    folder, found = root / "MNIST" / "raw", {}
    folder.mkdir(parents=True)
    for part, (name, count) in zip(("train", "t10k"), COUNTS.items(), strict=True):
        grey, labels = pixels(count, 28, 28)[..., 0], cycle(count)
        head = np.array([0x803, count, 28, 28], ">i4").tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + grey.tobytes())
        head = np.array([0x801, count], ">i4").tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + bytes(labels))
        found[name] = (grey[..., None].repeat(3, axis=3), labels)
    return found


def svhn(root: Path, patch) -> dict:
    found, lists = {}, dict(datasets.SVHN.split_list)
    root.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate(COUNTS.items()):
        images, labels = pixels(count, 32, 32, seed), cycle(count)
        ones_to_ten = np.array([[label or 10] for label in labels], np.uint8)
        path = root / f"{name}_32x32.mat"
        savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": ones_to_ten})
        lists[name] = [lists[name][0], path.name, md5(path)]
        found[name] = (images, labels)
    patch.setattr(datasets.SVHN, "split_list", lists)
    return found


MAKERS = {make.__name__: make for make in (cifar10, flowers102, pets, imagenet, mnist, svhn)}

"""Images with a label map each: a folder in CamVid's layout, PASCAL VOC, or COCO.

A label map says the class of every pixel. All images are brought to one size.

Axes: N images, H and W pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from pdiff.config import DataConfig
from pdiff.datasets.registry import split_lists
from pdiff.images.batches import ImageSet
from pdiff.images.decode import decode, label_map
from pdiff.images.examples import Examples
from pdiff.images.miou import VOID
from pdiff.system.errors import InputError, reason
from pdiff.system.paths import root as project
from pdiff.system.progress import tqdm

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
COCO_OF_VOC = (5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72)
"""COCO's categories under PASCAL VOC's classes 1 to 20, as torchvision's weights know them."""
LEAST_PIXELS = 1000
"""COCO: a training image shows at least as many pixels of these categories."""


@dataclass(frozen=True)
class Pair:
    """An image and its label map, neither of them read yet."""

    image: Path
    name: str
    """Where the label map comes from."""
    labels: Callable[[], np.ndarray]
    """The label map (H, W), uint8."""


@dataclass(frozen=True)
class Labels:
    """What label maps say, and the size that they are brought to."""

    classes: tuple[str, ...]
    void: int | None
    """The label of pixels that do not count."""
    size: tuple[int, int]


def check_label_maps(config: DataConfig) -> None:
    """Raise `InputError` for a mistake that shows without reading an image or downloading."""
    if config.reader == "VOCSegmentation":
        from pdiff.datasets.torchvision import check_set

        check_set(config)
    elif config.reader == "coco":
        for part in (config.train_options, config.test_options):
            _annotations(config, part)
    elif config.reader == "label_maps":
        _folder(config)
    else:
        raise InputError(
            f"data.reader: {config.reader!r} gives no label maps; known: label_maps, "
            "VOCSegmentation, coco"
        )


def read_label_maps(config: DataConfig, labels: Labels, generator: torch.Generator) -> ImageSet:
    """The three splits, with columns `images` (N, 3, H, W) and `maps` (N, H, W), uint8.

    In maps a pixel that does not count is `VOID`. An image of another size is scaled until it
    covers H x W, and its centre is taken. A part `val` of the files is the validation split;
    without one, training images are held back.

    Raises:
        InputError: missing or broken files, too few images, a label map of another size than its
            image, a label that is neither a class nor void.
    """
    train, validation, test = split_lists(config, _listed(config), generator)
    tested = _read(test, labels)
    validated = tested if validation is test else _read(validation, labels)
    return ImageSet(_read(train, labels), validated, tested, labels.classes)


def _listed(config: DataConfig) -> dict[str, list[Pair]]:
    """The pairs of each part; `InputError` if they are not as many as `data.expect`."""
    check_label_maps(config)
    readers = {"label_maps": _folder, "VOCSegmentation": _voc, "coco": _coco}
    parts = readers[config.reader](config)
    for part, expected in zip(("train", "test"), config.expect or (), strict=False):
        if len(parts[part]) != expected:
            raise InputError(
                f"data.expect: the {part} split in {project() / config.root} has "
                f"{len(parts[part])} images, a whole copy {expected}; replace that copy, or give "
                "data.expect=null if it is meant"
            )
    return parts


def _read(pairs: list[Pair], labels: Labels) -> Examples:
    height, width = labels.size
    images = torch.empty(len(pairs), 3, height, width, dtype=torch.uint8)
    maps = torch.empty(len(pairs), height, width, dtype=torch.uint8)
    for row, pair in enumerate(tqdm(pairs, "read label maps", disable=None, unit="image")):
        image, found = decode(pair.image), pair.labels()
        if image.size != found.shape[::-1]:
            raise InputError(
                f"data.root: {pair.name} has {found.shape[0]} x {found.shape[1]} pixels, its image "
                f"{pair.image} {image.height} x {image.width}"
            )
        known = _checked(found, pair.name, labels)
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        known = ImageOps.fit(Image.fromarray(known), (width, height), Image.Resampling.NEAREST)
        images[row] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        maps[row] = torch.from_numpy(np.array(known))
    return Examples({"images": images, "maps": maps})


def _checked(found: np.ndarray, name: str, labels: Labels) -> np.ndarray:
    """Labels with `VOID` for void; `InputError` for one that is unknown."""
    classes = len(labels.classes)
    void = found == labels.void if labels.void is not None else np.zeros_like(found, bool)
    if unknown := sorted({*np.unique(found[~void]).tolist()} - {*range(classes)}):
        raise InputError(
            f"data.root: {name} holds the label {unknown[0]}; task.options.classes names the "
            f"labels 0 to {classes - 1}, task.options.void is {labels.void}"
        )
    return np.where(void, np.uint8(VOID), found)


def _folder(config: DataConfig) -> dict[str, list[Pair]]:
    """`root/PART/images/NAME.*` and `root/PART/labels/NAME.*`; the part `val` may be missing."""
    root = project() / config.root
    parts = ("train", "val", "test") if (root / "val").is_dir() else ("train", "test")
    return {part: list(_pairs(root / part)) for part in parts}


def _pairs(folder: Path) -> Iterator[Pair]:
    layout = "a folder of label maps has train/images/NAME.jpg, train/labels/NAME.png, test/..."
    found = []
    for kind in ("images", "labels"):
        try:
            files = sorted(p for p in (folder / kind).iterdir() if p.suffix.lower() in SUFFIXES)
        except OSError as error:
            raise InputError(
                f"data.root: {folder / kind}: {error.strerror}; {layout} (queued experiments run "
                "elsewhere: give an absolute path)"
            ) from None
        found.append({path.stem: path for path in files if not path.name.startswith(".")})
    images, labels = found
    if not images:
        raise InputError(f"data.root: {folder / 'images'} holds no image; {layout}")
    for ones, others, what in ((images, labels, "label map"), (labels, images, "image")):
        if alone := sorted(ones.keys() - others.keys()):
            raise InputError(
                f"data.root: {ones[alone[0]]} has no {what} of the same name "
                f"({len(alone)} such files in {folder})"
            )
    for name, image in images.items():
        path = labels[name]
        yield Pair(image, str(path), partial(label_map, path))


def _voc(config: DataConfig) -> dict[str, list[Pair]]:
    """torchvision's VOCSegmentation, downloaded if need be."""
    from pdiff.datasets.torchvision import open_sets

    parts = {}
    for part, opened in zip(("train", "test"), open_sets(config), strict=True):
        files = zip(opened.images, opened.masks, strict=True)
        parts[part] = [Pair(Path(i), mask, partial(label_map, Path(mask))) for i, mask in files]
    return parts


def _annotations(config: DataConfig, options: dict[str, str | bool]) -> tuple[Path, Path]:
    """COCO: the folder of the images of a part, and the file of its annotations."""
    root, part = project() / config.root, options.get("image_set")
    images, file = root / str(part), root / "annotations" / f"instances_{part}.json"
    if part is None or not images.is_dir() or not file.is_file():
        raise InputError(
            f"data.root: COCO needs {images} and {file}, from https://cocodataset.org, and the "
            "part's name in data.train_options and data.test_options (image_set: val2017)"
        )
    try:
        import pycocotools.coco  # noqa: F401
    except ImportError:
        raise InputError("data.reader: coco needs more: pip install pycocotools") from None
    return images, file


def _coco(config: DataConfig) -> dict[str, list[Pair]]:
    """The categories of PASCAL VOC in COCO's images, as torchvision's training script reads them.

    A pixel that several objects cover does not count.
    """
    parts = {}
    for part, options in (("train", config.train_options), ("test", config.test_options)):
        folder, file = _annotations(config, options)
        from pycocotools.coco import COCO

        try:
            coco = COCO(str(file))
        except (OSError, ValueError, KeyError, AssertionError) as error:
            raise InputError(f"data.root: {file} is broken: {reason(error)}") from None
        parts[part] = [
            Pair(folder / image["file_name"], f"{file}: image {key}", partial(_drawn, coco, key))
            for key, image in sorted(coco.imgs.items())
            if part == "test" or sum(o["area"] for o in _objects(coco, key)) > LEAST_PIXELS
        ]
    return parts


def _objects(coco: "COCO", key: int) -> list[dict]:  # noqa: F821
    return coco.loadAnns(coco.getAnnIds(key, catIds=list(COCO_OF_VOC)))


def _drawn(coco: "COCO", key: int) -> np.ndarray:  # noqa: F821
    """The label map of one image."""
    image = coco.imgs[key]
    labels = np.zeros((image["height"], image["width"]), np.uint8)
    covered = np.zeros_like(labels)
    for found in _objects(coco, key):
        mask = coco.annToMask(found)
        label = COCO_OF_VOC.index(found["category_id"]) + 1
        labels = np.maximum(labels, mask * np.uint8(label))
        covered += mask
    return np.where(covered > 1, np.uint8(VOID), labels)

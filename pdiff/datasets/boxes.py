"""Images with boxes: a folder in VOC's layout, or COCO's annotations.

Axes: N images, M boxes of the image that has most.
"""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pdiff.config import DataConfig
from pdiff.datasets.registry import split_lists
from pdiff.images.batches import ImageSet
from pdiff.images.decode import decode
from pdiff.images.examples import Examples
from pdiff.images.listed import thread_count
from pdiff.system.errors import InputError, reason
from pdiff.system.paths import root as project
from pdiff.system.progress import tqdm

READERS = ("voc", "coco")
IN_MEMORY = 2**36
"""Most bytes of the resized images of a split."""


@dataclass(frozen=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float
    name: str
    ignored: bool
    """VOC's `difficult`, COCO's `iscrowd`: no net learns it, and finding it counts neither way."""
    area: float
    """Of the object, in pixels of the file; COCO's numbers for small and large objects ask."""


@dataclass(frozen=True)
class Annotated:
    """An image file and what its annotation says."""

    path: Path
    source: str
    """What an error calls the annotation."""
    height: int
    width: int
    boxes: tuple[Box, ...]


def check_boxes(config: DataConfig) -> None:
    """Raise `InputError` for a mistake that shows without reading an annotation."""
    if config.reader not in READERS:
        raise InputError(
            f"data.reader: {config.reader} has no boxes; task=detection reads {', '.join(READERS)}"
        )
    for key in ("train_options", "test_options"):
        options = getattr(config, key)
        if options.keys() != {"split", "skip_empty"}:
            raise InputError(
                f"data.{key}: {options} must be split, the name of a list of images, and "
                "skip_empty, whether boxes without area are left out"
            )
        path = _list_of(config, str(options["split"]))
        if not path.is_file():
            raise InputError(
                f"data.root: {path} is missing (queued experiments run elsewhere: give an absolute "
                "path)"
            )


def read_boxes(config: DataConfig, generator: torch.Generator) -> ImageSet:
    """The three splits, all of them checked before an image is decoded.

    The columns of a split are `images` (N, 3, H, W), uint8, brought to `data.size` at the shorter
    side and to `data.resize` at most at the longer one, with zeros to the right and below; `sizes`
    (N, 2), height and width without these zeros; `scales` (N,), the factor of that resizing;
    `boxes` (N, M, 4), left, top, right and bottom in resized pixels; `classes` (N, M), from 1 on in
    the order of the set's classes, 0 where an image has fewer boxes; `ignored` (N, M); `areas`
    (N, M) in pixels of the file.

    Raises:
        InputError: a file is missing or broken, a box has no area or leaves its image, a class
            occurs among the test images alone, or there are too few images.
    """
    check_boxes(config)
    found = {}
    for key, expected in zip(("train", "test"), config.expect or (None, None), strict=True):
        options = getattr(config, f"{key}_options")
        read = _read_coco if config.reader == "coco" else _read_voc
        images, names = read(config, str(options["split"]))
        if not images or len(images) != (expected or len(images)):
            raise InputError(
                f"data.expect: the {key} split of {config.name} has {len(images)} images, a whole "
                f"copy {expected or 'more'}; replace that copy, or give data.expect=null"
            )
        found[key] = [_checked(image, bool(options["skip_empty"])) for image in images]
    known = {box.name for image in found["train"] for box in image.boxes}
    classes = names or tuple(sorted(known))
    trained, validated, tested = split_lists(config, found, generator)
    for image in (*trained, *validated, *tested):
        if unknown := [box.name for box in image.boxes if box.name not in classes]:
            raise InputError(
                f"data.root: {image.source} has a {unknown[0]!r}, a class that the training images "
                f"lack; they have {', '.join(classes)}"
            )
    train, validation = (_load(images, classes, config) for images in (trained, validated))
    test = validation if validated is tested else _load(tested, classes, config)
    return ImageSet(train, validation, test, classes)


def _list_of(config: DataConfig, split: str) -> Path:
    """The file that says which images belong to a split."""
    root = project() / config.root
    if config.reader == "coco":
        return root / "annotations" / f"instances_{split}.json"
    return root / "ImageSets" / "Main" / f"{split}.txt"


def _read_voc(config: DataConfig, split: str) -> tuple[list[Annotated], tuple[str, ...]]:
    """Coordinates are taken as they are, as torchvision does; no class names."""
    root = project() / config.root
    names = _list_of(config, split).read_text(encoding="utf-8").split()
    return [_voc(root, name) for name in names], ()


def _voc(root: Path, name: str) -> Annotated:
    path = root / "Annotations" / f"{name}.xml"
    try:
        tree = ElementTree.parse(path).getroot()
        height, width = (int(_text(tree, f"size/{side}")) for side in ("height", "width"))
        boxes = []
        for item in tree.iter("object"):
            edges = (float(_text(item, f"bndbox/{e}")) for e in ("xmin", "ymin", "xmax", "ymax"))
            left, top, right, bottom = edges
            area, difficult = (right - left) * (bottom - top), item.findtext("difficult") == "1"
            boxes.append(Box(left, top, right, bottom, _text(item, "name"), difficult, area))
    except OSError as error:
        raise InputError(f"data.root: {path}: {error.strerror or error}") from None
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"data.root: {path} is a broken annotation: {reason(error)}") from None
    return Annotated(root / "JPEGImages" / f"{name}.jpg", str(path), height, width, tuple(boxes))


def _text(element: ElementTree.Element, path: str) -> str:
    if found := (element.findtext(path) or "").strip():
        return found
    raise ValueError(f"<{element.tag}> has no {path}")


def _read_coco(config: DataConfig, split: str) -> tuple[list[Annotated], tuple[str, ...]]:
    """COCO numbers its 80 classes from 1 to 90; the numbers between are called N/A."""
    path = _list_of(config, split)
    try:
        found = json.loads(path.read_bytes())
        names = {category["id"]: category["name"] for category in found["categories"]}
        boxes = {image["id"]: [] for image in found["images"]}
        for item in found["annotations"]:
            left, top, width, height = map(float, item["bbox"])
            box = (left, top, left + width, top + height, names[item["category_id"]])
            area = float(item.get("area", width * height))
            boxes[item["image_id"]].append(Box(*box, bool(item.get("iscrowd", 0)), area))
        images = []
        for image in found["images"]:
            file = project() / config.root / split / image["file_name"]
            own, source = tuple(boxes[image["id"]]), f"image {image['id']} of {path}"
            images.append(Annotated(file, source, image["height"], image["width"], own))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"data.root: {path} is a broken annotation: {type(error).__name__}: {reason(error)}"
        ) from None
    return images, tuple(names.get(key, "N/A") for key in range(1, max(names) + 1))


def _checked(image: Annotated, skip_empty: bool) -> Annotated:
    """The image without boxes of no area; `InputError` for such a box, unless it may be skipped."""
    if not image.path.is_file():
        raise InputError(f"data.root: {image.path} is missing, which {image.source} describes")
    kept = []
    for box in image.boxes:
        edges = f"{box.name} {[box.left, box.top, box.right, box.bottom]}"
        if not (box.left < box.right and box.top < box.bottom):
            if skip_empty:
                continue
            raise InputError(
                f"data.root: {image.source}: {edges} has no area; correct it, or give "
                "skip_empty: true in data.train_options and data.test_options"
            )
        # COCO rounds to hundredths
        if min(box.left, box.top, image.width - box.right, image.height - box.bottom) < -0.5:
            raise InputError(
                f"data.root: {image.source}: {edges} leaves its image of {image.width} x "
                f"{image.height} pixels"
            )
        kept.append(box)
    return Annotated(image.path, image.source, image.height, image.width, tuple(kept))


def _load(images: Sequence[Annotated], classes: Sequence[str], config: DataConfig) -> Examples:
    sizes, scales = [], []
    for image in images:
        short, long = sorted((image.height, image.width))
        scale = min(config.size / short, config.resize / long)
        sizes.append((round(image.height * scale), round(image.width * scale)))
        scales.append(scale)
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    if (needed := len(images) * 3 * height * width) > IN_MEMORY:
        raise InputError(
            f"data.size: {len(images)} images of {height} x {width} pixels need "
            f"{needed / 2**30:.0f} GiB, of at most {IN_MEMORY / 2**30:.0f}; give less, or "
            "data.train_size"
        )
    pixels = torch.zeros(len(images), 3, height, width, dtype=torch.uint8)
    for row, (own, found) in enumerate(zip(sizes, _decoded(images, sizes), strict=True)):
        pixels[row, :, : own[0], : own[1]] = found
    numbers = {name: number for number, name in enumerate(classes, 1)}

    def padded(values: Iterator[list], kind: torch.dtype, *shape: int) -> Tensor:
        rows = [torch.tensor(own, dtype=kind).view(-1, *shape) for own in values]
        return pad_sequence(rows, batch_first=True)

    every = [image.boxes for image in images]
    edges = padded(
        ([(b.left, b.top, b.right, b.bottom) for b in own] for own in every), torch.float, 4
    )
    limits = torch.tensor(sizes).flip(1).repeat(1, 2)[:, None]  # width, height, width, height
    boxes = edges * torch.tensor(scales)[:, None, None]
    return Examples(
        {
            "images": pixels,
            "sizes": torch.tensor(sizes),
            "scales": torch.tensor(scales),
            "boxes": boxes.clamp(min=0).minimum(limits),
            "classes": padded(([numbers[b.name] for b in own] for own in every), torch.long),
            "ignored": padded(([b.ignored for b in own] for own in every), torch.bool),
            "areas": padded(([b.area for b in own] for own in every), torch.float),
        }
    )


def _decoded(images: Sequence[Annotated], sizes: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
    """Each image at its size, (3, height, width), decoded in threads."""

    def one(job: tuple[Annotated, tuple[int, int]]) -> Tensor:
        image, (height, width) = job
        found = decode(image.path)
        if found.size != (image.width, image.height):
            raise InputError(
                f"data.root: {image.path} is {found.width} x {found.height} pixels; "
                f"{image.source} says {image.width} x {image.height}"
            )
        resized = found.resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1)

    with ThreadPool(thread_count()) as pool:
        results = pool.imap(one, zip(images, sizes, strict=True), chunksize=8)
        yield from tqdm(results, "decode images", len(images), disable=None, unit="image")

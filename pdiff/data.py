"""Image sets by name: uint8 tensors that stay on the device, augmented there in batches.

Axes: N images, B batch, C = 3 channels, H and W pixels, S the side that the net sees.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from pdiff.augment import augment
from pdiff.config import DataConfig
from pdiff.errors import InputError
from pdiff.files import load_tensors, save_tensors

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


@dataclass(frozen=True)
class ImageSplit:
    """Images of one size and their classes."""

    images: UInt8[Tensor, "N C H W"]
    labels: Int64[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Int64[Tensor, " M"]) -> "ImageSplit":
        return ImageSplit(self.images[index], self.labels[index])

    def to(self, device: torch.device | str) -> "ImageSplit":
        return ImageSplit(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class ImageSet:
    """The three splits; with `data.split: paper` the validation split is the test split."""

    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    classes: tuple[str, ...]

    def to(self, device: torch.device | str) -> "ImageSet":
        splits = {name: getattr(self, name).to(device) for name in SPLITS}
        return replace(self, **splits)


SPLITS = ("train", "validation", "test")
Source = tuple[ImageSplit, ImageSplit, tuple[str, ...]]


def prepare_images(config: DataConfig, generator: torch.Generator) -> ImageSet:
    """Read an image set and split it, as `config` and the generator say.

    Raises:
        InputError: unknown name, missing or broken files, too few images.
    """
    check_images(config)
    train, test, classes = DATASETS[config.reader](config, generator)
    order = torch.randperm(len(train), generator=generator)
    if config.split == "validation":
        held_back = _count(config.validation_size, len(train))
        validation, order = train.take(order[:held_back]), order[held_back:]
    if config.train_size is not None:
        _enough("data.train_size", config.train_size, len(order))
        order = order[: config.train_size]
    if config.test_size is not None:
        _enough("data.test_size", config.test_size, len(test))
        test = test.take(torch.randperm(len(test), generator=generator)[: config.test_size])
    test = _with_fixed_noise(test, config, generator)
    if config.split == "validation":
        validation = _with_fixed_noise(validation, config, generator)
    else:
        validation = test
    return ImageSet(train.take(order), validation, test, classes)


def check_images(config: DataConfig) -> None:
    """What can be known about the images without decoding one; raises `InputError`."""
    if config.reader not in DATASETS:
        raise InputError(f"data.reader: unknown {config.reader!r}; known: {sorted(DATASETS)}")
    if config.resize < config.size:
        raise InputError(
            f"data.resize: {config.resize} is smaller than data.size: {config.size}, the side of "
            "the centre crop"
        )
    if config.reader == "folder":
        _list_folder(Path(config.root))


def save_images(path: Path, images: ImageSet) -> None:
    tensors = {}
    for name in SPLITS:
        split = getattr(images, name)
        tensors |= {f"{name}.images": split.images, f"{name}.labels": split.labels}
    save_tensors(path, tensors, classes=images.classes)


def load_images(path: Path, device: torch.device | str = "cpu") -> ImageSet:
    """The image set that `save_images` wrote; `InputError` if it is missing or broken."""
    tensors, header = load_tensors(path, device)
    if f"{SPLITS[0]}.images" not in tensors:
        raise InputError(f"{path} is not an image set")
    splits = {n: ImageSplit(tensors[f"{n}.images"], tensors[f"{n}.labels"]) for n in SPLITS}
    return ImageSet(**splits, classes=tuple(header["classes"]))


def training_batches(
    split: ImageSplit, config: DataConfig, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Float[Tensor, "B C S S"], Int64[Tensor, " B"]]]:
    """One pass in random order, augmented and normalised; a last batch of one is left out."""
    device = split.images.device
    order = torch.randperm(len(split), generator=generator, device=device)
    for index in order.split(batch_size):
        if len(index) > 1:  # batch norm needs two
            images = augment(split.images[index], config, generator)
            yield _normalise(images, config), split.labels[index]


@dataclass(frozen=True)
class EvaluationBatches:
    """All images of a split in order: resized, centre-cropped and normalised, B at a time."""

    split: ImageSplit
    config: DataConfig
    batch_size: int

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[Float[Tensor, "B C S S"]]:
        for images in self.split.images.split(self.batch_size):
            yield _normalise(_resize_and_crop(images, self.config), self.config)


def _normalise(images: Float[Tensor, "B C S S"], config: DataConfig) -> Float[Tensor, "B C S S"]:
    mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (config.mean, config.std))
    return (images - mean) / std


def _resize_and_crop(
    images: UInt8[Tensor, "B C H W"], config: DataConfig
) -> Float[Tensor, "B C S S"]:
    """Pixels in [0, 1]; as torchvision's Resize(resize) and CenterCrop(size) on tensors."""
    height, width = images.shape[2:]
    pixels = images.float() / 255
    as_the_net_sees_it = config.noise > 0 or config.resize == config.size
    if as_the_net_sees_it and (height, width) == (config.size, config.size):
        return pixels
    shorter = min(height, width)
    new = tuple(int(config.resize * side / shorter) for side in (height, width))
    if new != (height, width):
        pixels = functional.interpolate(pixels, new, mode="bilinear", antialias=True)
    top, left = (round((side - config.size) / 2) for side in new)
    return pixels[:, :, top : top + config.size, left : left + config.size]


def _with_fixed_noise(
    split: ImageSplit, config: DataConfig, generator: torch.Generator
) -> ImageSplit:
    """Evaluation images with the noise that they keep, at the size that the net sees."""
    if config.noise == 0:
        return split
    pixels = _resize_and_crop(split.images, config)
    noise = torch.randn(pixels.shape, generator=generator)
    noised = (pixels + config.noise * noise).clamp(0, 1) * 255
    return replace(split, images=noised.round().to(torch.uint8))


def _digits(config: DataConfig, generator: torch.Generator) -> Source:
    """scikit-learn's 1,797 digits, upscaled; they have no split of their own."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = torch.from_numpy(bunch.images).float()[:, None] / 16  # (N, 1, 8, 8), pixels in [0, 1]
    side = config.resize
    pixels = functional.interpolate(grey, (side, side), mode="bilinear", antialias=True)
    images = (pixels * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    split = ImageSplit(images, torch.from_numpy(bunch.target).long())
    held_back = config.test_size or len(split) // 2
    _enough("data.test_size", held_back, len(split) - 1)
    order = torch.randperm(len(split), generator=generator)
    classes = tuple(str(name) for name in bunch.target_names)
    return split.take(order[held_back:]), split.take(order[:held_back]), classes


def _folder(config: DataConfig, generator: torch.Generator) -> Source:
    """Anyone's own images, in one folder per class below train/ and test/."""
    files, classes = _list_folder(Path(config.root))
    return _read(files["train"], config), _read(files["test"], config), classes


DATASETS: dict[str, Callable[[DataConfig, torch.Generator], Source]] = {
    "digits": _digits,
    "folder": _folder,
}


def _list_folder(root: Path) -> tuple[dict[str, list[tuple[Path, int]]], tuple[str, ...]]:
    """(file, class) for the images below train/ and test/, in the order of their names."""
    try:
        return _listed(root)
    except OSError as error:
        raise InputError(f"data.root: {error.filename} cannot be read: {error.strerror}") from None


def _listed(root: Path) -> tuple[dict[str, list[tuple[Path, int]]], tuple[str, ...]]:
    if not root.is_dir():
        raise InputError(
            f"data.root: {str(root)!r} is not a folder; it must hold train/CLASS/ and test/CLASS/ "
            "(queued experiments run elsewhere: give an absolute path)"
        )
    names = {}
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise InputError(f"data.root: {root} lacks the folder {part}/ with one folder a class")
        folders = (path for path in (root / part).iterdir() if path.is_dir())
        names[part] = sorted(path.name for path in folders if not path.name.startswith("."))
    classes = names["train"]
    if len(classes) < 2 or names["test"] != classes:
        raise InputError(
            f"data.root: {root} must have the same two or more class folders in train/ and test/; "
            f"train/ has {_shorten(classes)}, test/ has {_shorten(names['test'])}"
        )
    files: dict[str, list[tuple[Path, int]]] = {}
    for part in names:
        files[part] = []
        for label, name in enumerate(classes):
            folder = root / part / name
            found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
            if not found:
                raise InputError(
                    f"data.root: {folder} has no image; allowed are {', '.join(sorted(SUFFIXES))}"
                )
            files[part] += [(path, label) for path in found]
    return files, tuple(classes)


def _read(files: list[tuple[Path, int]], config: DataConfig) -> ImageSplit:
    """Decode in parallel to one size: the images' own if they share a small one, else `resize`."""
    with ThreadPoolExecutor() as pool:
        sizes = set(pool.map(_size, (path for path, _ in files)))
        (width, height) = sizes.pop() if len(sizes) == 1 else (0, 0)
        if not 0 < min(width, height) <= config.resize:
            width = height = config.resize
        _fits_in_memory(len(files) * height * width * 3, config)
        images = np.empty((len(files), height, width, 3), np.uint8)

        def decode(index: int) -> None:
            images[index] = _decode(files[index][0], (width, height))

        jobs = pool.map(decode, range(len(files)))
        for _ in tqdm(jobs, "decode images", len(files), disable=None, unit="image"):
            pass
    labels = torch.tensor([label for _, label in files])
    return ImageSplit(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels)


def _fits_in_memory(size: int, config: DataConfig) -> None:
    """Refuse, before anything is decoded, a set that would not fit twice (it is copied once)."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 2 * size > free:
        raise InputError(
            f"data.resize: at {config.resize} px these images need {2 * size / 2**30:.1f} GiB of "
            f"memory and {free / 2**30:.1f} are free; a smaller data.resize needs less"
        )


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return image.size[::-1] if turned else image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _broken(path, error) from None


def _decode(path: Path, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """RGB pixels; the shorter side resized to fit `size` and the middle kept."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")  # transparent palettes and odd EXIF blocks
            image = _rgb(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _broken(path, error) from None
    if image.size != size:
        scale = max(size[0] / image.width, size[1] / image.height)
        scaled = tuple(
            max(round(side * scale), least) for side, least in zip(image.size, size, strict=True)
        )
        image = image.resize(scaled, Image.Resampling.BILINEAR)
        left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
        image = image.crop((left, top, left + size[0], top + size[1]))
    return np.asarray(image)


def _rgb(image: Image.Image) -> Image.Image:
    """Eight bits a channel; 16-bit grey is scaled down, not cut off as Pillow does."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are of Pillow's mode {image.mode}, whose range is unknown")
    return image.convert("RGB")


def _broken(path: Path, error: Exception) -> InputError:
    return InputError(f"data.root: {path} is not an image that can be read: {error}")


def _count(size: int | float, available: int) -> int:
    count = size if isinstance(size, int) else max(1, round(size * available))
    _enough("data.validation_size", count, available - 2)
    return count


def _enough(name: str, wanted: int, available: int) -> None:
    if wanted > available:
        raise InputError(f"{name}: {wanted} images are wanted, at most {available} can be had")


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") or "none"

"""Where images come from: the digits, anyone's own folder, or a class of torchvision."""

import torch
from torch.nn import functional
from torchvision.datasets import DatasetFolder

from pdiff.config import DataConfig
from pdiff.datasets.splits import Source, read_splits
from pdiff.datasets.torchvision import check_set, open_sets
from pdiff.images.pixels import ImageSplit
from pdiff.system.errors import InputError
from pdiff.system.paths import root as project

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def read_images(config: DataConfig, generator: torch.Generator) -> Source:
    """Training images, test images, class names; `InputError` for what is missing or broken."""
    if config.reader == "digits":
        return _digits(config, generator)
    sets = _open_folder(config) if config.reader == "folder" else open_sets(config)
    return read_splits(*sets, config)


def check_images(config: DataConfig) -> None:
    """Raise `InputError` for a mistake that shows without reading an image or downloading."""
    if config.reader == "folder":
        _open_folder(config)
    elif config.reader != "digits":
        check_set(config)


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
    enough("data.test_size", held_back, len(split) - 1)
    order = torch.randperm(len(split), generator=generator)
    classes = tuple(str(name) for name in bunch.target_names)
    return split.take(order[held_back:]), split.take(order[:held_back]), classes


def _open_folder(config: DataConfig) -> list[DatasetFolder]:
    """Anyone's own images in `data.root`, in one folder per class below train/ and test/."""
    root, found = project() / config.root, []
    layout = f"{root} must hold train/CLASS/ and test/CLASS/ with the same two or more classes"
    for part in ("train", "test"):
        try:
            found.append(DatasetFolder(root / part, str, SUFFIXES))
        except OSError as error:  # a folder that is missing, empty or not readable
            raise InputError(
                f"data.root: {root / part}: {error.strerror or error}; {layout} "
                "(queued experiments run elsewhere: give an absolute path)"
            ) from None
    train, test = (dataset.classes for dataset in found)
    if len(train) < 2 or test != train:
        names = [", ".join(names[:5]) + ", ..." * (len(names) > 5) for names in (train, test)]
        raise InputError(f"data.root: {layout}; train/ has {names[0]}, test/ has {names[1]}")
    return found


def enough(name: str, wanted: int, available: int) -> None:
    """Raise `InputError` if the parameter `name` wants more images than there are."""
    if wanted > available:
        raise InputError(f"{name}: {wanted} images are wanted, at most {available} can be had")

"""Anyone's own images: a folder for each class below train/ and test/."""

from pathlib import Path

from torchvision.datasets import DatasetFolder

from pdiff.config import DataConfig
from pdiff.system.errors import InputError
from pdiff.system.paths import root as project

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def open_folder(config: DataConfig) -> list[DatasetFolder]:
    """Training and test images in `data.root`; reads none of them.

    Hidden files are left out: macOS puts `._1.png` beside `1.png`.
    """
    root, found = project() / config.root, []
    layout = (
        f"{root} must hold train/CLASS/ and test/CLASS/ with the same two or more classes, whose "
        f"images end in {', '.join(SUFFIXES)}"
    )
    for part in ("train", "test"):
        try:
            found.append(DatasetFolder(root / part, str, is_valid_file=_is_image))
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


def _is_image(path: str) -> bool:
    name = Path(path).name
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")

"""Image files as upright RGB, eight bits a channel, through Pillow; a broken one is named."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from pdiff.system.errors import InputError

# transparent palettes and odd EXIF blocks
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def decode(path: Path, shrink: float = 1.0) -> Image.Image:
    """The image; a JPEG at half, a quarter or an eighth of its size, but no less than `shrink`.

    `InputError` names a file that is not an image.
    """
    with _naming(path), Image.open(path) as image:
        if shrink <= 0.5:
            image.draft(None, tuple(math.ceil(side * shrink) for side in image.size))
        return rgb(ImageOps.exif_transpose(image))


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of the upright image, from the file's first bytes."""
    with _naming(path), Image.open(path) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return image.size if turned else image.size[::-1]


def rgb(image: Image.Image) -> Image.Image:
    """Eight bits a channel; 16-bit grey is scaled down, not cut off as Pillow does."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are of Pillow's mode {image.mode}, whose range is unknown")
    return image.convert("RGB")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, FileNotFoundError) else error
        raise InputError(f"data.root: {path} is not an image that can be read: {reason}") from None

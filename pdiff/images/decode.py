"""Image files as upright RGB, eight bits a channel, through Pillow; a broken one is named."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pdiff.system.errors import InputError, reason

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What Pillow may take a file for; it would hand others, PostScript among them, to programs."""
PIXELS = 2**26
"""Most pixels of an image, 8,192 x 8,192: 268 MB in memory for each thread that decodes."""

# transparent palettes and odd EXIF blocks; images that are large, which `PIXELS` decides
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(path: Path, shrink: float = 1.0, size: tuple[int, int] | None = None) -> Image.Image:
    """The image; a JPEG at half, a quarter or an eighth of its size, but no less than `shrink`.

    `InputError` names a file that is not an image, or has another height and width than `size`.
    """
    with _opened(path) as image:
        found = _upright_size(image)
        if size and found != size:
            raise InputError(
                f"data.root: {path} is {found[0]} x {found[1]} pixels, and was {size[0]} x "
                f"{size[1]} when the stage prepare_data read it; run that stage again"
            )
        if shrink <= 0.5:
            image.draft(None, tuple(math.ceil(side * shrink) for side in image.size))
        return rgb(ImageOps.exif_transpose(image))


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of the upright image.

    It is read to its end, so that none is found broken later; a JPEG at an eighth of its size,
    which takes half the time. Errors as `decode`.
    """
    with _opened(path) as image:
        size = _upright_size(image)
        image.draft(None, (1, 1))
        rgb(image)
        return size


def rgb(image: Image.Image) -> Image.Image:
    """Eight bits a channel; 16-bit grey is scaled down, not cut off as Pillow does."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are of Pillow's mode {image.mode}, whose range is unknown")
    return image.convert("RGB")


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return image.size if turned else image.size[::-1]


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image of one of `FORMATS`; what goes wrong with it names the file."""
    with naming(path):
        if not path.is_file():  # opening a named pipe would wait for ever
            raise ValueError("no regular file is there")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are more than {PIXELS:,}")
            yield image


@contextmanager
def naming(image: Path | str) -> Iterator[None]:
    """Pillow's errors as one line that names the image."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        why = f"it is none of {', '.join(FORMATS)}" if unknown else reason(error)
        raise InputError(f"data.root: {image} is not an image that can be read: {why}") from None


def label_map(path: Path) -> np.ndarray:
    """Numbers of an image with one channel or a palette, (H, W) of uint8; errors as `decode`."""
    with _opened(path) as image:
        if image.mode not in ("L", "P"):
            raise ValueError(f"a label map has one channel of 8 bits, not Pillow's {image.mode}")
        return np.array(image)

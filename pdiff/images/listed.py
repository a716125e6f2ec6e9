"""A split of larger images: a list of files, decoded in parallel each time they are used.

The methods are those of `pdiff.images.pixels.ImageSplit`. Images are turned upright, as their EXIF
block says.

Axes: N images, B batch, C = 3 channels, S the side that the net sees.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from pdiff.config import DataConfig
from pdiff.images.augment import add_noise, centre_crop, draw_boxes
from pdiff.images.decode import decode
from pdiff.system.errors import InputError
from pdiff.system.paths import root as project

AHEAD = 2  # batches that are decoded while one is used


@dataclass(frozen=True)
class ImageFiles:
    """Where images of any sizes are, and their classes."""

    root: str
    """Folder of the files; a relative one starts at the project's folder."""
    paths: tuple[str, ...]
    """Each file, relative to `root`."""
    sizes: Int64[Tensor, "N 2"]
    """Height and width of each image, upright; stays on the CPU."""
    labels: Int64[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Int64[Tensor, " M"]) -> "ImageFiles":
        rows = index.cpu()
        paths = tuple(self.paths[i] for i in rows.tolist())
        return ImageFiles(self.root, paths, self.sizes[rows], self.labels[index])

    def to(self, device: torch.device | str) -> "ImageFiles":
        return replace(self, labels=self.labels.to(device))

    def augmented(
        self, batches: Sequence[Int64[Tensor, " _"]], config: DataConfig, generator: torch.Generator
    ) -> Iterator[Float[Tensor, "_ C S S"]]:
        """The images of each batch as training sees them; pixels in [0, 1].

        Boxes are drawn here, a batch at a time: the number of threads changes nothing.
        """
        device = self.labels.device

        def jobs(index: Int64[Tensor, " B"]) -> list[tuple]:
            sizes = self.sizes[index.cpu()].to(device)
            columns = (x.tolist() for x in (index, *draw_boxes(sizes, config, generator)))
            return [(*job, config.size) for job in zip(*columns, strict=True)]

        for pixels in _decoded(self._cut_out, map(jobs, batches), device):
            yield add_noise(pixels, config, generator)

    def evaluated(self, batch_size: int, config: DataConfig) -> Iterator[Float[Tensor, "_ C S S"]]:
        """All images in order as evaluation sees them; pixels in [0, 1]."""
        batches = torch.arange(len(self)).split(batch_size)
        jobs = ([(row, config) for row in batch.tolist()] for batch in batches)
        yield from _decoded(self._centre, jobs, self.labels.device)

    def with_fixed_noise(self, config: DataConfig, generator: torch.Generator) -> "ImageFiles":
        """The same list; `InputError` for noise, since its pixels are kept nowhere."""
        if config.noise > 0:
            raise InputError(
                f"data.noise: {config.noise} is for sets of one small size only; these images are "
                "larger or of several sizes: give data.noise=0"
            )
        return self

    def tensors(self) -> dict[str, Tensor]:
        """The split on disk; the paths as bytes, with zeros between them."""
        names = np.frombuffer("\0".join(self.paths).encode(), np.uint8)
        return {"paths": torch.from_numpy(names.copy()), "sizes": self.sizes, "labels": self.labels}

    def _file(self, row: int) -> Path:
        return project() / self.root / self.paths[row]

    def _cut_out(self, row: int, box: list[float], mirrored: bool, size: int) -> np.ndarray:
        """A training image: the box of the original pixels at `size`, antialiased."""
        # a JPEG is decoded smaller where twice the pixels that are needed remain
        height, width = self.sizes[row].tolist()
        image = decode(self._file(row), 2 * size / min(box[2:]), (height, width))
        x, y = image.width / width, image.height / height
        image, box = _with_border(image, [box[0] * x, box[1] * y, box[2] * x, box[3] * y])
        left, top, width, height = box
        corners = (left, top, min(left + width, image.width), min(top + height, image.height))
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=corners)
        return np.asarray(image)[:, ::-1] if mirrored else np.asarray(image)

    def _centre(self, row: int, config: DataConfig) -> np.ndarray:
        """An evaluation image, as torchvision's Resize and CenterCrop make it of a PIL image."""
        height, width = self.sizes[row].tolist()
        image = decode(self._file(row), size=(height, width))
        (height, width), top, left = centre_crop(height, width, config)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image.crop((left, top, left + config.size, top + config.size)))


def read_paths(names: UInt8[Tensor, " _"]) -> tuple[str, ...]:
    """The paths that `ImageFiles.tensors` keeps as bytes."""
    return tuple(names.numpy(force=True).tobytes().decode().split("\0"))


def thread_count() -> int:
    """Images decoded at a time: one for each processor."""
    return len(os.sched_getaffinity(0))


def _decoded(
    function: Callable[..., np.ndarray], batches: Iterable[list[tuple]], device: torch.device
) -> Iterator[Float[Tensor, "_ C S S"]]:
    """Each batch of images, made in threads while earlier ones are used."""
    with ThreadPool(thread_count()) as pool:
        started = (pool.starmap_async(function, batch, chunksize=1) for batch in batches)
        waiting = deque(islice(started, AHEAD))
        while waiting:
            waiting.extend(islice(started, 1))
            pixels = torch.from_numpy(np.stack(waiting.popleft().get())).to(device)
            yield pixels.permute(0, 3, 1, 2).contiguous().float() / 255


def _with_border(image: Image.Image, box: list[float]) -> tuple[Image.Image, list[float]]:
    """Where a shift moved the box beyond the image, the image with its border repeated."""
    left, top, width, height = box
    slack = 1e-3  # of a pixel, from rounding
    before = [max(0, math.ceil(-side - slack)) for side in (left, top)]
    ends = (left + width - image.width, top + height - image.height)
    after = [max(0, math.ceil(end - slack)) for end in ends]
    if any(before + after):
        across, down = zip(before, after, strict=True)
        image = Image.fromarray(np.pad(np.asarray(image), (down, across, (0, 0)), mode="edge"))
    return image, [max(left + before[0], 0.0), max(top + before[1], 0.0), width, height]

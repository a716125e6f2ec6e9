"""Segmentation (the paper's Table 11): cross entropy of pixels, and the mean IoU of classes.

Axes: B batch, C classes, H and W pixels; images are (B, 3, H, W), label maps (B, H, W).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
from jaxtyping import Float, UInt8
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from pdiff.config import BaseConfig, Fraction, Section
from pdiff.images.batches import ImageSet
from pdiff.images.examples import Examples
from pdiff.images.miou import VOID, confusion, mean_iou
from pdiff.nets.own import check_watch
from pdiff.nets.segmenters import as_outputs, build_segmenter, check_logits, check_segmenter
from pdiff.system.errors import InputError
from pdiff.system.hub import fetched
from pdiff.tasks.registry import Task

if TYPE_CHECKING:
    from pdiff.evaluation.segmentation import SegmentationEvaluation

Batch = tuple[Float[Tensor, "B 3 H W"], UInt8[Tensor, "B H W"]]
"""Images and their label maps."""


class Segmentation(Task):
    class Options(Section):
        classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=VOID)]
        """Names of the labels 0, 1, ..."""
        void: Annotated[int, Field(ge=0, le=255)] | None
        """The label of pixels that do not count; null if there is none."""
        width: PositiveInt
        """Width that images are brought to, in pixels; `data.size` is their height."""
        aux_weight: Annotated[float, Field(ge=0)]
        """Weight of the loss of an auxiliary head, in nets that have one."""

    class Judging(Section):
        right_from: Fraction
        """A model gets an image right if the mean IoU of the image's classes is this or more."""

    metric = "mIoU"

    def check(self, base: BaseConfig) -> None:
        from pdiff.datasets.label_maps import check_label_maps

        data, options = self.data, self.options
        check_segmenter(base.net)
        check_watch(base.net, base.watch)
        if options.void is not None and options.void < len(options.classes):
            raise InputError(
                f"task.options.void: {options.void} is the label of the class "
                f"{options.classes[options.void]!r}"
            )
        unused = {"resize": data.size, "crop_scale": None, "shift": 0, "noise": 0}
        for key, value in unused.items():
            if (found := getattr(data, key)) != value:
                raise InputError(
                    f"data.{key}: {found} has no meaning in segmentation; give {value}"
                )
        check_label_maps(data)

    def start(self, base: BaseConfig, checkpoints: list[Path]) -> nn.Module:
        classes = len(self.options.classes)
        weights = fetched(base.weights, "base.weights") if base.weights else None
        options = {"weights": weights, "new_head": base.epochs > 0}
        net = self.build(base.net, classes, self.data.size, **options)
        check_logits(net, base.net, classes, self._size)
        return net

    def read(self, generator: torch.Generator) -> ImageSet:
        from pdiff.datasets.label_maps import Labels, read_label_maps

        labels = Labels(self.options.classes, self.options.void, self._size)
        return read_label_maps(self.data, labels, generator)

    def build(self, name: str, classes: int, size: int, **options: bool | Path | None) -> nn.Module:
        return build_segmenter(name, classes, size, **options)

    def batches(
        self, split: Examples, batch_size: int, generator: torch.Generator
    ) -> Iterator[Batch]:
        """One pass in random order; half of the images mirrored if `data.flip`.

        Batch norm needs two images, so a last one alone is left out.
        """
        device = split.labels.device
        order = torch.randperm(len(split), generator=generator, device=device)
        for rows in order.split(batch_size):
            if len(rows) < 2:
                continue
            images, maps = (split.columns[name][rows] for name in ("images", "maps"))
            if self.data.flip:
                mirrored = torch.rand(len(rows), generator=generator, device=device) < 0.5
                images[mirrored] = images[mirrored].flip(-1)
                maps[mirrored] = maps[mirrored].flip(-1)
            yield self._normalised(images), maps

    def _normalised(self, images: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        pixels = images.float() / 255
        mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (self.data.mean, self.data.std))
        return (pixels - mean) / std

    def loss(self, net: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross entropy of the pixels that count; 0 if none does."""
        images, maps = batch
        outputs, labels = as_outputs(net(images)), maps.long()
        count = (labels != VOID).sum().clamp(min=1)
        losses = {
            name: functional.cross_entropy(logits, labels, ignore_index=VOID, reduction="sum")
            for name, logits in outputs.items()
        }
        auxiliary = losses.get("aux", 0.0)
        return (losses["out"] + self.options.aux_weight * auxiliary) / count

    @torch.inference_mode()
    def score(self, net: nn.Module, split: Examples, batch_size: int) -> float:
        """Mean IoU in per cent, from one confusion matrix over the split.

        `InputError` if the net's logits of an image are not finite.
        """
        net.eval()
        pixels = 0
        for images, maps in self._evaluated(split, batch_size):
            pixels = pixels + confusion(as_outputs(net(images))["out"], maps).sum(0)
        if unknown := pixels[:, -1].sum().item():
            raise InputError(
                f"base.net: the base net's logits are not finite at {unknown} pixels; it needs "
                "other weights, or a smaller base.lr"
            )
        return 100 * mean_iou(pixels).item()

    def _evaluated(self, split: Examples, batch_size: int) -> Iterator[Batch]:
        """All images in order."""
        columns = (split.columns[name].split(batch_size) for name in ("images", "maps"))
        for images, maps in zip(*columns, strict=True):
            yield self._normalised(images), maps

    def evaluation(
        self, net: nn.Module, names: Sequence[str], images: ImageSet, sizes: tuple[int, int]
    ) -> "SegmentationEvaluation":
        from pdiff.evaluation.segmentation import SegmentationEvaluation

        def batches(split: Examples) -> Iterator[Batch]:
            return self._evaluated(split, sizes[0])

        # a net in torchvision's form gives its main logits alone
        net.register_forward_hook(lambda _, __, found: as_outputs(found)["out"])
        right_from, split, limit = self.judging.right_from, self.data.split, sizes[1]
        return SegmentationEvaluation(net, names, images, split, batches, limit, right_from)

    @property
    def _size(self) -> tuple[int, int]:
        return self.data.size, self.options.width


TASK = Segmentation

"""Object detection: the sum of torchvision's losses, and COCO's average precision.

`data.size` is the shorter side of the images and `data.resize` the most that the longer one may
have, torchvision's `min_size` and `max_size`. Training mirrors half of the images if `data.flip`.

A model gets an image right where the F1 of what it detects is at least `right_f1`. Only similarity
and novelty ask: average precision is no mean over images.

Axes: B batch, N images, M models.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from pdiff.config import BaseConfig, DataConfig, Fraction, Section, Share, TaskConfig
from pdiff.images.batches import ImageSet
from pdiff.images.examples import Examples
from pdiff.nets.average_precision import METRICS, TrueBoxes, as_rows, check_library
from pdiff.nets.detectors import (
    Boxes,
    Sizes,
    build_detector,
    check_detector,
    count_classes,
    detect,
    normalised,
    stream,
    targets,
    total_loss,
)
from pdiff.nets.own import check_watch
from pdiff.nets.registry import read_state
from pdiff.system.errors import InputError
from pdiff.system.hub import fetched
from pdiff.tasks.registry import Task

if TYPE_CHECKING:
    from pdiff.evaluation.detection import DetectionEvaluation

Batch = tuple[Float[Tensor, "B 3 H W"], Sizes, list[Boxes]]
"""Normalised images, their sizes, and the boxes to be found."""


class Detection(Task):
    class Options(Section):
        metric: Literal[tuple(METRICS)]
        """Which of COCO's twelve numbers is the score, which also chooses the base net's epoch."""
        frozen_norms: bool
        """Keep weight and bias of ResNet-50's frozen batch norms as buffers, as torchvision does;
        false makes parameters of them, which can be trained and generated."""

    class Judging(Section):
        confidence: Fraction
        """Least score of a detection that counts in F1 and is drawn."""
        iou: Fraction
        """Least overlap of a detection and a true box that count as the same in F1."""
        right_f1: Share
        """Least F1 of an image that a model gets right."""

    def __init__(self, config: TaskConfig, data: DataConfig) -> None:
        super().__init__(config, data)
        self.metric = self.options.metric

    def check(self, base: BaseConfig) -> None:
        from pdiff.datasets.boxes import check_boxes

        check_library()
        check_detector(base.net)
        check_watch(base.net, base.watch)
        check_boxes(self.data)

    def start(self, base: BaseConfig, checkpoints: list[Path]) -> nn.Module:
        """The images tell the number of classes and are not read yet: COCO's, if nothing does."""
        size = self.data.size
        net = self.build(base.net, 90, size)
        weights = fetched(base.weights, "base.weights") if base.weights else None
        states = [(path, "finetune.folder") for path in checkpoints[:1]]
        states += [(weights, "base.weights")] if weights else []
        for path, parameter in states:
            state = read_state(path, parameter, net.state_dict())
            if classes := count_classes(state, net):
                net = self.build(base.net, classes, size)
                break
        return net

    def read(self, generator: torch.Generator) -> ImageSet:
        from pdiff.datasets.boxes import read_boxes

        return read_boxes(self.data, generator)

    def build(self, name: str, classes: int, size: int, **options: bool | Path | None) -> nn.Module:
        return build_detector(name, classes, frozen_norms=self.options.frozen_norms, **options)

    def batches(
        self, split: Examples, batch_size: int, generator: torch.Generator
    ) -> Iterator[Batch]:
        """A last image alone is left out: batch norm needs two."""
        device = split.labels.device
        order = torch.randperm(len(split), generator=generator, device=device)
        for rows in (rows for rows in order.split(batch_size) if len(rows) > 1):
            columns = split.take(rows).columns
            sizes, boxes = columns["sizes"], columns["boxes"]
            images = normalised(columns["images"], sizes, self.data)
            if self.data.flip:
                drawn = torch.rand(len(rows), generator=generator, device=device) < 0.5
                images, boxes = mirrored(images, boxes, sizes, drawn)
            yield images, list(map(tuple, sizes.tolist())), targets(columns | {"boxes": boxes})

    def loss(self, net: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        return total_loss(net, *batch)

    def score(self, net: nn.Module, split: Examples, batch_size: int) -> float:
        """In percent, as papers print it; `InputError` if what the net detects is not finite."""
        rows, first, net = [], 0, net.eval()
        truth = TrueBoxes(split)
        with torch.inference_mode():
            for images, sizes in stream(split, self.data, batch_size):
                found, finite = detect(net, images, sizes)
                if not finite.all():
                    raise InputError(
                        "base.net: what the base net detects is not finite; it needs other "
                        "weights, or a smaller base.lr"
                    )
                rows.append(as_rows(found, first, truth.scales))
                first += len(found)
        own = (self.metric,), self.judging.confidence, self.judging.iou
        numbers, _ = truth.judge(np.concatenate(rows), *own)
        return 100 * numbers[self.metric]

    def evaluation(
        self, net: nn.Module, names: Sequence[str], images: ImageSet, sizes: tuple[int, int]
    ) -> "DetectionEvaluation":
        from pdiff.evaluation.detection import DetectionEvaluation  # retrains nothing

        own = self.data, self.metric, self.judging
        return DetectionEvaluation(net, names, images, *own, sizes)


def mirrored(
    images: Float[Tensor, "B 3 H W"],
    boxes: Float[Tensor, "B M 4"],
    sizes: Int64[Tensor, "B 2"],
    chosen: Bool[Tensor, " B"],
) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B M 4"]]:
    """The chosen images and their boxes, left and right exchanged; what fills up stays right."""
    width = sizes[:, 1]
    column = torch.arange(images.shape[-1], device=images.device)
    source = width[:, None] - 1 - column  # (B, W); negative where it is filled up
    index = torch.where(chosen[:, None] & (source >= 0), source, column)
    images = images.gather(3, index[:, None, None].expand_as(images))
    left, right = width[:, None] - boxes[..., 2], width[:, None] - boxes[..., 0]
    turned = torch.stack([left, boxes[..., 1], right, boxes[..., 3]], 2)
    return images, torch.where(chosen[:, None, None], turned, boxes)


TASK = Detection

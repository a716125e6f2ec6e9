"""Evaluation of models that are one detector with other parameters: scores, and what is drawn.

Axes: M models, N images of a split, B batch.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int16, UInt8
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.models.detection import FCOS
from torchvision.utils import draw_bounding_boxes

from pdiff.config import DataConfig, Section
from pdiff.evaluation.cut import CutNet, Model
from pdiff.evaluation.predict import NOT_FINITE, Models
from pdiff.evaluation.predictions import Evaluation, grid
from pdiff.images.batches import ImageSet
from pdiff.nets.average_precision import Rows, TrueBoxes, as_rows
from pdiff.nets.detectors import Boxes, Dense, Sizes, detect, read_outputs, stream, targets
from pdiff.system.progress import tqdm
from pdiff.system.speed import measured

Shared = tuple[Tensor, Sizes, Any]
"""What all models share of a batch: images or one of their shape, sizes, and the boundary of a net
that is cut, the backbone's features, or None."""
COLOURS = ("#ff4040", "#40a0ff", "#40e060", "#ffc020", "#e060ff", "#20e0e0")
"""Of boxes in pictures; classes take turns."""
SHOWN = 4
"""Images in a row of a picture."""


class DetectionEvaluation(Evaluation):
    """Scores detectors, in percent, that differ from one net in a subset of its parameters.

    Of an FCOS and images of one size only what the subset reaches is computed for each model. Else
    the backbone runs once for all models if no parameter of the subset lies in it, and the heads
    for each.
    """

    def __init__(
        self,
        net: nn.Module,
        names: Sequence[str],
        images: ImageSet,
        data: DataConfig,
        metric: str,
        judging: Section,
        sizes: tuple[int, int],
    ) -> None:
        """`judging` is `task.judging`; `sizes` are `evaluate.batch_size` and `.boundary_mib`."""
        super().__init__(images, data.split)
        self.metric = metric
        self._data, self._judging = data, judging
        self._batch_size, self._boundary_mib = sizes
        self._truth: dict[str, TrueBoxes] = {}
        shapes = torch.cat([split.columns["sizes"] for split in (images.validation, images.test)])
        example, _ = next(stream(images.validation, data, 2))
        self._models = DetectorModels(
            net, names, example if len(shapes.unique(dim=0)) == 1 else None
        )
        self._kept: dict[str, list[Shared]] = {}

    def judge(
        self, split: str, models: Models, progress: str | None = None
    ) -> tuple[Int16[Tensor, "M N"], Float[Tensor, " M"]]:
        images, judging = getattr(self.images, split), self._judging
        right, scores = [], []
        with measured(models=len(models), predictions=len(models) * len(images)):
            for rows, finite in self._detections(split, models, progress):
                asked = (self.metric,), judging.confidence, judging.iou
                numbers, f1 = self._true(split).judge(rows, *asked)
                scores.append(100 * numbers[self.metric])
                right.append(torch.where(finite, f1 >= judging.right_f1, NOT_FINITE))
        return torch.stack(right).short(), torch.tensor(scores)

    def _true(self, split: str) -> TrueBoxes:
        if split not in self._truth:
            self._truth[split] = TrueBoxes(getattr(self.images, split))
        return self._truth[split]

    def _detections(
        self, split: str, models: Models, progress: str | None
    ) -> list[tuple[Rows, Bool[Tensor, " N"]]]:
        """What each model detects, and in which images all numbers are finite."""
        scales, count, first = self._true(split).scales, len(models), 0
        rows, finite = [[] for _ in range(count)], [[] for _ in range(count)]
        total = count * math.ceil(len(scales) / self._batch_size)
        with tqdm(
            desc=progress, total=total, unit="batch", disable=None if progress else True
        ) as bar:
            for shared in self._batches(split):
                for index in range(count):
                    found, good = self._models.detect(models[index], shared)
                    rows[index].append(as_rows(found, first, scales))
                    finite[index].append(good.cpu())
                    bar.update()
                first += len(shared[1])
        return [
            (np.concatenate(own), torch.cat(good)) for own, good in zip(rows, finite, strict=True)
        ]

    def _batches(self, split: str) -> Iterator[Shared]:
        """What all models share of each batch; kept for one split, if `boundary_mib` allows."""
        if split in self._kept:
            yield from self._kept[split]
            return
        self._kept, kept, left = {}, [], self._boundary_mib * 2**20
        own, batch_size = getattr(self.images, split), self._batch_size
        for images, sizes in stream(own, self._data, batch_size):
            shared = self._models.share(images, sizes)
            left -= _bytes(shared)
            if left >= 0:
                kept.append(shared)
            yield shared
        if left >= 0:
            self._kept = {split: kept}

    def picture(self, models: Models) -> tuple[UInt8[Tensor, "3 H W"], str]:
        """The first test images, each in all three rows."""
        chosen = self.images.test.take(torch.arange(min(SHOWN, len(self.images.test))))
        columns = chosen.columns
        truth = targets(columns)
        shared = self._models.share(*next(stream(chosen, self._data, len(chosen))))
        rows = [truth, *(self._models.detect(models[i], shared)[0] for i in range(2))]
        pixels = [
            drawn(image, own, self._judging.confidence)
            for row in rows
            for image, own in zip(columns["images"].cpu(), row, strict=True)
        ]
        told = []
        for detections, _ in self._detections("test", models, None):
            numbers, _ = self._true("test").judge(detections, ("AP", "AP50"), 0.5, 0.5)
            told.append(", ".join(f"{name} {100 * value:.1f}" for name, value in numbers.items()))
        text = (
            "Test images: above, the true boxes; in the middle, what the first original detects "
            f"({told[0]} on the whole split); below, what the first generated model detects "
            f"({told[1]}). Boxes with a score below {self._judging.confidence:g} are not drawn."
        )
        return grid(torch.stack(pixels).float() / 255, len(chosen)), text


class DetectorModels:
    """Detects with models that differ from `net` in the parameters `names`.

    `example` are images (B, 3, H, W) if all have one size, else None. A warning says so where the
    whole net runs for every model.
    """

    def __init__(self, net: nn.Module, names: Sequence[str], example: Tensor | None) -> None:
        self._whole, self._cut = Whole(net.eval()), None
        self._outside = not any(name.startswith("backbone.") for name in names)
        if isinstance(net, FCOS) and example is not None:
            self._cut = CutNet(Dense(net), names, example)
            with torch.inference_mode():
                self._levels = list(net.backbone(example[:1]).values())
        elif not self._outside:
            warnings.warn(
                "a part of the subset lies in the backbone; evaluation runs the whole net for "
                "every model, which is slower",
                stacklevel=2,
            )

    @torch.inference_mode()
    def share(self, images: Float[Tensor, "B 3 H W"], sizes: Sizes) -> Shared:
        if self._cut:
            return images[:1], sizes, self._cut.prefix(images)
        return images, sizes, self._whole.net.backbone(images) if self._outside else None

    @torch.inference_mode()
    def detect(self, model: Model, shared: Shared) -> tuple[list[Boxes], Bool[Tensor, " B"]]:
        """As `pdiff.nets.detectors.detect`."""
        images, sizes, values = shared
        if self._cut:
            outputs = self._cut.run(self._cut.load(model), values)
            return read_outputs(self._whole.net, outputs, images, sizes, self._levels)
        own = {f"net.{name}": value.to(images.device) for name, value in model.items()}
        return functional_call(self._whole, own, (images, sizes, values))


class Whole(nn.Module):
    """A detector whose call is `detect`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Any) -> tuple[list[Boxes], Bool[Tensor, " B"]]:
        return detect(self.net, *inputs)


def drawn(image: UInt8[Tensor, "3 H W"], boxes: Boxes, confidence: float) -> UInt8[Tensor, "3 H W"]:
    """The image with boxes, those with a score only if it is high enough; a colour for a class."""
    kept = boxes["labels"] > 0
    if "scores" in boxes:
        kept &= boxes["scores"] >= confidence
    colours = [COLOURS[label % len(COLOURS)] for label in boxes["labels"][kept].tolist()]
    return draw_bounding_boxes(image, boxes["boxes"][kept].cpu(), colors=colours, width=2)


def _bytes(shared: Shared) -> int:
    images, _, values = shared
    values = values.values() if isinstance(values, dict) else values or ()
    return sum(t.nbytes for t in (images, *values) if isinstance(t, Tensor))

"""How good detections are: COCO's numbers by faster-coco-eval, and F1 of each image.

Axes: N images of a split, M boxes of the image that has most.
"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Float64
from torch import Tensor
from torchvision.ops import box_convert

from pdiff.images.examples import Examples
from pdiff.nets.detectors import Boxes
from pdiff.system.errors import InputError

METRICS = {
    "AP": ("precision", None, "all", 100),
    "AP50": ("precision", 0.5, "all", 100),
    "AP75": ("precision", 0.75, "all", 100),
    "AP_small": ("precision", None, "small", 100),
    "AP_medium": ("precision", None, "medium", 100),
    "AP_large": ("precision", None, "large", 100),
    "AR1": ("recall", None, "all", 1),
    "AR10": ("recall", None, "all", 10),
    "AR100": ("recall", None, "all", 100),
    "AR_small": ("recall", None, "small", 100),
    "AR_medium": ("recall", None, "medium", 100),
    "AR_large": ("recall", None, "large", 100),
}
"""COCO's twelve numbers: an array of COCOeval, IoU (None: .50 to .95), size, detections per image.
"""
Rows = Float32[np.ndarray, "_ 7"]
"""Detections as COCO's tools take them: image, left, top, width, height, score, class."""


def check_library() -> None:
    """Raise `InputError` if faster-coco-eval is missing."""
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError:
        raise InputError("task.name: detection needs more: pip install faster-coco-eval") from None


def as_rows(found: list[Boxes], first: int, scales: Float32[Tensor, " N"]) -> Rows:
    """Detections of the images from `first` on, in pixels of their files."""
    parts = []
    for image, own in enumerate(found, first):
        boxes = box_convert(own["boxes"].cpu() / scales[image], "xyxy", "xywh")
        number = torch.full((len(boxes), 1), float(image))
        last = [own[key].float().cpu()[:, None] for key in ("scores", "labels")]
        parts.append(torch.cat([number, boxes, *last], 1))
    return torch.cat(parts).numpy()


class TrueBoxes:
    """The boxes of a split, and what is said of detections there."""

    def __init__(self, split: Examples) -> None:
        from faster_coco_eval import COCO

        columns = {key: value.cpu() for key, value in split.columns.items() if key != "images"}
        self.scales = columns["scales"]
        boxes = box_convert(columns["boxes"] / self.scales[:, None, None], "xyxy", "xywh")
        real, self._count = columns["classes"] > 0, len(split)
        self._images, self._boxes = real.nonzero()[:, 0].numpy(), boxes[real].numpy()
        self._classes, self._ignored, areas = (
            columns[name][real].numpy() for name in ("classes", "ignored", "areas")
        )
        table = pd.DataFrame({"image_id": self._images, "category_id": self._classes})
        table = table.assign(iscrowd=self._ignored.astype(int), area=areas, id=table.index + 1)
        annotations = table.assign(bbox=self._boxes.tolist()).to_dict("records")
        self._coco = COCO()
        self._coco.dataset = {
            "images": [{"id": image} for image in range(len(split))],
            "categories": [{"id": kind} for kind in sorted(set(self._classes.tolist()))],
            "annotations": annotations,
        }
        self._coco.createIndex()

    def judge(
        self, rows: Rows, metrics: tuple[str, ...], confidence: float, iou: float
    ) -> tuple[dict[str, float], Float64[Tensor, " N"]]:
        """Some of COCO's numbers over all images, and the F1 of each image.

        F1 counts detections whose score is at least `confidence`, matched as in COCO's evaluation:
        the surest first, with the box of its class that it overlaps most, by `iou` or more.
        It is 1 for an image without boxes in which nothing is detected.
        """
        from faster_coco_eval import COCOeval_faster

        evaluation = COCOeval_faster(
            self._coco, self._coco.loadRes(rows), "bbox", print_function=lambda *_: None
        )
        params, asked = evaluation.params, [METRICS[name] for name in metrics]
        areas = dict(zip(params.areaRngLbl, params.areaRng, strict=True))
        params.areaRngLbl = list(dict.fromkeys(size for *_, size, _ in asked))
        params.areaRng = [areas[size] for size in params.areaRngLbl]
        params.maxDets = sorted({most for *_, most in asked})
        evaluation.evaluate()
        evaluation.accumulate()
        numbers = {name: _number(evaluation, *METRICS[name]) for name in metrics}
        sure = rows[rows[:, 5] >= confidence]
        sure = sure[np.argsort(-sure[:, 5], kind="stable")]
        f1 = [self._f1(image, sure[sure[:, 0] == image], iou) for image in range(self._count)]
        return numbers, torch.tensor(f1, dtype=torch.float64)

    def _f1(self, image: int, rows: Rows, iou: float) -> float:
        from faster_coco_eval import mask

        own = self._images == image
        boxes, classes, ignored = self._boxes[own], self._classes[own], self._ignored[own]
        free, said = ~ignored, 0
        if len(rows) and len(boxes):
            overlaps = mask.iou(rows[:, 1:5].astype(float), boxes.astype(float), ignored.tolist())
            overlaps = np.where(rows[:, 6:] == classes, overlaps, 0.0)
            for overlap in overlaps:
                if (overlap * free).max() >= iou:
                    free[(overlap * free).argmax()] = False
                elif (overlap * ignored).max() >= iou:
                    said -= 1
        said += len(rows)
        wanted = (~ignored).sum()
        hits = wanted - free.sum()
        return float(2 * hits / (said + wanted)) if said + wanted else 1.0


def _number(evaluation: object, array: str, iou: float | None, size: str, most: int) -> float:
    """The mean over classes that occur, as COCOeval's `summarize` has it."""
    params = evaluation.params
    place = params.areaRngLbl.index(size), params.maxDets.index(most)
    values = evaluation.eval[array][..., *place]
    if iou is not None:
        values = values[np.isclose(params.iouThrs, iou)]
    values = values[values > -1]
    return float(values.mean()) if values.size else 0.0

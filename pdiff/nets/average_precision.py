"""How good detections are: COCO's numbers by pycocotools, and F1 of each image.

Axes: N images of a split, M boxes of the image that has most.
"""

import contextlib
import io

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

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
IOU = 0.5
"""Of a detection and a true box that count as the same in F1."""
Rows = Float32[np.ndarray, "_ 7"]
"""Detections as pycocotools takes them: image, left, top, width, height, score, class."""


def check_library() -> None:
    """Raise `InputError` if pycocotools is missing."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError:
        raise InputError(
            "task.name: detection needs pycocotools: pip install pycocotools, or p-diff[tasks]"
        ) from None


def as_rows(found: list[Boxes], first: int, scales: Float32[Tensor, " N"]) -> Rows:
    """Detections of the images from `first` on, in pixels of their files."""
    parts = []
    for image, own in enumerate(found, first):
        boxes = own["boxes"].cpu() / scales[image]
        sides = boxes[:, 2:] - boxes[:, :2]
        number = torch.full((len(boxes), 1), float(image))
        parts.append(torch.cat([number, boxes[:, :2], sides, _last(own)], 1))
    return torch.cat(parts).numpy()


def _last(own: Boxes) -> Tensor:
    return torch.stack([own["scores"].float().cpu(), own["labels"].float().cpu()], 1)


class TrueBoxes:
    """The boxes of a split as COCOeval knows them."""

    def __init__(self, split: Examples) -> None:
        from pycocotools.coco import COCO

        columns = {
            key: split.columns[key].cpu() for key in ("boxes", "classes", "ignored", "areas")
        }
        self.scales = split.columns["scales"].cpu()
        boxes = columns["boxes"] / self.scales[:, None, None]
        boxes = torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], 2)
        self._coco = COCO()
        annotations = []
        for image, place in columns["classes"].nonzero().tolist():
            own = {
                key: values[image, place].item()
                for key, values in columns.items()
                if key != "boxes"
            }
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": own["classes"],
                    "bbox": boxes[image, place].tolist(),
                    "area": own["areas"],
                    "iscrowd": int(own["ignored"]),
                }
            )
        self._coco.dataset = {
            "images": [{"id": image} for image in range(len(split))],
            "categories": [
                {"id": number} for number in columns["classes"].unique().tolist() if number
            ],
            "annotations": annotations,
        }
        with _quietly():
            self._coco.createIndex()

    def judge(
        self, rows: Rows, metrics: tuple[str, ...], confidence: float
    ) -> tuple[dict[str, float], Float64[Tensor, " N"]]:
        """Some of COCO's numbers over all images, and the F1 of each image.

        F1 counts detections whose score is at least `confidence`, matched as COCOeval does at an
        IoU of 0.5. It is 1 for an image without boxes in which nothing is detected.
        """
        from pycocotools.cocoeval import COCOeval

        if not len(rows):  # pycocotools wants one
            rows = np.array([[0, 0, 0, 0, 0, 0, 1]], np.float32)
        with _quietly():
            evaluation = COCOeval(self._coco, self._coco.loadRes(rows), "bbox")
            params, asked = evaluation.params, [METRICS[name] for name in metrics]
            sizes = ["all", *dict.fromkeys(size for *_, size, _ in asked if size != "all")]
            areas = dict(zip(params.areaRngLbl, params.areaRng, strict=True))
            params.areaRngLbl, params.areaRng = sizes, [areas[size] for size in sizes]
            params.maxDets = sorted({100, *(most for *_, most in asked)})
            evaluation.evaluate()
            evaluation.accumulate()
        numbers = {name: _number(evaluation, *METRICS[name]) for name in metrics}
        return numbers, _f1(evaluation, len(params.imgIds), confidence)


def _number(evaluation: object, array: str, iou: float | None, size: str, most: int) -> float:
    """The mean over classes that occur, as COCOeval's `summarize` has it."""
    params = evaluation.params
    values = evaluation.eval[array][..., params.areaRngLbl.index(size), params.maxDets.index(most)]
    if iou is not None:
        values = values[np.isclose(params.iouThrs, iou)]
    values = values[values > -1]
    return float(values.mean()) if values.size else 0.0


def _f1(evaluation: object, images: int, confidence: float) -> Float64[Tensor, " N"]:
    hits, claims, wanted = (torch.zeros(images, dtype=torch.float64) for _ in range(3))
    row = int(np.isclose(evaluation.params.iouThrs, IOU).argmax())
    for found in evaluation.evalImgs:
        if found is None or found["aRng"] != evaluation.params.areaRng[0]:
            continue
        image, sure = found["image_id"], np.array(found["dtScores"]) >= confidence
        counts = sure & ~found["dtIgnore"][row].astype(bool)
        hits[image] += (counts & (found["dtMatches"][row] > 0)).sum()
        claims[image] += counts.sum()
        wanted[image] += (np.array(found["gtIgnore"]) == 0).sum()
    both = claims + wanted
    return torch.where(both > 0, 2 * hits / both.clamp(min=1), 1.0)


def _quietly() -> contextlib.AbstractContextManager:
    return contextlib.redirect_stdout(io.StringIO())

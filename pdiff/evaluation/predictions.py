"""Groups of models that are evaluated together, and their predictions on disk.

Predictions are `{split: {group: (M, N)}}`: the validation split chooses, the test split is
reported. Axes: M models of a group, N images of a split.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, Int16, Int64, UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor, nn
from torch.utils.data import ConcatDataset

from pdiff.config import DataConfig
from pdiff.core.files import load_tensors, save_tensors
from pdiff.evaluation.predict import NOT_FINITE, CutNet, Models, Predictor, accuracy, wrong
from pdiff.images.batches import EvaluationBatches, ImageSet
from pdiff.system.errors import InputError
from pdiff.system.paths import replacing
from pdiff.system.speed import measured

SPLITS = ("validation", "test")
Groups = dict[str, Int16[Tensor, "_ N"]]
"""Predictions on one split, by group."""
Predictions = dict[str, Groups]
Scores = dict[str, dict[str, Float[Tensor, " _"]]]
"""{split: {group: (M,)}}"""
SHOWN = 12
"""Images in a row of a picture."""
SEEN = 64
"""Pixels that a small image is enlarged to, or as near below as whole numbers get."""


class Evaluation(ABC):
    """Predicts with models that differ from one net in a subset of its parameters."""

    metric: ClassVar[str] = "accuracy"
    """What tables call the score of a model."""
    larger_is_better: ClassVar[bool] = True

    def __init__(self, images: ImageSet, split: str) -> None:
        """`split` is `data.split`."""
        self.images = images
        self.predictions: Predictions = {name: {} for name in SPLITS}
        """Of all groups so far."""
        self.scores: Scores = {name: {} for name in SPLITS}
        """Of all groups so far; empty where the accuracy is the score."""
        if split == "paper":  # both splits are the same images
            for found in (self.predictions, self.scores):
                found["test"] = found["validation"]

    @abstractmethod
    def judge(
        self, split: str, models: Models, progress: str | None = None
    ) -> tuple[Int16[Tensor, "M N"], Float[Tensor, " M"] | None]:
        """What each model predicts for each image, as the split's `labels` have it, and its score.

        -1 where what it says is not finite. The score is None where it is the accuracy.
        """

    @abstractmethod
    def picture(self, models: Models) -> tuple[UInt8[Tensor, "3 H W"], str]:
        """An original and a generated model, in this order, on test images; what it shows."""

    def predict(
        self, split: str, models: Models, progress: str | None = None
    ) -> Int16[Tensor, "M N"]:
        return self.judge(split, models, progress)[0]

    def predict_groups(self, split: str, groups: Mapping[str, Models]) -> Groups:
        """Predictions of all groups so far; new groups share one pass over the images."""
        found = self.predictions[split]
        new = {group: models for group, models in groups.items() if group not in found}
        if new:
            sizes = [len(models) for models in new.values()]
            rows, scores = self.judge(split, ConcatDataset(new.values()), f"evaluate on {split}")
            found |= dict(zip(new, rows.split(sizes), strict=True))
            if scores is not None:
                self.scores[split] |= dict(zip(new, scores.split(sizes), strict=True))
        return found

    def accuracy(self, split: str, predictions: Int16[Tensor, "M N"]) -> Float[Tensor, " M"]:
        return accuracy(predictions, getattr(self.images, split).labels.cpu())


class ClassEvaluation(Evaluation):
    """Predicts classes. The net is cut once.

    Boundaries of one split are kept at a time, up to `boundary_mib` as `Predictor` does.
    """

    def __init__(
        self,
        net: nn.Module,
        names: Sequence[str],
        images: ImageSet,
        data: DataConfig,
        batch_size: int,
        boundary_mib: int,
    ) -> None:
        super().__init__(images, data.split)
        self._data, self._batch_size, self._boundary_mib = data, batch_size, boundary_mib
        self._cut = CutNet(net, names, next(iter(EvaluationBatches(images.validation, data, 2))))
        self._split, self._predictor = "", None

    def judge(
        self, split: str, models: Models, progress: str | None = None
    ) -> tuple[Int16[Tensor, "M N"], None]:
        images = getattr(self.images, split)
        if self._split != split:
            batches = EvaluationBatches(images, self._data, self._batch_size)
            self._predictor = Predictor(self._cut, lambda: batches, self._boundary_mib)
            self._split = split
        with measured(models=len(models), predictions=len(models) * len(images)):
            return self._predictor.predict(models, progress), None

    def picture(self, models: Models) -> tuple[UInt8[Tensor, "3 H W"], str]:
        """Test images that both get wrong, that the original alone does, and the generated alone.

        A row each, at most `SHOWN` images; the IoU of wrong predictions counts these.
        """
        test = self.images.test
        original, generated = wrong(self.predict("test", models), test.labels.cpu())
        parts = (original & generated, original & ~generated, generated & ~original)
        rows = []
        for chosen in parts:
            row = torch.ones(SHOWN, 3, self._data.size, self._data.size)
            index = chosen.nonzero().flatten()[:SHOWN].to(test.labels.device)
            if len(index):
                (pixels,) = test.take(index).evaluated(SHOWN, self._data)
                row[: len(index)] = pixels.cpu()
            rows.append(row)
        both, first, second = (int(chosen.sum()) for chosen in parts)
        words = (
            f"Test images that the first original and the first generated model both get wrong "
            f"({both}), that the original alone does ({first}), that the generated alone does "
            f"({second}); a row each, at most {SHOWN} images."
        )
        return grid(torch.cat(rows), SHOWN), words


def grid(pixels: Float[Tensor, "N 3 H W"], columns: int) -> UInt8[Tensor, "3 _ _"]:
    """Images in rows, with white between them; pixels in [0, 1]. Small ones are enlarged."""
    from torchvision.utils import make_grid  # seconds to import

    times = max(SEEN // pixels.shape[2], 1)
    pixels = pixels.repeat_interleave(times, 2).repeat_interleave(times, 3)
    whole = make_grid(pixels, nrow=columns, padding=2, pad_value=1.0)
    return (whole.clamp(0, 1) * 255).round().to(torch.uint8)


def save_picture(path: Path, picture: UInt8[Tensor, "3 H W"], words: str) -> None:
    """PNG that holds `words`, what it shows, as its description; the same bytes each time."""
    info = PngInfo()
    info.add_text("Description", words)
    image = Image.fromarray(picture.permute(1, 2, 0).cpu().numpy())
    with replacing(path) as partial:
        image.save(partial, "PNG", optimize=True, pnginfo=info)


def not_finite(groups: Groups) -> dict[str, list[int]]:
    """The models of each group that have logits which are not finite; no group without any."""
    found = {
        group: (rows == NOT_FINITE).any(1).nonzero().flatten().tolist()
        for group, rows in groups.items()
    }
    return {group: models for group, models in found.items() if models}


def numbered(found: Mapping[str, Sequence[int]]) -> str:
    """Groups with the numbers of some of their models, ten at most: `generated 0, 3`."""
    return "; ".join(
        f"{group} {', '.join(map(str, own[:10]))}{', ...' * (len(own) > 10)}"
        for group, own in found.items()
    )


def check_finite(groups: Groups, trained: Collection[str]) -> None:
    """Raise `InputError` if a model of a group that was trained has logits that are not finite."""
    if found := not_finite({group: groups[group] for group in trained if group in groups}):
        raise InputError(f"checkpoints: logits are not finite of {numbered(found)}")


def save_predictions(path: Path, evaluation: Evaluation) -> None:
    """Predictions, scores and labels of both splits; on disk a name is `GROUP.SPLIT`."""
    header = {}
    tensors = {f"labels.{split}": getattr(evaluation.images, split).labels for split in SPLITS}
    for split, groups in evaluation.predictions.items():
        tensors |= {f"{group}.{split}": found for group, found in groups.items()}
    for split, groups in evaluation.scores.items():
        tensors |= {f"{group}.{split}.score": found for group, found in groups.items()}
        if groups:
            header = {"metric": evaluation.metric, "larger": evaluation.larger_is_better}
    save_tensors(path, tensors, splits=SPLITS, **header)


def load_predictions(path: Path, split: str) -> tuple[Groups, Int64[Tensor, " N"]]:
    """Predictions of each group on one split, and that split's labels."""
    tensors, header = load_tensors(path)
    if "splits" not in header:
        raise InputError(f"{path} holds no predictions")
    labels, ending = tensors.pop(f"labels.{split}"), f".{split}"
    groups = {key.removesuffix(ending): t for key, t in tensors.items() if key.endswith(ending)}
    return groups, labels


def load_scores(path: Path, split: str) -> tuple[dict[str, Float[Tensor, " _"]], str, bool]:
    """Scores of each group on one split, what they are called, and whether larger is better.

    There are none where the accuracy is the score.
    """
    tensors, header = load_tensors(path)
    ending = f".{split}.score"
    groups = {key.removesuffix(ending): t for key, t in tensors.items() if key.endswith(ending)}
    return groups, header.get("metric", "accuracy"), header.get("larger", True)

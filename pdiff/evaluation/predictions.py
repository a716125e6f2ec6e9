"""Groups of models that are evaluated together, and their predictions on disk.

Predictions are `{split: {group: (M, N)}}`: the validation split chooses, the test split is
reported. Axes: M models of a group, N images of a split.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from jaxtyping import Float, Int16, Int64
from torch import Tensor, nn
from torch.utils.data import ConcatDataset

from pdiff.config import DataConfig
from pdiff.core.files import load_tensors, save_tensors
from pdiff.evaluation.predict import NOT_FINITE, CutNet, Models, Predictor, accuracy
from pdiff.images.batches import EvaluationBatches, ImageSet
from pdiff.system.errors import InputError
from pdiff.system.speed import measured

SPLITS = ("validation", "test")
Groups = dict[str, Int16[Tensor, "_ N"]]
"""Predictions on one split, by group."""
Predictions = dict[str, Groups]


class Evaluation:
    """Predicts with models that differ from one net in a subset; the net is cut once.

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
        self._images, self._data = images, data
        self._batch_size, self._boundary_mib = batch_size, boundary_mib
        self._cut = CutNet(net, names, next(iter(EvaluationBatches(images.validation, data, 2))))
        self._split, self._predictor = "", None
        self.predictions: Predictions = {name: {} for name in SPLITS}
        """Of all groups so far."""
        if data.split == "paper":  # both splits are the same images
            self.predictions["test"] = self.predictions["validation"]

    def predict(
        self, split: str, models: Models, progress: str | None = None
    ) -> Int16[Tensor, "M N"]:
        """The class that each model predicts for each image of a split."""
        images = getattr(self._images, split)
        if self._split != split:
            batches = EvaluationBatches(images, self._data, self._batch_size)
            self._predictor = Predictor(self._cut, lambda: batches, self._boundary_mib)
            self._split = split
        with measured(models=len(models), predictions=len(models) * len(images)):
            return self._predictor.predict(models, progress)

    def predict_groups(self, split: str, groups: Mapping[str, Models]) -> Groups:
        """Predictions of all groups so far; new groups share one pass over the images."""
        found = self.predictions[split]
        new = {group: models for group, models in groups.items() if group not in found}
        if new:
            rows = self.predict(split, ConcatDataset(new.values()), f"evaluate on {split}")
            parts = rows.split([len(models) for models in new.values()])
            found |= dict(zip(new, parts, strict=True))
        return found

    def accuracy(self, split: str, predictions: Int16[Tensor, "M N"]) -> Float[Tensor, " M"]:
        return accuracy(predictions, getattr(self._images, split).labels.cpu())


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


def save_predictions(path: Path, predictions: Predictions, images: ImageSet) -> None:
    """Predictions and labels of both splits; on disk a name is `GROUP.SPLIT`."""
    tensors = {f"labels.{split}": getattr(images, split).labels for split in SPLITS}
    for split, groups in predictions.items():
        tensors |= {f"{group}.{split}": found for group, found in groups.items()}
    save_tensors(path, tensors, splits=SPLITS)


def load_predictions(path: Path, split: str) -> tuple[Groups, Int64[Tensor, " N"]]:
    """Predictions of each group on one split, and that split's labels."""
    tensors, header = load_tensors(path)
    if "splits" not in header:
        raise InputError(f"{path} holds no predictions")
    labels, ending = tensors.pop(f"labels.{split}"), f".{split}"
    groups = {key.removesuffix(ending): t for key, t in tensors.items() if key.endswith(ending)}
    return groups, labels

"""Groups of models that are evaluated together, and their predictions on disk.

Axes: M models of a group, N images of a split.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxtyping import Int16, Int64
from torch import Tensor, nn

from pdiff.config import DataConfig
from pdiff.core.files import load_tensors, save_tensors
from pdiff.evaluation.predict import CutNet, Model, Predictor
from pdiff.images.batches import EvaluationBatches, ImageSet, Split
from pdiff.system.errors import InputError
from pdiff.system.speed import measured

EVALUATED = ("validation", "test")
Predict = Callable[[Sequence[Model]], Int16[Tensor, "M N"]]
Choose = Callable[[Mapping[str, Int16[Tensor, "_ N"]], Predict], Mapping[str, Sequence[Model]]]
"""Groups that are made after the validation split, from all its predictions and further ones."""
TRAJECTORY = "trajectory"
"""The group of unfinished samples: no rival of the others, so it has a curve and no table."""


class _Joined(Sequence):
    """Several sequences of models as one."""

    def __init__(self, parts: Sequence[Sequence[Model]]) -> None:
        self._index = [(part, i) for part in parts for i in range(len(part))]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Model:
        part, i = self._index[index]
        return part[i]


def predict_groups(
    net: nn.Module,
    names: Sequence[str],
    groups: Mapping[str, Sequence[Model]],
    images: ImageSet,
    data: DataConfig,
    batch_size: int,
    boundary_mib: int,
    choose: Choose = lambda *_: {},
) -> dict[str, Tensor]:
    """`{"group.split": predictions (M, N)}` for both splits; all groups share one pass.

    The net is cut once. `boundary_mib` is what `predict` takes. What `choose` adds is evaluated as
    well; it gets `{group: predictions}` on the validation split, and may have other models predict.
    """
    cut = CutNet(net, names, next(iter(EvaluationBatches(images.validation, data, 2))))
    predictions: dict[str, Tensor] = {}
    for name in EVALUATED:
        if name == "test" and data.split == "paper":  # both splits are the same images
            again = {k.replace(".validation", ".test"): v for k, v in predictions.items()}
            return predictions | again
        split = getattr(images, name)
        predict = _predictor(cut, split, data, batch_size, boundary_mib)
        found = _of_groups(predict, groups, f"evaluate on {name}")
        if name == "validation":
            more = choose(found, predict)
            found |= _of_groups(predict, more)
            groups = {**groups, **more}
        predictions |= {f"{group}.{name}": part for group, part in found.items()}
    return predictions


def _predictor(
    cut: CutNet, split: Split, data: DataConfig, batch_size: int, boundary_mib: int
) -> Predict:
    batches = EvaluationBatches(split, data, batch_size)
    predictor = Predictor(cut, lambda: batches, boundary_mib)

    def predict(models: Sequence[Model], progress: str | None = None) -> Int16[Tensor, "M N"]:
        with measured(models=len(models), predictions=len(models) * len(split)):
            return predictor.predict(models, progress)

    return predict


def _of_groups(
    predict: Callable[..., Tensor],
    groups: Mapping[str, Sequence[Model]],
    progress: str | None = None,
) -> dict[str, Tensor]:
    """All groups together, since they share what `predict` does for a call."""
    if not groups:
        return {}
    found = predict(_Joined(list(groups.values())), progress)
    parts = found.split([len(group) for group in groups.values()])
    return dict(zip(groups, parts, strict=True))


def save_predictions(path: Path, predictions: Mapping[str, Tensor], images: ImageSet) -> None:
    labels = {f"labels.{name}": getattr(images, name).labels for name in EVALUATED}
    save_tensors(path, {**predictions, **labels}, splits=EVALUATED)


def load_predictions(
    path: Path, split: str
) -> tuple[dict[str, Int16[Tensor, "_ N"]], Int64[Tensor, " N"]]:
    """Predictions of each group on one split, and that split's labels."""
    tensors, header = load_tensors(path)
    if "splits" not in header:
        raise InputError(f"{path} holds no predictions")
    labels = tensors.pop(f"labels.{split}")
    ending = f".{split}"
    groups = {key.removesuffix(ending): t for key, t in tensors.items() if key.endswith(ending)}
    return groups, labels

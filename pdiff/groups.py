"""Groups of models that are evaluated together, and their predictions on disk.

Axes: M models of a group, N images of a split.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Int16, Int64
from torch import Tensor, nn

from pdiff.config import DataConfig
from pdiff.data import EvaluationBatches, ImageSet, own_batches
from pdiff.distributed import gather
from pdiff.errors import InputError
from pdiff.evaluation import CutNet, Model, predict
from pdiff.files import load_tensors, save_tensors
from pdiff.speed import measured

EVALUATED = ("validation", "test")
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
) -> dict[str, Tensor]:
    """`{"group.split": predictions (M, N)}` for both splits; all groups share one pass.

    The net is cut once. `boundary_mib` is what `predict` takes. Of processes that share a stage,
    each predicts for whole batches of the images, the same ones that a single process makes, so
    that the predictions are the same to the bit.
    """
    cut = CutNet(net, names, next(iter(EvaluationBatches(images.validation, data, 2))))
    sizes = [len(group) for group in groups.values()]
    models = _Joined(list(groups.values()))
    predictions: dict[str, Tensor] = {}
    for name in EVALUATED:
        split = own_batches(getattr(images, name), batch_size)
        if name == "test" and data.split == "paper":  # both splits are the same images
            again = {k.replace(".validation", ".test"): v for k, v in predictions.items()}
            predictions |= again
            break
        found = torch.empty(len(models), 0, dtype=torch.int16)
        with measured(models=len(models), predictions=len(models) * len(split)):
            if len(split):
                found = predict(
                    cut,
                    models,
                    lambda split=split: EvaluationBatches(split, data, batch_size),
                    boundary_mib=boundary_mib,
                    progress=f"evaluate on {name}",
                )
            found = gather(found)
        parts = zip(groups, found.split(sizes), strict=True)
        predictions |= {f"{group}.{name}": part for group, part in parts}
    return predictions


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


def noised_name(level: float) -> str:
    """The group of originals with noise of this level."""
    return f"noised_{level:g}"

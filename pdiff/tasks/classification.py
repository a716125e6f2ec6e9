"""Classification, the paper's task: cross entropy, and the share of images in the right class.

Axes: B batch, C classes; images are (B, 3, S, S).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from pdiff.config import BaseConfig
from pdiff.images.batches import ImageSet, Split, chance, training_batches
from pdiff.nets.base import measure_accuracy
from pdiff.nets.given import build_for
from pdiff.nets.own import check_watch
from pdiff.nets.registry import build_net, check_net, check_size
from pdiff.tasks.registry import Task

if TYPE_CHECKING:
    from pdiff.evaluation.predictions import ClassEvaluation

Batch = tuple[Float[Tensor, "B 3 S S"], Int64[Tensor, " B"]]
"""Images and their classes."""


class Classification(Task):
    def check(self, base: BaseConfig) -> None:
        from pdiff.datasets.registry import check_images

        check_net(base.net)
        check_watch(base.net, base.watch)
        check_images(self.data)

    def start(self, base: BaseConfig, checkpoints: list[Path]) -> nn.Module:
        net, classes = build_for(base, self.data.size, checkpoints)
        check_size(net, base.net, self.data.size, classes)
        return net

    def read(self, generator: torch.Generator) -> ImageSet:
        from pdiff.datasets.prepare import prepare_images

        return prepare_images(self.data, generator)

    def build(self, name: str, classes: int, size: int, **options: bool | Path | None) -> nn.Module:
        return build_net(name, classes, size, **options)

    def batches(self, split: Split, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        return training_batches(split, self.data, batch_size, generator)

    def loss(self, net: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        images, classes = batch
        return functional.cross_entropy(net(images), classes)

    def score(self, net: nn.Module, split: Split, batch_size: int) -> float:
        return measure_accuracy(net, split, self.data, batch_size)

    def chance(self, split: Split) -> float:
        return chance(split.labels)

    def evaluation(
        self, net: nn.Module, names: Sequence[str], images: ImageSet, sizes: tuple[int, int]
    ) -> "ClassEvaluation":
        from pdiff.evaluation.predictions import ClassEvaluation  # what evaluates retrains nothing

        return ClassEvaluation(net, names, images, self.data, *sizes)


TASK = Classification

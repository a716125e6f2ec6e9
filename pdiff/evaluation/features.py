"""What generated images are judged by: features of an extractor, and a classifier's classes.

Axes: N images, B batch, F features, C classes, S the side of the images. Pixels lie in [-1, 1].
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional

from pdiff.config import DataConfig
from pdiff.core.optimise import Recipe, optimise
from pdiff.images.batches import EvaluationBatches, training_batches
from pdiff.images.pixels import ImageSplit
from pdiff.system.errors import InputError, reason

BATCH = 128
Moments = tuple[Float64[Tensor, " F"], Float64[Tensor, "F F"]]
"""Mean and covariance of features."""


class Classifier(nn.Module):
    """Three convolutions and two linear layers: (N, 3, S, S) -> (N, C)."""

    def __init__(self, size: int, features: int, classes: int) -> None:
        super().__init__()
        side = -(-size // 4)
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * side * side, features),
            nn.ReLU(),
        )
        self.head = nn.Linear(features, classes)

    def forward(self, images: Float[Tensor, "N 3 S S"]) -> Float[Tensor, "N C"]:
        return self.head(self.body(images))


class Judge:
    """A classifier of the training images, and the extractor of the features that FID compares."""

    def __init__(
        self,
        train: ImageSplit,
        data: DataConfig,
        classifier: Classifier,
        steps: int,
        inception: bool,
        generator: torch.Generator,
    ) -> None:
        """Train the classifier for `steps`; `inception` extracts other features than its own."""
        self._data, device = data, train.labels.device
        self._classifier = classifier.to(device)
        batches = _endless(train, data, generator)

        def batch_loss() -> Float[Tensor, ""]:
            images, labels = next(batches)
            return functional.cross_entropy(self._classifier(images), labels)

        recipe, name = Recipe(steps, lr=3e-3, weight_decay=0.0), "train the classifier"
        optimise(self._classifier, batch_loss, recipe, generator, lambda *_: None, None, name)
        self._inception = _inception().to(device) if inception else None

    @torch.inference_mode()
    def classes(self, images: Float[Tensor, "N 3 S S"]) -> Int64[Tensor, " N"]:
        return torch.cat([self._classifier(part).argmax(1) for part in images.split(BATCH)])

    @torch.inference_mode()
    def features(self, images: Float[Tensor, "N 3 S S"]) -> Float[Tensor, "N F"]:
        return torch.cat([self._extract(part) for part in images.split(BATCH)])

    def moments(self, split: ImageSplit) -> Moments:
        """Of the features of a split's images."""
        batches = EvaluationBatches(split, self._data, BATCH)
        return moments(torch.cat([self.features(images) for images in batches]))

    def accuracy(self, split: ImageSplit) -> float:
        """Share of a split's images that the classifier gets right."""
        found = [self.classes(images) for images in EvaluationBatches(split, self._data, BATCH)]
        return (torch.cat(found) == split.labels).float().mean().item()

    def _extract(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B F"]:
        if self._inception is None:
            return self._classifier.body(images)
        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return self._inception(pixels)[0]


def moments(features: Float[Tensor, "N F"]) -> Moments:
    """Mean and unbiased covariance, in double precision."""
    rows = features.double()
    return rows.mean(0), rows.T.cov()


def frechet_distance(a: Moments, b: Moments) -> float:
    """Fréchet distance of two Gaussians: |m - n|^2 + tr(A + B - 2 (A B)^(1/2)).

    The trace of the root is the sum of the roots of the eigenvalues of A B, which are those of a
    positive semidefinite matrix: what rounding adds below 0 counts as 0.
    """
    (m, first), (n, second) = a, b
    roots = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt()
    return ((m - n).square().sum() + first.trace() + second.trace() - 2 * roots.sum()).item()


def _endless(
    train: ImageSplit, data: DataConfig, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from training_batches(train, data, BATCH, generator)


def _inception() -> nn.Module:
    """torch-fidelity's Inception-v3 with the weights of the TensorFlow net that published FIDs use.

    They are downloaded once. It takes uint8 images and brings them to 299 px itself.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).eval()
    except OSError as error:  # of its download
        raise InputError(
            f"task.judging.extractor: the weights of inception cannot be had: {reason(error)}"
        ) from None

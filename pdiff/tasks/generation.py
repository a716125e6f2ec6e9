"""Image generation (Table 12): a denoiser of images whose output layer is generated.

The loss is the mean squared error of the noise, with the linear schedule of Ho et al. (2020, arXiv
2006.11239). Base training chooses its epoch by that loss on the validation images, with noise that
stays the same. Models are judged by what they sample: Fréchet inception distance (FID; Heusel et
al. 2017, arXiv 1706.08500), smaller is better.

Models sample from the same noise. A model gets noise n right if a classifier finds in its sample
the class of the base net's sample from noise n.

Axes: N images or samples, B batch, S the side of the images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pdiff.config import AtLeastTwo, BaseConfig, PositiveInt, Section
from pdiff.core.optimise import seeded
from pdiff.core.runtime import make_generator
from pdiff.images.batches import SPLITS, EvaluationBatches, ImageSet, training_batches
from pdiff.images.examples import Examples
from pdiff.images.pixels import ImageSplit
from pdiff.nets.own import check_watch
from pdiff.nets.unets import build_unet, check_denoiser, check_unet
from pdiff.system.errors import InputError
from pdiff.system.hub import fetched
from pdiff.tasks.registry import Task

if TYPE_CHECKING:
    from pdiff.evaluation.generated import GeneratedEvaluation

TIMESTEPS = 1000
BETAS = 1e-4, 0.02
FEATURES = {"own classifier": 32, "inception": 2048}
"""Length of what each extractor says of an image."""
BATCH = 500
"""Images that are brought to the net's size at a time."""
SEED = 0
"""Of all that judges models, so that every run has the same noise."""
Batch = tuple[Float[Tensor, "B 3 S S"], Int64[Tensor, " B"], Float[Tensor, "B 3 S S"]]
"""Noised images, their timesteps, the noise."""


class Generation(Task):
    class Options(Section):
        samples: AtLeastTwo
        """N, the number of images that each model samples on each split."""

    class Judging(Section):
        steps: Annotated[PositiveInt, Field(le=TIMESTEPS)]
        """Steps of the DDIM sampler."""
        reference: Literal["train", "test"]
        """The split whose images the samples are compared with."""
        extractor: Literal["own classifier", "inception"]
        """Whose features the FID compares: those of a small classifier that is trained on the
        training images, or of torch-fidelity's Inception-v3, as published numbers have it."""
        classifier_steps: PositiveInt
        """Optimiser steps of the classifier, which also tells which samples are right."""

    metric = "denoising_loss"
    larger_is_better = False

    def check(self, base: BaseConfig) -> None:
        from pdiff.datasets.registry import check_images

        options, judging, data = self.options, self.judging, self.data
        wanted = {"diffusers"} | ({"torch_fidelity"} if judging.extractor == "inception" else set())
        if missing := sorted(name for name in wanted if find_spec(name) is None):
            raise InputError(f"task.name: generation needs more: pip install {' '.join(missing)}")
        check_unet(base.net, base.pretrained)
        check_watch(base.net, base.watch)
        length = FEATURES[judging.extractor]
        if options.samples <= length:
            raise InputError(
                f"task.options.samples: {options.samples} are too few for the covariance of the "
                f"{length} features of task.judging.extractor: {judging.extractor}; give more than "
                f"{length}"
            )
        if {*data.mean, *data.std} != {0.5}:
            raise InputError(
                "data.mean, data.std: samplers expect pixels from -1 to 1; give 0.5 everywhere"
            )
        check_images(data)

    def start(self, base: BaseConfig, checkpoints: list[Path]) -> nn.Module:
        size = self.data.size
        weights = fetched(base.weights, "base.weights") if base.weights else None
        net = build_unet(base.net, 10, size, weights=weights)  # the classes are not read yet
        check_denoiser(net, base.net, size)
        return net

    def read(self, generator: torch.Generator) -> ImageSet:
        """Images at the size that the net sees. Splits that are judged have an entry for each
        sample: images are left out, or repeated."""
        from pdiff.datasets.prepare import prepare_images

        images, splits = prepare_images(self.data, generator), {}
        for name in SPLITS:
            split = getattr(images, name)
            count = len(split) if name == "train" else self.options.samples
            found = torch.cat(list(split.evaluated(BATCH, self.data))) * 255
            rows = torch.arange(count) % len(split)
            columns = {"images": found.round().to(torch.uint8), "classes": split.labels}
            splits[name] = Examples(columns).take(rows)
        return replace(images, **splits)

    def build(self, name: str, classes: int, size: int, **options: bool | Path | None) -> nn.Module:
        options.pop("new_head", None)  # no layer depends on the number of classes
        return build_unet(name, classes, size, **options)

    def batches(
        self, split: Examples, batch_size: int, generator: torch.Generator
    ) -> Iterator[Batch]:
        for images, _ in training_batches(pixels(split), self.data, batch_size, generator):
            yield _noised(images, generator)

    def loss(self, net: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        images, timesteps, noise = batch
        return functional.mse_loss(net(images, timesteps), noise)

    @torch.inference_mode()
    def score(self, net: nn.Module, split: Examples, batch_size: int) -> float:
        """The loss on all images of the split, in eval mode; noise and timesteps stay the same."""
        net.eval()
        device = split.labels.device
        generator = make_generator(SEED, self.metric, device=device)
        total = torch.zeros((), device=device)
        for images in EvaluationBatches(pixels(split), self.data, batch_size):
            total += self.loss(net, _noised(images, generator)) * len(images)
        return total.item() / len(split)

    def evaluation(
        self, net: nn.Module, names: Sequence[str], images: ImageSet, sizes: tuple[int, int]
    ) -> "GeneratedEvaluation":
        from pdiff.evaluation.features import Classifier, Judge
        from pdiff.evaluation.generated import GeneratedEvaluation, Sampler

        judging, size, device = self.judging, self.data.size, images.test.labels.device
        generator = make_generator(SEED, "classifier", device=device)
        length, classes = FEATURES["own classifier"], len(images.classes)
        classifier = seeded(lambda: Classifier(size, length, classes), generator)
        how = judging.classifier_steps, judging.extractor == "inception", generator
        judge = Judge(pixels(images.train), self.data, classifier, *how)
        found = judge.accuracy(pixels(images.validation))
        print(f"the own classifier has an accuracy of {found:.3f} on validation images", flush=True)
        noise = {split: self._noise(split).to(device) for split in ("validation", "test")}
        sampler = Sampler(net, names, judging.steps, sizes[0], noise["test"][:2])
        reference = pixels(getattr(images, judging.reference))
        base = {name: value for name, value in net.named_parameters() if name in names}
        return GeneratedEvaluation(images, self.data, sampler, judge, reference, noise, base)

    def _noise(self, split: str) -> Float[Tensor, "N 3 S S"]:
        """What samples of a split start from, the same for every model and device."""
        shape = self.options.samples, 3, self.data.size, self.data.size
        return torch.randn(shape, generator=make_generator(SEED, "starting noise", split))


def pixels(split: Examples) -> ImageSplit:
    """The images of a split with their classes."""
    return ImageSplit(split.columns["images"], split.columns["classes"])


def _noised(images: Float[Tensor, "B 3 S S"], generator: torch.Generator) -> Batch:
    """x_t given x_0 at random t, DDPM eq. 4."""
    device = images.device
    noise = torch.randn(images.shape, generator=generator, device=device)
    timesteps = torch.randint(TIMESTEPS, (len(images),), generator=generator, device=device)
    kept = (1 - torch.linspace(*BETAS, TIMESTEPS, device=device)).cumprod(0)[timesteps]
    kept = kept.view(-1, 1, 1, 1)
    return kept.sqrt() * images + (1 - kept).sqrt() * noise, timesteps, noise


TASK = Generation

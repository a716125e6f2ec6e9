"""Models that generate images, judged by what they sample from the same noise.

Axes: M models, N samples, S the side of the images.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int16, UInt8
from torch import Tensor, nn
from torch.func import functional_call

from pdiff.config import DataConfig
from pdiff.evaluation.features import Judge, frechet_distance, moments
from pdiff.evaluation.predict import NOT_FINITE, Model, Models
from pdiff.evaluation.predictions import Evaluation, grid
from pdiff.images.batches import ImageSet
from pdiff.images.pixels import ImageSplit
from pdiff.system.progress import tqdm
from pdiff.system.speed import measured

LAST = "conv_out"
"""A denoiser's output layer, as diffusers calls it."""
SIDE, GAP = 6, 12
"""Samples in a row of a picture, and pixels between those of two models."""


class Sampler:
    """Samples with models that differ from one denoiser in the parameters `names`.

    diffusers' DDIM, which adds no noise. If the models differ in the output layer alone, one pass
    of the rest serves several models, and at the first step, where all have the same noise, all of
    them. Otherwise the whole net runs for every model, and a warning says so.
    """

    def __init__(
        self,
        net: nn.Module,
        names: Sequence[str],
        steps: int,
        batch_size: int,
        example: Float[Tensor, "B 3 S S"],
    ) -> None:
        """`batch_size` is the most images that pass the net at once."""
        from diffusers import DDIMScheduler  # seconds to import

        self._net, self._batch_size = net.eval(), batch_size
        self._schedule = DDIMScheduler(timestep_spacing="trailing")  # linear betas, 1000 timesteps
        self._schedule.set_timesteps(steps, device=example.device)
        self._body, self._last = None, None
        if all(name.startswith(f"{LAST}.") for name in names):
            self._body, self._last = copy.copy(net), getattr(net, LAST)
            self._body._modules = net._modules | {LAST: nn.Identity()}
        if self._body is None or not self._same(example):
            self._body = None
            warnings.warn(
                f"{type(net).__name__} differs in more than its layer {LAST}; sampling runs the "
                "whole net for every model, which is slower",
                stacklevel=2,
            )

    @torch.inference_mode()
    def sample(
        self, models: Sequence[Model], noise: Float[Tensor, "N 3 S S"]
    ) -> Float[Tensor, "M N 3 S S"]:
        """What each model makes of the noise."""
        kept = [{name: value.to(noise.device) for name, value in own.items()} for own in models]
        return torch.cat([self._sample(kept, part) for part in noise.split(self._batch_size)], 1)

    def at_once(self, samples: int) -> int:
        """How many models share a pass."""
        return max(self._batch_size // samples, 1)

    def _sample(
        self, models: Sequence[Model], noise: Float[Tensor, "B 3 S S"]
    ) -> Float[Tensor, "M B 3 S S"]:
        images = noise[None]  # the models part at the first step
        for timestep in self._schedule.timesteps:
            found = self._denoised(models, images, timestep)
            images = self._schedule.step(found, timestep, images.expand_as(found)).prev_sample
        return images

    def _denoised(
        self, models: Sequence[Model], images: Float[Tensor, "_ N 3 S S"], timestep: Tensor
    ) -> Float[Tensor, "M N 3 S S"]:
        if self._body is None:
            pairs = zip(models, images.expand(len(models), *images.shape[1:]), strict=True)
            found = [functional_call(self._net, own, (x, timestep)) for own, x in pairs]
            return torch.stack(found)
        hidden = self._body(images.flatten(0, 1), timestep).unflatten(0, images.shape[:2])
        hidden = hidden.expand(len(models), *hidden.shape[1:])
        layers = [{name.removeprefix(f"{LAST}."): v for name, v in m.items()} for m in models]
        pairs = zip(layers, hidden, strict=True)
        return torch.stack([functional_call(self._last, layer, (own,)) for layer, own in pairs])

    @torch.inference_mode()
    def _same(self, example: Float[Tensor, "B 3 S S"]) -> bool:
        """Whether the output layer on the rest is the net: some add something afterwards."""
        timestep = self._schedule.timesteps[0]
        whole = self._net(example, timestep)
        try:
            parts = self._last(self._body(example, timestep))
        except RuntimeError:  # of shapes
            return False
        return parts.shape == whole.shape and torch.allclose(parts, whole, 1e-3, 1e-4)


class GeneratedEvaluation(Evaluation):
    """FID of each model's samples to the images of a split, and which samples are right.

    Sample n is right if the classifier sees in it the class of the base net's sample from noise n.
    """

    metric = "FID"
    larger_is_better = False

    def __init__(
        self,
        images: ImageSet,
        data: DataConfig,
        sampler: Sampler,
        judge: Judge,
        reference: ImageSplit,
        noise: Mapping[str, Float[Tensor, "N 3 S S"]],
        base: Model,
    ) -> None:
        """`noise` is what the samples of each split start from; `base` the base net's values."""
        super().__init__(images, data.split)
        self._sampler, self._judge, self._noise, self._base = sampler, judge, noise, base
        self._reference = judge.moments(reference)
        self._wanted: dict[str, Tensor] = {}

    def judge(
        self, split: str, models: Models, progress: str | None = None
    ) -> tuple[Int16[Tensor, "M N"], Float[Tensor, " M"]]:
        """A model with a sample that is not finite has an infinite FID."""
        noise = self._noise[split]
        if split not in self._wanted:
            self._wanted[split] = self._judge.classes(self._sampler.sample([self._base], noise)[0])
        rows, scores, count = [], [], self._sampler.at_once(len(noise))
        starts = tqdm(range(0, len(models), count), progress, disable=None if progress else True)
        with measured(models=len(models), predictions=len(models) * len(noise)):
            for start in starts:
                some = [models[i] for i in range(start, min(start + count, len(models)))]
                for samples in self._sampler.sample(some, noise):
                    finite = samples.flatten(1).isfinite().all(1)
                    right = (self._judge.classes(samples) == self._wanted[split]).short()
                    rows.append(torch.where(finite, right, NOT_FINITE))
                    scores.append(self._distance(samples) if finite.all() else torch.inf)
        return torch.stack(rows).cpu(), torch.tensor(scores)

    def picture(self, models: Models) -> tuple[UInt8[Tensor, "3 H W"], str]:
        """Samples of an original, beside those of a generated model from the same noise."""
        noise = self._noise["test"][: SIDE * SIDE]
        found = self._sampler.sample([models[i] for i in range(len(models))], noise).cpu()
        grids = [grid(own / 2 + 0.5, SIDE) for own in found]
        gap = torch.full_like(grids[0][..., :GAP], 255)
        words = (
            "Samples of the first original (left) and of the first generated model (right), each "
            "pair from the same noise."
        )
        return torch.cat([grids[0], gap, grids[1]], 2), words

    def _distance(self, samples: Float[Tensor, "N 3 S S"]) -> float:
        return frechet_distance(moments(self._judge.features(samples)), self._reference)

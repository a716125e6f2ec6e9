"""Models that are made from the originals without a generator, by formula or by chance.

Axes: K originals, M models, D parameters, P tensors.
"""

from abc import abstractmethod

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from pdiff.config import EvaluateConfig
from pdiff.core.runtime import derive_seed
from pdiff.parameters.subset import Models, Rows, Subset


def of_the_paper(originals: Rows, config: EvaluateConfig, seed: int) -> dict[str, Rows]:
    """What the paper compares with: `original`, `ensemble` and `noised_LEVEL`, by group."""
    groups = {"original": originals, "ensemble": ensemble(originals)}
    count = config.noised_models
    return groups | noised(originals, config.noise_levels, count, seed)


def noised(
    originals: Rows, levels: tuple[float, ...], count: int, seed: int
) -> dict[str, "Noised"]:
    """The groups `noised_LEVEL`: noise in units of each tensor's std."""
    return {
        f"noised_{level:g}": Noised(
            originals, level, count, derive_seed(seed, "noised", repr(level))
        )
        for level in levels
    }


def ensemble(originals: Rows) -> Models:
    """The mean of all originals, one model (the paper's "ensemble")."""
    blocks = (block for _, block in originals.columns())
    means = [block.double().mean(0, keepdim=True).float() for block in blocks]
    return Models(originals.subset, torch.cat(means, 1))


def generator_of(seed: int, index: int) -> torch.Generator:
    """Of model `index` alone, so that a model is the same whatever is asked for before it."""
    return torch.Generator().manual_seed(seed + 1 + index)


class Made(Rows):
    """Models that are made one by one whenever they are asked for, and never stored."""

    def __init__(self, subset: Subset, count: int) -> None:
        self.subset, self._count = subset, count

    def __len__(self) -> int:
        return self._count

    @abstractmethod
    def row(self, index: int) -> Float[Tensor, " D"]: ...

    def block(self, span: slice) -> Float[Tensor, "M c"]:
        return torch.stack([self.row(index)[span] for index in range(len(self))])


class Noised(Made):
    """Noise-added originals.

    Model i is an original, in a random order in which all take turns, plus Gaussian noise whose
    std is `level` times the std of each tensor's values in that original (authors' evaluate.py),
    or `level` itself if it is `absolute`.
    """

    def __init__(
        self, originals: Rows, level: float, count: int, seed: int, *, absolute: bool = False
    ) -> None:
        super().__init__(originals.subset, count)
        self._originals, self._level, self._seed = originals, level, seed
        self._absolute = absolute
        self._order = torch.randperm(len(originals), generator=torch.Generator().manual_seed(seed))

    def row(self, index: int) -> Float[Tensor, " D"]:
        original = self._originals.row(self.source(index))
        noise = torch.randn(original.shape, generator=generator_of(self._seed, index))
        noise = noise.to(original.device)
        if self._absolute:
            return original + self._level * noise
        scale = torch.cat([_own_std(part) for part in original.split(self.subset.sizes)])
        return original + self._level * scale * noise

    def source(self, index: int) -> int:
        """Which original model `index` is a copy of."""
        return int(self._order[index % len(self._order)])


class Combined(Made):
    """Linear combinations of originals, summed in fp64: model m is sum_k weights[m, k] original_k.

    An original of weight 0 is not even read, so whether it is finite is of no account. In memory
    is one sum at a time, and a model costs a reading of all originals that it combines.
    """

    def __init__(self, originals: Rows, weights: Float64[Tensor, "M K"]) -> None:
        super().__init__(originals.subset, len(weights))
        self._originals, self.weights = originals, weights

    def row(self, index: int) -> Float[Tensor, " D"]:
        weights = self.weights[index]
        total = torch.zeros(self.subset.length, dtype=torch.float64)
        for k in weights.nonzero()[:, 0].tolist():
            total.add_(self._originals.row(k).cpu(), alpha=weights[k].item())
        return total.float()


class Independent(Made):
    """A Gaussian for each parameter on its own, with the originals' mean and std (K - 1).

    A single original has no std: its models are copies.
    """

    def __init__(self, originals: Rows, count: int, seed: int) -> None:
        super().__init__(originals.subset, count)
        self._seed = seed
        correction = min(1, len(originals) - 1)
        parts = [
            torch.std_mean(block.double(), 0, correction=correction)
            for _, block in originals.columns()
        ]
        self._std, self._mean = (torch.cat(part).cpu() for part in zip(*parts, strict=True))

    def row(self, index: int) -> Float[Tensor, " D"]:
        generator = generator_of(self._seed, index)
        normal = torch.randn(self.subset.length, generator=generator, dtype=torch.float64)
        return (self._mean + self._std * normal).float()


def _own_std(values: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    """A tensor's unbiased std, once for each value; 0 for a tensor of one value: no noise."""
    return values.std().expand(len(values)) if len(values) > 1 else torch.zeros_like(values)

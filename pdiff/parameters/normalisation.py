"""How checkpoints are scaled before they are encoded: by tensor or by parameter.

Axes: K checkpoints, D parameters of the subset, P its tensors, c columns.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pdiff.parameters.subset import CHUNK, Rows, overlaps

Normalise = Literal["tensor", "parameter"]
"""What has a mean and a std of its own."""


@dataclass(frozen=True)
class Normalisation:
    """A mean and a std for each of the P tensors or D parameters, shared by all checkpoints.

    `tensor`, as in the authors' code: mean and unbiased std over a tensor's values in each
    checkpoint, then averaged over the K checkpoints. `parameter`: mean and unbiased std of each
    parameter over the checkpoints, so that the codec sees how checkpoints differ and nothing else.
    The std is 1 where nothing varies, or where there is one value only.
    """

    mean: Float[Tensor, " _"]
    std: Float[Tensor, " _"]
    sizes: tuple[int, ...]
    kind: Normalise

    @classmethod
    def fit(cls, models: Rows, kind: Normalise = "tensor", values: int = CHUNK) -> "Normalisation":
        """The statistics of `models`, summed in fp64 over blocks of `values` values at most."""
        fit = _of_tensors if kind == "tensor" else _of_parameters
        mean, std = fit(models, values)
        std = torch.where(std > 0, std, 1.0)
        return cls(mean.float(), std.float(), models.subset.sizes, kind)

    def apply(
        self, matrix: Float[Tensor, "K c"], span: slice | None = None
    ) -> Float[Tensor, "K c"]:
        """`span` says which columns `matrix` holds; all of them without it."""
        mean, std = self.columns(matrix, span)
        return (matrix - mean) / std

    def invert(
        self, matrix: Float[Tensor, "K c"], span: slice | None = None
    ) -> Float[Tensor, "K c"]:
        mean, std = self.columns(matrix, span)
        return matrix * std + mean

    def columns(
        self, like: Tensor, span: slice | None = None
    ) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
        """Mean and std once for each column of `span`, with the type and device of `like`."""
        span = span or slice(0, sum(self.sizes))
        if self.kind == "parameter":
            return self.mean[span].to(like), self.std[span].to(like)
        parts = list(overlaps(self.sizes, span))
        tensors = torch.tensor([p for p, _, _ in parts])
        counts = torch.tensor([inside.stop - inside.start for _, _, inside in parts])
        both = (self.mean.cpu(), self.std.cpu())
        return tuple(v[tensors].repeat_interleave(counts).to(like) for v in both)


def _of_tensors(models: Rows, values: int) -> tuple[Tensor, Tensor]:
    """Mean and std of each of the P tensors."""
    sizes = models.subset.sizes
    moments: dict[int, _Moments] = {}
    for span, block in models.columns(values):
        for p, _, inside in overlaps(sizes, span):
            part = _moments(block[:, inside].double())
            moments[p] = _merge(moments[p], part) if p in moments else part
    means, stds = [], []
    for p, size in enumerate(sizes):
        _, mean, squares = moments[p]
        means.append(mean.mean())
        stds.append((squares / (size - 1)).sqrt().mean() if size > 1 else mean.new_zeros(()))
    return torch.stack(means), torch.stack(stds)


def _of_parameters(models: Rows, values: int) -> tuple[Tensor, Tensor]:
    """Mean and std of each of the D parameters over the models."""
    means, stds = [], []
    for _, block in models.columns(values):
        deviations = block.double()
        means.append(deviations.mean(0))
        deviations -= means[-1]
        squares = deviations.square().sum(0)
        stds.append((squares / max(len(deviations) - 1, 1)).sqrt())
    return torch.cat(means), torch.cat(stds)


_Moments = tuple[int, Float[Tensor, " K"], Float[Tensor, " K"]]
"""The number of values in each row, their mean, and the sum of squared deviations from it."""


def _moments(values: Float[Tensor, "K c"]) -> _Moments:
    count = values.shape[1]
    return count, values.mean(1), values.var(1, correction=0) * count


def _merge(a: _Moments, b: _Moments) -> _Moments:
    """The moments of both sets of values together (Chan, Golub and LeVeque 1979)."""
    count, delta = a[0] + b[0], b[1] - a[1]
    mean = a[1] + delta * (b[0] / count)
    return count, mean, a[2] + b[2] + delta**2 * (a[0] * b[0] / count)

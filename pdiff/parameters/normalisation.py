"""How checkpoints are scaled before they are encoded: by tensor or by parameter.

Axes: K checkpoints, D parameters of the subset, P its tensors, c columns.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pdiff.core.statistics import NOTHING, merged
from pdiff.parameters.subset import Rows, overlaps

Normalise = Literal["tensor", "parameter"]
"""What has a mean and a std of its own."""
Block = Float[Tensor, "K c"]
"""Some columns of checkpoints."""


@dataclass(frozen=True)
class Normalisation:
    """A mean and a std for each of the P tensors or D parameters, shared by all checkpoints.

    `tensor`, the authors': mean and unbiased std over a tensor's values in each checkpoint, then
    averaged over the K checkpoints. `parameter`: mean and unbiased std of each parameter over the
    checkpoints, so that the codec sees only how checkpoints differ. The std is 1 where nothing
    varies.
    """

    mean: Float[Tensor, " _"]
    std: Float[Tensor, " _"]
    sizes: tuple[int, ...]
    kind: Normalise

    @classmethod
    def fit(cls, models: Rows, kind: Normalise = "tensor") -> "Normalisation":
        """The statistics of `models`, summed in fp64 over blocks of columns."""
        mean, std = (_of_tensors if kind == "tensor" else _of_parameters)(models)
        std = torch.where(std > 0, std, 1.0)
        return cls(mean.float(), std.float(), models.subset.sizes, kind)

    def apply(self, matrix: Block, span: slice | None = None) -> Block:
        """`span` says which columns `matrix` holds; all of them without it."""
        mean, std = self.columns(matrix, span)
        return (matrix - mean) / std

    def invert(self, matrix: Block, span: slice | None = None) -> Block:
        mean, std = self.columns(matrix, span)
        return matrix * std + mean

    def columns(
        self, like: Tensor, span: slice | None = None
    ) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
        """Mean and std once for each column of `span`, with the type and device of `like`."""
        span = span or slice(0, sum(self.sizes))
        if self.kind == "parameter":
            return self.mean[span].to(like), self.std[span].to(like)
        tensors, _, inside = zip(*overlaps(self.sizes, span), strict=True)
        counts = torch.tensor([part.stop - part.start for part in inside])
        both = self.mean.cpu(), self.std.cpu()
        return tuple(v[list(tensors)].repeat_interleave(counts).to(like) for v in both)


def _of_tensors(models: Rows) -> tuple[Tensor, Tensor]:
    """Mean and std of each of the P tensors."""
    sizes = models.subset.sizes
    moments = [NOTHING] * len(sizes)
    for span, block in models.columns():
        for p, _, inside in overlaps(sizes, span):
            part = block[:, inside].double()
            count, mean, variance = part.shape[1], part.mean(1), part.var(1, correction=0)  # (K)
            moments[p] = merged(moments[p], (count, mean, variance * count))
    stds = [(squares / max(n - 1, 1)).sqrt().mean() for n, _, squares in moments]  # 0 for n = 1
    return torch.stack([mean.mean() for _, mean, _ in moments]), torch.stack(stds)


def _of_parameters(models: Rows) -> tuple[Tensor, Tensor]:
    """Mean and std of each of the D parameters over the models."""
    means, stds = [], []
    for _, block in models.columns():
        deviations = block.double()
        means.append(deviations.mean(0))
        deviations -= means[-1]
        squares = deviations.square().sum(0)
        stds.append((squares / max(len(deviations) - 1, 1)).sqrt())
    return torch.cat(means), torch.cat(stds)

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
    def fit(cls, models: Rows, kind: Normalise = "tensor", values: int = CHUNK) -> "Normalisation":
        """The statistics of `models`, summed in fp64 over blocks of `values` values at most."""
        mean, std = (_of_tensors if kind == "tensor" else _of_parameters)(models, values)
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
        both = self.mean.cpu(), self.std.cpu()
        return tuple(v[tensors].repeat_interleave(counts).to(like) for v in both)


def _of_tensors(models: Rows, values: int) -> tuple[Tensor, Tensor]:
    """Mean and std of each of the P tensors; parts are merged as in Chan et al. 1979."""
    sizes = models.subset.sizes
    counts, means, squares = [0] * len(sizes), [0.0] * len(sizes), [0.0] * len(sizes)
    for span, block in models.columns(values):
        for p, _, inside in overlaps(sizes, span):
            part = block[:, inside].double()
            new, before = part.shape[1], counts[p]
            counts[p] = before + new
            shift = part.mean(1) - means[p]  # (K)
            means[p] = means[p] + shift * (new / counts[p])
            squares[p] = squares[p] + part.var(1, correction=0) * new
            squares[p] = squares[p] + shift**2 * (before * new / counts[p])
    pairs = zip(squares, sizes, strict=True)
    stds = [(s / max(size - 1, 1)).sqrt().mean() for s, size in pairs]  # 0 for a single value
    return torch.stack([mean.mean() for mean in means]), torch.stack(stds)


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

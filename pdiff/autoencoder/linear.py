"""The linear codec: principal components of the checkpoints, for nets of millions of parameters.

K checkpoints span K - 1 directions around their mean, so the components come from the K x K Gram
matrix ("dual" PCA). Decoding returns the mean checkpoint plus a linear combination of the
checkpoints: no component of length D is ever made, and K - 1 components give the checkpoints back,
to the rounding of fp32.

With A (K, D) the normalised checkpoints less their mean, A A^T = U diag(e) U^T, the variance along
component l is e_l / (K - 1) and the latents of the checkpoints are sqrt((K - 1) e_l / e_1) U. They
share one scale: the first has variance 1, the others less. With whitened latents a diffusion model
would err on a component of a billionth of the variance as much as on the first.

All is computed on the CPU, sums in fp64 and decoding in fp32. It needs the memory of a few blocks
of columns and of (K, K); `make table T=13` measures it.

Axes: K checkpoints, G or M models, D parameters, P tensors, L latent length, c columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from pdiff.core.files import load_tensors, save_tensors, whole
from pdiff.core.optimise import check_finite
from pdiff.core.statistics import spectrum
from pdiff.parameters.normalisation import Normalisation, Normalise
from pdiff.parameters.stack import StackFile, write_columns
from pdiff.parameters.subset import Columns, Rows, Subset, spans
from pdiff.system.errors import InputError
from pdiff.system.progress import tqdm


@dataclass(frozen=True)
class LinearCodec:
    """The components, in terms of the checkpoints, which each use reads again."""

    checkpoints: Rows
    normalisation: Normalisation
    dual: Float64[Tensor, "K L"]
    """U, one orthonormal column for each component, largest variance first."""
    variance: Float64[Tensor, " L"]
    """Along each component, in normalised space, with K - 1 in the denominator."""

    @property
    def subset(self) -> Subset:
        return self.checkpoints.subset

    @property
    def _scale(self) -> Float64[Tensor, " L"]:
        """From the entries of U to latents."""
        return ((len(self.checkpoints) - 1) * self.variance / self.variance[0]).sqrt()

    @classmethod
    def fit(
        cls, checkpoints: Rows, latent_dim: int, normalise: Normalise = "tensor"
    ) -> "LinearCodec":
        """The first `latent_dim` components.

        Raises:
            InputError: a checkpoint is not finite, or `latent_dim` is more than their directions.
        """
        normalisation = Normalisation.fit(checkpoints, normalise)
        gram = torch.zeros(len(checkpoints), len(checkpoints), dtype=torch.float64)
        for span, _, deviations in _deviations(checkpoints, "compare checkpoints"):
            scaled = deviations.div_(normalisation.columns(deviations, span)[1])
            gram.addmm_(scaled, scaled.T)
        check_finite(gram, "checkpoints")
        variance, dual = spectrum(gram)
        _check_rank(variance, latent_dim)
        dual = dual[:, :latent_dim].contiguous()
        return cls(checkpoints, normalisation, dual, variance[:latent_dim] / (len(gram) - 1))

    @property
    def latents(self) -> Float[Tensor, "K L"]:
        """The checkpoints in coordinates along the components."""
        return (self.dual * self._scale).float()

    def decode(self, latents: Float[Tensor, "G L"]) -> Columns:
        """Models in blocks of columns: the mean checkpoint plus a combination of all of them."""
        weights = (latents.double().cpu() / self._scale @ self.dual.T).float()  # (G, K)
        for span, mean, deviations in _deviations(self.checkpoints, "decode"):
            yield span, torch.addmm(mean.float(), weights, deviations.float())

    def save(self, path: Path) -> None:
        """Write all but the checkpoints."""
        statistics = {"mean": self.normalisation.mean, "std": self.normalisation.std}
        tensors = {"dual": self.dual, "variance": self.variance, **statistics}
        header = {"normalise": self.normalisation.kind, "subset": list(self.subset.shapes.items())}
        save_tensors(path, tensors, kind="linear", **header)

    @classmethod
    def load(cls, path: Path, checkpoints: Rows) -> "LinearCodec":
        """What `save` wrote; `InputError` if the file or the checkpoints are anything else."""
        tensors, header = load_tensors(path)
        with whole(path):
            sizes, kind = checkpoints.subset.sizes, header["normalise"]
            statistics = Normalisation(tensors["mean"], tensors["std"], sizes, kind)
            codec = cls(checkpoints, statistics, tensors["dual"], tensors["variance"])
            subset = Subset({name: tuple(shape) for name, shape in header["subset"]})
        if subset != checkpoints.subset or len(codec.dual) != len(checkpoints):
            raise InputError(f"{path} and the checkpoints are of different runs")
        return codec


def round_trip(stack: Path, latent_dim: int, models: int, out: Path) -> None:
    """Fit to the checkpoints of `stack`, encode them, decode `models` latents into a stack `out`.

    Measurements of time and memory call this.
    """
    codec = LinearCodec.fit(StackFile(stack), latent_dim)
    chosen = codec.latents[torch.arange(models) % len(codec.checkpoints)]
    write_columns(out, codec.subset, models, codec.decode(chosen))


def _deviations(
    checkpoints: Rows, progress: str
) -> Iterator[tuple[slice, Float64[Tensor, " c"], Float64[Tensor, "K c"]]]:
    """Blocks of columns: their span, mean, and the checkpoints' deviations from it."""
    count = len(spans(len(checkpoints), checkpoints.subset.length))
    for span, block in tqdm(checkpoints.columns(), progress, count, disable=None):
        deviations = block.double()
        mean = deviations.mean(0)
        yield span, mean, deviations.sub_(mean)


def _check_rank(eigenvalues: Float64[Tensor, " K"], latent_dim: int) -> None:
    """Raise `InputError` for components that rounding alone has made."""
    count = len(eigenvalues)
    smallest = eigenvalues[0] * count * torch.finfo(torch.float64).eps
    rank = min(int((eigenvalues > smallest).sum()), count - 1)
    if latent_dim > rank:
        raise InputError(
            f"autoencoder.latent_dim: {latent_dim} is more than the {rank} directions in which "
            f"the {count} checkpoints differ; autoencoder.kind: linear can have 1 to {rank}"
            if rank
            else f"autoencoder.kind: linear finds no direction: the {count} checkpoints are equal"
        )

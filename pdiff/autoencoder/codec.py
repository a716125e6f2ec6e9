"""Subsets of parameters to latents and back: what all codecs can do, and the trained one.

Axes: K checkpoints, G or M models, D parameters, L latent length.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pdiff.autoencoder.blocks import Norm
from pdiff.autoencoder.linear import LinearCodec
from pdiff.autoencoder.net import Autoencoder
from pdiff.core.files import load_header, load_tensors, save_tensors, whole
from pdiff.parameters.normalisation import Normalisation
from pdiff.parameters.stack import StackFile
from pdiff.parameters.subset import Columns, Models, Rows, Subset

Pair = tuple[Float[Tensor, "M _"], Float[Tensor, "M _"]]
"""Some columns of models, and of their reconstructions."""

AT_ONCE = 2**28
"""Bytes of one layer's activations while a trained autoencoder encodes or decodes."""


@dataclass(frozen=True)
class ConvCodec:
    """A trained autoencoder with its subset and that subset's statistics."""

    subset: Subset
    autoencoder: Autoencoder
    normalisation: Normalisation
    encode_norm: Literal["batch", "running", "minibatch"]
    decode_norm: Literal["sample", "running"]

    @property
    def rows(self) -> int:
        """Number of models that pass at once: their widest layer takes `AT_ONCE` bytes at most."""
        widest = 4 * self.autoencoder.channels[0] * self.autoencoder.padded_length
        return max(1, AT_ONCE // widest)

    @torch.no_grad()
    def encode(self, models: Rows) -> Float[Tensor, "M L"]:
        """Latents on the autoencoder's device; batch statistics are those of all models."""
        matrix = models.block(slice(0, self.subset.length))
        normalised = self.normalisation.apply(matrix.to(self.autoencoder.output.weight.device))
        norm: Norm = "running" if self.encode_norm == "running" else "batch"
        if norm == "batch" and len(models) > self.rows:
            return self.autoencoder.encode_in_parts(normalised, self.rows)
        parts = normalised.split(self.rows)
        return torch.cat([self.autoencoder.encode(part, norm) for part in parts])

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "G L"]) -> Columns:
        """Handed out in blocks of columns."""
        parts = latents.split(self.rows)
        decoded = [self.autoencoder.decode(part, self.decode_norm) for part in parts]
        matrix = self.normalisation.invert(torch.cat(decoded))
        return Models(self.subset, matrix).columns()

    def save(self, path: Path) -> None:
        own = self.normalisation
        statistics = {"normalisation.mean": own.mean, "normalisation.std": own.std}
        save_tensors(
            path,
            self.autoencoder.state_dict() | statistics,
            autoencoder=self.autoencoder.config,
            subset=list(self.subset.shapes.items()),
            normalise=own.kind,
            encode_norm=self.encode_norm,
            decode_norm=self.decode_norm,
        )

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> "ConvCodec":
        """What `save` wrote, in eval mode; `InputError` if the file is anything else."""
        tensors, header = load_tensors(path, device)
        with whole(path):
            mean, std = tensors.pop("normalisation.mean"), tensors.pop("normalisation.std")
            model = Autoencoder(**header["autoencoder"]).to(device)
            model.load_state_dict(tensors)
            subset = Subset({name: tuple(shape) for name, shape in header["subset"]})
            normalisation = Normalisation(mean, std, subset.sizes, header["normalise"])
            norms = header["encode_norm"], header["decode_norm"]
            return cls(subset, model.eval(), normalisation, *norms)


Codec = ConvCodec | LinearCodec
"""Encodes and decodes models of a subset, with their parameters as they stand in the net."""


def load_codec(path: Path, checkpoints: Path, device: torch.device | str = "cpu") -> Codec:
    """The codec in a file; the linear one reads the checkpoints that it was fitted to again.

    Raises:
        InputError: the file is no codec, or the checkpoints are not its own.
    """
    if load_header(path).get("kind") == "linear":
        return LinearCodec.load(path, StackFile(checkpoints))
    return ConvCodec.load(path, device)


def minibatch_encoder(
    codec: Codec, checkpoints: Rows
) -> Callable[[Int64[Tensor, " B"]], Float[Tensor, "B L"]] | None:
    """Encodes the checkpoints of a batch with its own statistics; None where one encoding serves.

    That is `encode_norm: minibatch`, as the authors train their denoiser.
    """
    if isinstance(codec, LinearCodec) or codec.encode_norm != "minibatch":
        return None
    device = codec.autoencoder.output.weight.device
    matrix = checkpoints.block(slice(0, codec.subset.length)).to(device)  # (K, D)
    return lambda rows: codec.encode(Models(codec.subset, matrix[rows]))


def normalised_pairs(codec: Codec, models: Rows, latents: Float[Tensor, "M L"]) -> Iterator[Pair]:
    """Models and what their latents decode to, block by block of columns."""
    for (span, block), (_, decoded) in zip(models.columns(), codec.decode(latents), strict=True):
        yield tuple(codec.normalisation.apply(values, span) for values in (block, decoded))


def reconstruction_error(pairs: Iterable[Pair]) -> dict[str, float]:
    """How well models come back, from blocks of their columns in normalised space.

    `mse` is the mean squared error. `r2` is the share of the models' deviation from their mean that
    the reconstruction explains: 1 is perfect, 0 as good as the mean model, nan where nothing
    deviates.
    """
    error = total = mean_error = count = 0.0
    for x, reconstruction in pairs:
        squares = (x - reconstruction).square()
        error += squares.sum(dtype=torch.float64).item()
        total += (x - x.mean(0)).square().sum(dtype=torch.float64).item()
        mean_error += squares.mean().item() * squares.numel()
        count += squares.numel()
    r2 = 1 - error / total if total > 0 else float("nan")
    return {"r2": r2, "mse": mean_error / count}

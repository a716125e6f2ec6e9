"""Normalisation and autoencoder as one thing: subsets of parameters to latents and back.

Axes: K checkpoints, G models, D parameters, L latent length.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pdiff.autoencoder import Autoencoder
from pdiff.errors import InputError
from pdiff.files import load_tensors, save_tensors, whole
from pdiff.subset import Normalisation, Subset

_STATISTICS = "normalisation."


@dataclass(frozen=True)
class Codec:
    """A trained autoencoder with the subset it stands for and that subset's statistics."""

    subset: Subset
    autoencoder: Autoencoder
    normalisation: Normalisation
    encode_norm: Literal["batch", "running"]
    decode_norm: Literal["sample", "running"]

    @torch.no_grad()
    def encode(self, matrix: Float[Tensor, "K D"]) -> Float[Tensor, "K L"]:
        """Parameters as they stand in the net to latents, all K in one batch."""
        return self.autoencoder.encode(self.normalisation.apply(matrix), self.encode_norm)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "G L"]) -> Float[Tensor, "G D"]:
        """Latents to parameters as they stand in the net, all G in one batch."""
        return self.normalisation.invert(self.autoencoder.decode(latents, self.decode_norm))

    def save(self, path: Path) -> None:
        statistics = {"mean": self.normalisation.mean, "std": self.normalisation.std}
        tensors = dict(self.autoencoder.state_dict())
        tensors |= {_STATISTICS + name: value for name, value in statistics.items()}
        save_tensors(
            path,
            tensors,
            autoencoder=self.autoencoder.config(),
            subset=list(self.subset.shapes.items()),
            encode_norm=self.encode_norm,
            decode_norm=self.decode_norm,
        )

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> "Codec":
        """What `save` wrote, in eval mode; `InputError` if the file is anything else."""
        tensors, header = load_tensors(path, device)
        if "autoencoder" not in header:
            raise InputError(f"{path} is not an autoencoder")
        with whole(path):
            mean, std = (tensors.pop(_STATISTICS + name) for name in ("mean", "std"))
            model = Autoencoder(**header["autoencoder"]).to(device)
            model.load_state_dict(tensors)
            subset = Subset({name: tuple(shape) for name, shape in header["subset"]})
            normalisation = Normalisation(mean, std, subset.sizes)
            norms = header["encode_norm"], header["decode_norm"]
            return cls(subset, model.eval(), normalisation, *norms)

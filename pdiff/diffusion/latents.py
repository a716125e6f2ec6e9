"""Denoiser, noise schedule and latent statistics as one thing: it draws new latents.

Axes: K checkpoints, G models, L latent length, R directions in which latents differ, S followed
samples, P points of each.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pdiff.config import GenerateConfig
from pdiff.core.files import load_tensors, save_tensors, whole
from pdiff.core.statistics import spectrum
from pdiff.diffusion.denoiser import Denoiser
from pdiff.diffusion.schedule import Diffusion


@dataclass(frozen=True)
class LatentStatistics:
    """How latents are scaled for the denoiser, in R coordinates, and how that is undone."""

    mean: Float[Tensor, " L"]
    directions: Float[Tensor, "L R"]
    """Orthonormal columns: a unit vector for each dimension, or the principal directions."""
    std: Float[Tensor, " R"]
    """Along each direction."""

    @classmethod
    def fit(
        cls, latents: Float[Tensor, "K L"], standardise: Literal["none", "dimension", "whiten"]
    ) -> "LatentStatistics":
        """The statistics of `latents`; mean 0 and std 1 for `none`."""
        mean, unit = latents.mean(0), torch.eye(latents.shape[1]).to(latents)
        if standardise == "none":
            return cls(torch.zeros_like(mean), unit, torch.ones_like(mean))
        if standardise == "dimension":
            std = latents.std(0)
            return cls(mean, unit, torch.where(std > 0, std, 1.0))
        std, directions = principal_directions(latents)
        return cls(mean, directions, std)

    def apply(self, latents: Float[Tensor, "K L"]) -> Float[Tensor, "K R"]:
        return (latents - self.mean) @ self.directions / self.std

    def invert(self, latents: Float[Tensor, "G R"]) -> Float[Tensor, "G L"]:
        return latents * self.std @ self.directions.T + self.mean


def held_out_rows(count: int, share: float) -> Bool[Tensor, " K"]:
    """Which of `count` checkpoints are held out: `share` of them, evenly spread."""
    edges = (torch.arange(count + 1, dtype=torch.float64) * share + 0.5).floor()
    return edges[:-1] < edges[1:]


def principal_directions(
    latents: Float[Tensor, "K L"],
) -> tuple[Float[Tensor, " R"], Float[Tensor, "L R"]]:
    """Std along each principal direction, largest first, and the directions as columns.

    Directions that rounding alone makes are left out. Equal latents give the first dimension, 1.
    """
    centred = (latents - latents.mean(0)).double().cpu()
    variance, directions = spectrum(centred.T @ centred / max(len(latents) - 1, 1))
    rounding = variance[0] * latents.shape[1] * torch.finfo(torch.float32).eps
    kept = int((variance > rounding).sum())
    if not kept:
        return latents.new_ones(1), torch.eye(latents.shape[1], 1).to(latents)
    return variance[:kept].sqrt().to(latents), directions[:, :kept].to(latents)


@dataclass(frozen=True)
class LatentModel:
    """A trained denoiser with the diffusion and the statistics that it was trained under."""

    denoiser: Denoiser
    statistics: LatentStatistics
    diffusion: Diffusion
    held_out: Bool[Tensor, " K"]
    """Which checkpoints' latents it did not learn from."""

    def sample(self, config: GenerateConfig, generator: torch.Generator) -> Float[Tensor, "G L"]:
        """`config.models` new latents, all in one batch.

        `prior` draws them from N(0, I), without the denoiser: how a VAE is sampled (Table 8).
        """
        if config.sampler == "prior":
            shape = (config.models, len(self.statistics.mean))
            return torch.randn(shape, generator=generator, device=generator.device)
        latents = deque(self._path(config, config.models, generator), maxlen=1).pop()
        return self.statistics.invert(latents)

    def follow(
        self, config: GenerateConfig, generator: torch.Generator
    ) -> tuple[Int64[Tensor, " P"], Float[Tensor, "S P L"]]:
        """`config.trajectories` further samples on their way from noise to latent.

        Returns the steps that are kept (0, every `config.trajectory_every`-th and the last) and
        the latents there.
        """
        if not config.trajectories:
            nothing = torch.empty(0, 0, len(self.statistics.mean))
            return torch.empty(0, dtype=torch.int64), nothing
        points: dict[int, Tensor] = {}
        for step, x in enumerate(self._path(config, config.trajectories, generator)):
            if step % config.trajectory_every == 0:
                points[step] = x
        points[step] = x
        latents = torch.stack([self.statistics.invert(x) for x in points.values()], dim=1)
        return torch.tensor(list(points)), latents

    def _path(
        self, config: GenerateConfig, count: int, generator: torch.Generator
    ) -> Iterator[Float[Tensor, "G R"]]:
        """`count` samples after each step, in the coordinates that the denoiser was trained in."""
        shape, how = (count, len(self.statistics.std)), (config.sampler, config.steps)
        predict_noise = self.diffusion.predicts_noise(self.denoiser)
        return self.diffusion.sample(predict_noise, shape, generator, *how)

    def save(self, path: Path) -> None:
        tensors = {f"denoiser.{name}": t for name, t in self.denoiser.state_dict().items()}
        tensors |= {f"latent.{name}": t for name, t in vars(self.statistics).items()}
        tensors["held_out"] = self.held_out
        header = {"denoiser": self.denoiser.config, "schedule": self.diffusion.config}
        save_tensors(path, tensors, **header)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> "LatentModel":
        """What `save` wrote, in eval mode; `InputError` if the file is anything else."""
        tensors, header = load_tensors(path, device)
        with whole(path):
            names = ("mean", "directions", "std")
            statistics = LatentStatistics(*(tensors.pop(f"latent.{name}") for name in names))
            held_out = tensors.pop("held_out")
            denoiser = Denoiser(**header["denoiser"]).to(device)
            denoiser.load_state_dict({n.removeprefix("denoiser."): t for n, t in tensors.items()})
            diffusion = Diffusion(**header["schedule"], device=device)
            return cls(denoiser.eval(), statistics, diffusion, held_out)

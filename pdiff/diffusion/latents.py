"""Denoiser, noise schedule and latent statistics as one thing: it draws new latents.

Axes: K checkpoints, G models, L latent length, R directions in which latents differ, S followed
samples, P points of each.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pdiff.config import DdpmConfig, GenerateConfig
from pdiff.core.files import load_tensors, save_tensors, whole
from pdiff.core.spectrum import spectrum
from pdiff.diffusion.denoiser import Denoiser
from pdiff.diffusion.schedule import Diffusion, Prediction, PredictNoise
from pdiff.system.errors import InputError


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
class Schedule:
    """The noise schedule that a denoiser was trained under, and what it predicts."""

    timesteps: int
    beta_start: float
    beta_end: float
    prediction: Prediction

    @classmethod
    def of(cls, config: DdpmConfig) -> "Schedule":
        return cls(config.timesteps, config.beta_start, config.beta_end, config.prediction)

    def diffusion(self, device: torch.device) -> Diffusion:
        return Diffusion(self.timesteps, self.beta_start, self.beta_end, device)


@dataclass(frozen=True)
class LatentModel:
    """A trained denoiser with the schedule and the statistics that it was trained under."""

    denoiser: Denoiser
    statistics: LatentStatistics
    schedule: Schedule
    held_out: Bool[Tensor, " K"]
    """Which checkpoints' latents it did not learn from."""

    def noise_predictor(self) -> tuple[Diffusion, PredictNoise]:
        """The diffusion and the denoiser as its predictor of epsilon, in scaled coordinates."""
        diffusion = self.schedule.diffusion(self.statistics.mean.device)
        return diffusion, diffusion.predicts_noise(self.denoiser, self.schedule.prediction)

    def sample(self, config: GenerateConfig, generator: torch.Generator) -> Float[Tensor, "G L"]:
        """`config.models` new latents, all in one batch.

        `prior` draws them from N(0, I), without the denoiser: how a VAE is sampled (Table 8).
        """
        if config.sampler == "prior":
            shape = (config.models, len(self.statistics.mean))
            return torch.randn(shape, generator=generator, device=generator.device)
        latents = self._sample(config, config.models, generator, "sample latents")
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
        points: list[Tensor] = []
        own = config.trajectories, generator, "follow samples"
        self._sample(config, *own, lambda step, x: points.append(x))
        last = len(points) - 1
        steps = sorted({*range(0, last, config.trajectory_every), last})
        latents = torch.stack([self.statistics.invert(points[step]) for step in steps], dim=1)
        return torch.tensor(steps), latents

    def _sample(
        self,
        config: GenerateConfig,
        count: int,
        generator: torch.Generator,
        progress: str,
        trajectory: Callable[[int, Tensor], None] | None = None,
    ) -> Float[Tensor, "G R"]:
        """Samples in the coordinates that the denoiser was trained in."""
        diffusion, predict_noise = self.noise_predictor()
        return diffusion.sample(
            predict_noise,
            (count, len(self.statistics.std)),
            generator,
            sampler=config.sampler,
            steps=config.steps,
            progress=progress,
            trajectory=trajectory,
        )

    def save(self, path: Path) -> None:
        tensors = {f"denoiser.{name}": t for name, t in self.denoiser.state_dict().items()}
        tensors |= {f"latent.{name}": t for name, t in vars(self.statistics).items()}
        tensors["held_out"] = self.held_out
        schedule = asdict(self.schedule)
        save_tensors(path, tensors, denoiser=self.denoiser.config(), schedule=schedule)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> "LatentModel":
        """What `save` wrote, in eval mode; `InputError` if the file is anything else."""
        tensors, header = load_tensors(path, device)
        if "denoiser" not in header:
            raise InputError(f"{path} is not a denoiser")
        with whole(path):
            names = ("mean", "directions", "std")
            statistics = LatentStatistics(*(tensors.pop(f"latent.{name}") for name in names))
            held_out = tensors.pop("held_out")
            denoiser = Denoiser(**header["denoiser"]).to(device)
            denoiser.load_state_dict({n.removeprefix("denoiser."): t for n, t in tensors.items()})
            return cls(denoiser.eval(), statistics, Schedule(**header["schedule"]), held_out)

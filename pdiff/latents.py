"""Denoiser, noise schedule and latent statistics as one thing: it draws new latents.

Axes: K checkpoints, G models, L latent length, S samples that are followed, P points of each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pdiff.config import DdpmConfig, GenerateConfig
from pdiff.denoiser import Denoiser
from pdiff.diffusion import Diffusion
from pdiff.errors import InputError
from pdiff.files import load_tensors, save_tensors, whole


@dataclass(frozen=True)
class LatentStatistics:
    """Mean and std of each latent dimension; 0 and 1 where latents are taken as they are."""

    mean: Float[Tensor, " L"]
    std: Float[Tensor, " L"]

    @classmethod
    def fit(cls, latents: Float[Tensor, "K L"], standardise: bool) -> "LatentStatistics":
        """The statistics of `latents`, or none of them if not `standardise` (as the authors)."""
        mean, std = torch.zeros_like(latents[0]), torch.ones_like(latents[0])
        if standardise:
            mean, std = latents.mean(0), latents.std(0)
            std = torch.where(std > 0, std, 1.0)
        return cls(mean, std)

    def apply(self, latents: Float[Tensor, "K L"]) -> Float[Tensor, "K L"]:
        return (latents - self.mean) / self.std

    def invert(self, latents: Float[Tensor, "G L"]) -> Float[Tensor, "G L"]:
        return latents * self.std + self.mean


@dataclass(frozen=True)
class LatentModel:
    """A trained denoiser with the schedule and the statistics that it was trained under."""

    denoiser: Denoiser
    statistics: LatentStatistics
    timesteps: int
    beta_start: float
    beta_end: float

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

        Kept are the start, which is step 0, every `config.trajectory_every`-th step and the last
        one; the steps come back with the latents.
        """
        steps, points = [], []

        def keep(step: int, x: Float[Tensor, "S L"]) -> None:
            if step % config.trajectory_every == 0:
                steps.append(step)
                points.append(x)

        if not config.trajectories:
            nothing = torch.empty(0, 0, len(self.statistics.mean))
            return torch.empty(0, dtype=torch.int64), nothing
        taken = self.timesteps if config.sampler == "ddpm" else config.steps
        last = self._sample(config, config.trajectories, generator, "follow samples", keep)
        if steps[-1] != taken:
            steps.append(taken)
            points.append(last)
        latents = torch.stack([self.statistics.invert(x) for x in points], dim=1)
        return torch.tensor(steps), latents

    def _sample(
        self,
        config: GenerateConfig,
        count: int,
        generator: torch.Generator,
        progress: str,
        trajectory: Callable[[int, Tensor], None] | None = None,
    ) -> Float[Tensor, "G L"]:
        """Samples in the space that the denoiser was trained in."""
        device = self.statistics.mean.device
        diffusion = Diffusion(self.timesteps, self.beta_start, self.beta_end, device)
        return diffusion.sample(
            self.denoiser,
            (count, len(self.statistics.mean)),
            generator,
            sampler=config.sampler,
            steps=config.steps,
            progress=progress,
            trajectory=trajectory,
        )

    def save(self, path: Path) -> None:
        tensors = {f"denoiser.{name}": t for name, t in self.denoiser.state_dict().items()}
        tensors |= {"latent.mean": self.statistics.mean, "latent.std": self.statistics.std}
        schedule = {"timesteps": self.timesteps}
        schedule |= {"beta_start": self.beta_start, "beta_end": self.beta_end}
        save_tensors(path, tensors, denoiser=self.denoiser.config(), schedule=schedule)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> "LatentModel":
        """What `save` wrote, in eval mode; `InputError` if the file is anything else."""
        tensors, header = load_tensors(path, device)
        if "denoiser" not in header:
            raise InputError(f"{path} is not a denoiser")
        with whole(path):
            statistics = LatentStatistics(tensors.pop("latent.mean"), tensors.pop("latent.std"))
            denoiser = Denoiser(**header["denoiser"]).to(device)
            denoiser.load_state_dict({n.removeprefix("denoiser."): t for n, t in tensors.items()})
            return cls(denoiser.eval(), statistics, **header["schedule"])

    @classmethod
    def of(
        cls, denoiser: Denoiser, statistics: LatentStatistics, config: DdpmConfig
    ) -> "LatentModel":
        return cls(denoiser, statistics, config.timesteps, config.beta_start, config.beta_end)

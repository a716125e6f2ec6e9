"""Denoising diffusion on latents: noise schedule, training loss, sampling; it knows no network.

Axes: L latent length, B batch, G generated. Steps t count from 0 to T - 1, so t here is t + 1 in
the DDPM paper (Ho et al. 2020, arXiv 2006.11239); DDIM is arXiv 2010.02502.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pdiff.config import DdpmConfig
from pdiff.system.errors import InputError
from pdiff.system.progress import tqdm

Batch = Float[Tensor, "B L"]
Steps = Int[Tensor, " B"]
PredictNoise = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, L), t (B,)) -> epsilon (B, L)."""
Prediction = Literal["epsilon", "v"]
"""What a denoiser predicts: the noise, or v = signal * epsilon - noise * x_0 (arXiv 2202.00512)."""


class Diffusion:
    """Gaussian diffusion with linear betas over T = `timesteps` steps.

    The betas run from `beta_start` to `beta_end` for every T, as in the authors' code: a short
    schedule ends well before pure noise (alpha_bar is 0.90 for T = 10 and betas 1e-4 to 0.02).
    """

    def __init__(
        self,
        timesteps: int,
        beta_start: float,
        beta_end: float,
        device: torch.device | str = "cpu",
        prediction: Prediction = "epsilon",
    ) -> None:
        ends = {"beta_start": beta_start, "beta_end": beta_end}
        self.config = {"timesteps": timesteps, "prediction": prediction, **ends}
        """JSON-able arguments, all but the device."""
        self.timesteps, self.prediction, self.device = timesteps, prediction, torch.device(device)
        betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
        alpha_bar = (1 - betas).cumprod(0)
        previous = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])

        def keep(values: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
            return values.float().to(self.device)

        # each from float64: 1 - alpha_bar of the first steps would lose its digits in float32
        self.signal = keep(alpha_bar.sqrt())  # of x_0 in x_t
        self.noise = keep((1 - alpha_bar).sqrt())  # of epsilon in x_t
        self.posterior_variance = keep(betas * (1 - previous) / (1 - alpha_bar))
        self.step_scale = keep((1 - betas).rsqrt())
        self.step_noise = keep(betas / (1 - alpha_bar).sqrt())

    @classmethod
    def of(cls, config: DdpmConfig, device: torch.device | str = "cpu") -> "Diffusion":
        betas = config.beta_start, config.beta_end
        return cls(config.timesteps, *betas, device, config.prediction)

    def add_noise(self, x0: Batch, noise: Batch, t: Steps) -> Batch:
        """x_t given x_0, DDPM eq. 4."""
        return self.signal[t, None] * x0 + self.noise[t, None] * noise

    def velocity(self, x0: Batch, noise: Batch, t: Steps) -> Batch:
        """v at x_t, Salimans and Ho 2022, appendix D."""
        return self.signal[t, None] * noise - self.noise[t, None] * x0

    def predicts_noise(self, denoiser: PredictNoise) -> PredictNoise:
        """`denoiser`, which predicts `prediction`, as a predictor of epsilon."""
        if self.prediction == "epsilon":
            return denoiser
        return lambda xt, t: self.signal[t, None] * denoiser(xt, t) + self.noise[t, None] * xt

    def loss(
        self, denoiser: PredictNoise, x0: Batch, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Mean squared error of the prediction at uniformly drawn steps (epsilon: DDPM eq. 14)."""
        size = (len(x0),)
        t = torch.randint(self.timesteps, size, generator=generator, device=self.device)
        noise = torch.randn(x0.shape, generator=generator, device=self.device)
        target = noise if self.prediction == "epsilon" else self.velocity(x0, noise, t)
        return F.mse_loss(denoiser(self.add_noise(x0, noise, t), t).float(), target)

    def ddpm_step(self, xt: Batch, epsilon: Batch, t: int, noise: Batch) -> Batch:
        """x_{t-1} given x_t and the predicted noise, DDPM eq. 11 and algorithm 2.

        The variance is the posterior's (eq. 7), which is 0 at t = 0: the last step adds no noise.
        """
        mean = self.step_scale[t] * (xt - self.step_noise[t] * epsilon)
        return mean + self.posterior_variance[t].sqrt() * noise

    def ddim_step(self, xt: Batch, epsilon: Batch, t: int, t_previous: int) -> Batch:
        """x at the earlier step `t_previous` without new noise, DDIM eq. 12 with sigma 0.

        `t_previous` -1 is the clean end: the predicted x_0.
        """
        x0 = (xt - self.noise[t] * epsilon) / self.signal[t]
        if t_previous < 0:
            return x0
        return self.signal[t_previous] * x0 + self.noise[t_previous] * epsilon

    def ddim_timesteps(self, steps: int) -> list[int]:
        """`steps` different steps spread evenly from T - 1 down to 0; [T - 1] if just one."""
        if not 1 <= steps <= self.timesteps:
            raise InputError(f"DDIM takes 1 to {self.timesteps} steps, not {steps}")
        last = self.timesteps - 1
        return [last - round(i * last / max(steps - 1, 1)) for i in range(steps)]

    @torch.no_grad()
    def sample(
        self,
        predict_noise: PredictNoise,
        shape: tuple[int, int],
        generator: torch.Generator,
        sampler: Literal["ddpm", "ddim"],
        steps: int,
    ) -> Iterator[Batch]:
        """Yield pure noise of `shape` (G, L), then x after each step, unclipped, to the samples.

        `ddpm` takes all T steps and ignores `steps`; `ddim` takes `steps` of them. `predict_noise`
        must be in eval mode.
        """
        ancestral = sampler == "ddpm"
        visited = [*reversed(range(self.timesteps))] if ancestral else self.ddim_timesteps(steps)
        x = torch.randn(shape, generator=generator, device=self.device)
        yield x
        for i, t in enumerate(tqdm(visited, "sample", unit="step", disable=None), start=1):
            epsilon = predict_noise(x, torch.full((shape[0],), t, device=self.device))
            if ancestral:
                noise = torch.randn(shape, generator=generator, device=self.device)
                x = self.ddpm_step(x, epsilon, t, noise)
            else:
                x = self.ddim_step(x, epsilon, t, visited[i] if i < steps else -1)
            yield x

"""200 latents: all in one batch in few steps, against one at a time in a thousand steps."""

from collections.abc import Iterator

import torch

from benchmarks.operations import operations
from benchmarks.timing import HEADER, Pair, floor, scaled, table, time_pair
from pdiff.diffusion.denoiser import Denoiser
from pdiff.diffusion.schedule import Diffusion

WIDTHS = {
    "quick recipe": (16, 32, 64, 128, 64, 32, 16),
    "paper's widths": (64, 128, 256, 512, 256, 128, 64),
}
LATENT, COUNT, STEPS = 128, 200, 1000
PLAIN_STEPS, OUR_STEPS = 20, 2
SAMPLERS = (("ddpm", 1000), ("ddim", 50), ("ddim", 20), ("dpm_solver", 20))


def run() -> str:
    rows = [pair.row() for name, widths in WIDTHS.items() for pair in _pairs(name, widths)]
    return table(HEADER, rows)


def _pairs(name: str, widths: tuple[int, ...]) -> Iterator[Pair]:
    denoiser = Denoiser(LATENT, widths, 7).eval()
    ours, plain = time_pair(
        lambda: draw(denoiser, COUNT, "ddim", OUR_STEPS),
        lambda: draw(denoiser, 1, "ddim", PLAIN_STEPS),
    )
    x, t = torch.randn(COUNT, LATENT), torch.zeros(COUNT, dtype=torch.int64)
    step = operations(lambda: denoiser(x, t))
    for sampler, steps in SAMPLERS:
        yield Pair(
            f"{COUNT} latents, {name}, {sampler} {steps}",
            scaled(ours, steps / OUR_STEPS),
            scaled(plain, COUNT * STEPS / PLAIN_STEPS),
            floor(steps * step),
            f"from {OUR_STEPS} steps; the plain way: one latent, from {PLAIN_STEPS} steps",
        )


def draw(denoiser: Denoiser, count: int, sampler: str, steps: int) -> None:
    diffusion = Diffusion(STEPS, 1e-4, 0.02)
    generator = torch.Generator().manual_seed(0)
    diffusion.sample(denoiser, (count, LATENT), generator, sampler=sampler, steps=steps)

"""Latents all in one batch in few steps, against one at a time in a thousand steps."""

from collections.abc import Mapping

import torch

from benchmarks.timing import HEADER, Pair, scaled, table, time_pair
from benchmarks.training import PAPER
from pdiff.diffusion.denoiser import Denoiser
from pdiff.diffusion.schedule import Diffusion

WIDTHS = {"quick recipe": (16, 32, 64, 128, 64, 32, 16), "paper's widths": PAPER["ddpm"]}
LATENT, STEPS = 128, 1000
OUR_STEPS, PLAIN_STEPS = 2, 20
SAMPLERS = (("ddpm", STEPS), ("ddim", 200), ("ddim", 20))


def run(widths: Mapping[str, tuple[int, ...]] = WIDTHS, count: int = 200) -> str:
    rows = []
    for name, channels in widths.items():
        denoiser = Denoiser(LATENT, channels, 7).eval()
        ours, plain = time_pair(
            lambda net=denoiser: _draw(net, count, OUR_STEPS),
            lambda net=denoiser: _draw(net, 1, PLAIN_STEPS),
        )
        note = f"from {OUR_STEPS} steps; the plain way: one latent, from {PLAIN_STEPS} steps"
        for sampler, steps in SAMPLERS:
            what = f"{count} latents, {name}, {sampler} {steps}"
            times = scaled(ours, steps / OUR_STEPS), scaled(plain, count * STEPS / PLAIN_STEPS)
            rows.append(Pair(what, *times, note).row())
    return table(HEADER, rows)


def _draw(denoiser: Denoiser, count: int, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    diffusion = Diffusion(STEPS, 1e-4, 0.02)
    list(diffusion.sample(denoiser, (count, LATENT), generator, "ddim", steps))

"""What the denoiser is shown: latents of all checkpoints, in batches with replacement."""

import pytest
import torch

from pdiff.diffusion.schedule import Diffusion
from pdiff.diffusion.train import train_denoiser


@pytest.mark.parametrize("anew", [False, True])
def test_the_denoiser_sees_every_checkpoint_equally_often(params, generator, monkeypatch, anew):
    latents, shown, loss = torch.arange(6.0)[:, None].expand(6, 4).clone(), [], Diffusion.loss

    def spy(self, denoiser, x0, *more):
        shown.append(x0)
        return loss(self, denoiser, x0, *more)

    monkeypatch.setattr(Diffusion, "loss", spy)
    change = {"channels": (2, 4, 2), "steps": 30, "batch_size": 40}
    config = params.ddpm.model_copy(update=change)
    encode = (lambda rows: latents[rows]) if anew else None
    train_denoiser(latents, config, generator, lambda *_: None, encode=encode)
    counts = torch.cat(shown)[:, 0].long().bincount(minlength=6)
    assert counts.sum() == 30 * 40
    assert counts.min() > 140 and counts.max() < 260  # 200 each, std 13

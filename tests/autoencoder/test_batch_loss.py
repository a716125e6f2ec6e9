"""What the autoencoder is shown: the draws of a VAE."""

import math

import pytest
import torch

from pdiff.autoencoder.train import batch_loss, make_autoencoder
from pdiff.core.optimise import autocast


def test_a_vae_draws_each_latent_with_its_own_variance(params, generator, monkeypatch):
    """Where q(z | x) is N(1, 9) for every x, what is decoded has mean 1 and std 3."""
    change = {"kind": "vae", "channels": (2, 4), "latent_dim": 8, "batch_size": 1000}
    config, shown = params.autoencoder.model_copy(update=change), []
    noise = params.noise.model_copy(update={"latent": 0.0})
    model = make_autoencoder(64, config)
    for head, value in ((model.mean, 1.0), (model.log_variance, math.log(9))):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, value)
    decode = model.decode_padded
    monkeypatch.setattr(model, "decode_padded", lambda z: shown.append(z) or decode(z))
    matrix = torch.randn(5, 64)
    batch_loss(model, matrix, config, noise, generator, autocast(matrix.device))
    (z,) = shown
    assert z.mean().item() == pytest.approx(1, abs=0.15)
    assert z.std().item() == pytest.approx(3, rel=0.05)

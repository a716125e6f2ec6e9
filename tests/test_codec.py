"""Saved autoencoders and denoisers come back, with all that is needed to use them."""

import pytest
import torch

from pdiff.autoencoder import Autoencoder
from pdiff.codec import Codec
from pdiff.denoiser import Denoiser
from pdiff.errors import InputError
from pdiff.latents import LatentModel, LatentStatistics
from pdiff.subset import Normalisation, Subset

SUBSET = Subset({"w": (40, 2), "b": (16,)})


@pytest.fixture
def codec(generator):
    matrix = torch.randn(8, SUBSET.length, generator=generator) * 2 + 1
    model = Autoencoder(SUBSET.length, (4, 8), 3, 6).eval()
    return Codec(SUBSET, model, Normalisation.fit(SUBSET, matrix), "batch", "sample"), matrix


def test_a_codec_on_disk_comes_back(codec, tmp_path):
    codec, matrix = codec
    codec.save(tmp_path / "a.safetensors")
    again = Codec.load(tmp_path / "a.safetensors")
    assert again.subset == SUBSET
    latents = codec.encode(matrix)
    assert torch.equal(again.encode(matrix), latents)
    assert torch.equal(again.decode(latents), codec.decode(latents))


def test_decoding_undoes_the_normalisation(codec):
    codec, matrix = codec
    latents = codec.encode(matrix)
    raw = codec.autoencoder.decode(latents, "sample")
    torch.testing.assert_close(codec.decode(latents), codec.normalisation.invert(raw))


def test_a_latent_model_on_disk_draws_the_same(params, tmp_path, generator):
    latents = torch.randn(10, 6, generator=generator) * 3 + 2
    statistics = LatentStatistics.fit(latents, standardise=True)
    config = params.ddpm.model_copy(update={"timesteps": 20})
    model = LatentModel.of(Denoiser(6, (4, 8, 4), 3).eval(), statistics, config)
    model.save(tmp_path / "d.safetensors")
    again = LatentModel.load(tmp_path / "d.safetensors")
    wanted = params.generate.model_copy(update={"models": 3, "steps": 4})
    first, second = (m.sample(wanted, torch.Generator().manual_seed(5)) for m in (model, again))
    assert first.shape == (3, 6)
    assert torch.equal(first, second)


def test_latent_statistics_standardise_only_if_told_to(generator):
    latents = torch.randn(50, 3, generator=generator) * torch.tensor([1.0, 5.0, 0.0]) + 2
    on, off = (LatentStatistics.fit(latents, standardise=s) for s in (True, False))
    assert torch.equal(off.apply(latents), latents)
    standard = on.apply(latents)
    torch.testing.assert_close(standard.std(0)[:2], torch.ones(2))
    torch.testing.assert_close(on.invert(standard), latents)


def test_one_kind_of_file_is_not_another(codec, tmp_path):
    codec[0].save(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="is not a denoiser"):
        LatentModel.load(tmp_path / "a.safetensors")

"""Saved autoencoders and denoisers come back, with all that is needed to use them."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from pdiff.autoencoder import codec as codec_module
from pdiff.autoencoder.codec import ConvCodec, normalised_pairs, reconstruction_error
from pdiff.autoencoder.net import Autoencoder
from pdiff.parameters.normalisation import Normalisation
from pdiff.parameters.subset import Models, Subset

SUBSET = Subset({"w": (40, 2), "b": (16,)})


@pytest.fixture
def codec(generator):
    matrix = torch.randn(8, SUBSET.length, generator=generator) * 2 + 1
    model = Autoencoder(SUBSET.length, (4, 8), 3, 6, variance_head=True).eval()
    models = Models(SUBSET, matrix)
    return ConvCodec(SUBSET, model, Normalisation.fit(models), "batch", "sample"), models


def joined(columns):
    return torch.cat([block for _, block in columns], dim=1)


def test_a_codec_on_disk_comes_back(codec, tmp_path):
    codec, models = codec
    codec.save(tmp_path / "a.safetensors")
    again = ConvCodec.load(tmp_path / "a.safetensors")
    assert again.subset == SUBSET
    latents = codec.encode(models)
    assert torch.equal(again.encode(models), latents)
    assert torch.equal(joined(again.decode(latents)), joined(codec.decode(latents)))


@pytest.mark.parametrize(("encode", "decode"), [("batch", "sample"), ("running", "running")])
def test_models_that_go_through_a_few_at_a_time_stay_the_same(codec, encode, decode, monkeypatch):
    codec, models = codec
    codec = replace(codec, encode_norm=encode, decode_norm=decode)
    before = copy.deepcopy(codec.autoencoder.state_dict())
    latents = codec.encode(models)
    decoded = joined(codec.decode(latents))
    monkeypatch.setattr(codec_module, "AT_ONCE", 3 * 4 * 4 * 128)
    assert codec.rows == 3
    torch.testing.assert_close(codec.encode(models), latents)
    torch.testing.assert_close(joined(codec.decode(latents)), decoded)
    torch.testing.assert_close(codec.autoencoder.state_dict(), before, rtol=0, atol=0)


def test_pairs_are_models_and_reconstructions_in_normalised_space(codec):
    codec, models = codec
    latents = codec.encode(models)
    ((x, y),) = normalised_pairs(codec, models, latents)
    assert torch.equal(x, codec.normalisation.apply(models.block(slice(0, SUBSET.length))))
    torch.testing.assert_close(latents, codec.autoencoder.encode(x, "batch"))
    torch.testing.assert_close(y, codec.autoencoder.decode(latents, "sample"))
    assert torch.equal(y, codec.normalisation.apply(joined(codec.decode(latents))))


def test_r_squared_of_hand_made_reconstructions(generator):
    x = torch.randn(20, 70, generator=generator)
    mean = x.mean(0).expand_as(x)

    def r2(reconstruction):
        return reconstruction_error([(x, reconstruction)])["r2"]

    assert r2(x) == 1
    assert r2(mean) == pytest.approx(0, abs=1e-6)
    assert r2((x + mean) / 2) == pytest.approx(0.75, abs=1e-6)
    assert r2(3 * mean - 2 * x) == pytest.approx(-8, abs=1e-5)
    for same in (torch.ones(3, 5), x[:1]):  # nothing deviates
        assert math.isnan(reconstruction_error([(same, same)])["r2"])


def test_errors_of_blocks_are_those_of_the_whole(generator):
    x, y = torch.randn(2, 6, 50, generator=generator)
    parts = list(zip(x.split(20, 1), y.split(20, 1), strict=True))  # 20, 20 and 10 columns
    assert reconstruction_error(parts) == pytest.approx(reconstruction_error([(x, y)]), rel=1e-6)

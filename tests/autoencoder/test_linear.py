"""The linear codec: exact at full rank, principal components below, in parts of any size."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from pdiff.autoencoder.codec import load_codec
from pdiff.autoencoder.linear import LinearCodec, round_trip
from pdiff.core.files import load_tensor, load_tensors
from pdiff.parameters import subset
from pdiff.parameters.stack import StackFile, load_stack, write_rows
from pdiff.parameters.subset import Models, Subset
from pdiff.system.errors import InputError
from tests.conftest import change
from tests.toys.pipeline import hashes, run_stages

SUBSET = Subset({"w": (9, 4), "b": (1,), "v": (13,)})
COUNT = 12


@pytest.fixture
def matrix(generator):
    scale = torch.linspace(0.1, 4, SUBSET.length)
    return torch.randn(COUNT, SUBSET.length, generator=generator) * scale + 5


def decoded(codec, latents):
    return torch.cat([block for _, block in codec.decode(latents)], dim=1)


@pytest.mark.parametrize("latent_dim", [1, 4, COUNT - 1])
def test_latents_variance_and_reconstruction_are_scikit_learns(matrix, latent_dim):
    """Latents up to sign and one scale; at full rank the checkpoints come back."""
    codec = LinearCodec.fit(Models(SUBSET, matrix), latent_dim)
    latents = codec.latents
    normalised = codec.normalisation.apply(matrix).double().numpy()
    pca = PCA(latent_dim, svd_solver="full").fit(normalised)
    scores = pca.transform(normalised)
    expected = scores / scores[:, 0].std(ddof=1)
    signs = np.sign((latents.numpy() * expected).sum(0))
    np.testing.assert_allclose(latents, expected * signs, atol=1e-5)
    np.testing.assert_allclose(codec.variance, pca.explained_variance_, rtol=1e-6)
    again = torch.from_numpy(pca.inverse_transform(scores)).float()
    torch.testing.assert_close(
        decoded(codec, latents), codec.normalisation.invert(again), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("values", [1, 60, 100, 336])
def test_parts_of_any_size_give_the_same_and_are_no_larger(matrix, monkeypatch, values):
    whole = LinearCodec.fit(Models(SUBSET, matrix), 5)
    expected = decoded(whole, whole.latents)
    monkeypatch.setattr(subset, "CHUNK", values)
    parts = LinearCodec.fit(Models(SUBSET, matrix), 5)
    torch.testing.assert_close(parts.latents, whole.latents, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(decoded(parts, whole.latents), expected, rtol=1e-6, atol=1e-6)
    blocks = [block for _, block in parts.decode(parts.latents)]
    assert max(block.numel() for block in blocks) <= max(values, COUNT)


@pytest.mark.parametrize(
    ("different", "message"),
    [
        (12, "latent_dim: 12 is more than the 11 directions in which the 12 checkpoints differ"),
        (7, "latent_dim: 12 is more than the 6 directions .* linear can have 1 to 6"),
        (1, "no direction: the 12 checkpoints are equal"),
    ],
)
def test_more_components_than_directions_are_refused(matrix, different, message):
    matrix[different:] = matrix[different - 1].clone()
    with pytest.raises(InputError, match=message):
        LinearCodec.fit(Models(SUBSET, matrix), COUNT)


def test_a_checkpoint_that_is_not_finite_is_refused(matrix):
    matrix[3, 4] = float("inf")
    with pytest.raises(InputError, match=r"checkpoints: .* rows are not finite"):
        LinearCodec.fit(Models(SUBSET, matrix), 5)


def test_the_largest_entry_of_a_component_is_positive(matrix):
    dual = LinearCodec.fit(Models(SUBSET, matrix), 5).dual
    assert (dual.gather(0, dual.abs().argmax(0, keepdim=True)) > 0).all()


@pytest.fixture
def saved(matrix, tmp_path):
    """A file of checkpoints and one of the codec that was fitted to them."""
    stack, file = tmp_path / "checkpoints.safetensors", tmp_path / "codec.safetensors"
    write_rows(stack, SUBSET, COUNT, matrix)
    LinearCodec.fit(StackFile(stack), 5).save(file)
    return stack, file


def test_a_codec_on_disk_comes_back_and_is_small(saved, matrix):
    stack, file = saved
    codec, again = LinearCodec.fit(Models(SUBSET, matrix), 5), load_codec(file, stack)
    assert torch.equal(decoded(again, again.latents), decoded(codec, codec.latents))
    assert torch.equal(again.normalisation.std, codec.normalisation.std)
    assert set(load_tensors(file)[0]) == {"dual", "variance", "mean", "std"}


def test_other_checkpoints_are_refused(saved, matrix, tmp_path):
    fewer = tmp_path / "fewer.safetensors"
    write_rows(fewer, SUBSET, 6, matrix[:6])
    with pytest.raises(InputError, match="and the checkpoints are of different runs"):
        load_codec(saved[1], fewer)


def test_a_round_trip_writes_the_checkpoints_again(saved, matrix, tmp_path):
    round_trip(saved[0], COUNT - 1, COUNT + 3, tmp_path / "again.safetensors")
    found = load_stack(tmp_path / "again.safetensors")[1]
    expected = torch.cat([matrix, matrix[:3]])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


# The stages with this codec, at toy sizes


@pytest.fixture(scope="module")
def linear_raw(tiny_raw) -> dict:
    """By tensor: a parameter that differs in its last digits alone would count like the others."""
    own = {"autoencoder.kind": "linear", "autoencoder.latent_dim": 11, "novelty.audit": False}
    own |= {"autoencoder.normalise": "tensor", "generate.trajectories": 2}
    return change(tiny_raw, **own, generate__trajectory_every=2)


@pytest.fixture(scope="module")
def linear(finished, linear_raw, tmp_path_factory) -> Path:
    """The finished run, gone on with from the codec."""
    folder = tmp_path_factory.mktemp("linear") / "run"
    shutil.copytree(finished, folder)
    names = ("train_autoencoder", "train_ddpm", "generate", "evaluate_generated")
    run_stages(folder, linear_raw, names)
    return folder


def test_reconstructed_models_predict_as_the_originals_and_nothing_temporary_is_left(linear):
    metrics = json.loads((linear / "metrics/train_autoencoder.json").read_text())
    assert metrics["r2"] == pytest.approx(1, abs=1e-9)
    originals = load_tensors(linear / "data/predictions_originals.safetensors")[0]
    reconstructed = load_tensors(linear / "data/predictions_generated.safetensors")[0]
    agree = originals["original.test"][[0, 4, 7, 11]] == reconstructed["reconstructed.test"]
    assert agree.float().mean() > 0.99  # rounding may tip an image in a thousand
    assert not list((linear / ".work").glob("tmp*"))
    assert not list((linear / "data").glob(".*"))


def test_generated_models_are_the_decoded_latents(linear):
    codec = load_codec(
        linear / "models/autoencoder.safetensors", linear / "data/checkpoints.safetensors"
    )
    latents = load_tensor(linear / "data/generated_latents.safetensors", "latents")
    saved = load_stack(linear / "data/generated.safetensors")[1]
    expected = decoded(codec, latents)
    torch.testing.assert_close(saved, expected, rtol=1e-4, atol=1e-5)  # threads sum differently


@pytest.fixture
def again(linear, tmp_path) -> Path:
    return Path(shutil.copytree(linear, tmp_path / "copy"))


def test_noise_has_no_effect(again, linear_raw):
    before = hashes(again)
    run_stages(again, change(linear_raw, noise__latent=3.0), ("train_autoencoder",))
    assert {name for name, value in hashes(again).items() if before[name] != value} == {
        "params.yaml"
    }


def test_checkpoints_of_another_run_are_one_line_and_outputs_stay(again, linear_raw, capsys):
    shutil.copyfile(again / "data/fresh.safetensors", again / "data/checkpoints.safetensors")
    before = hashes(again)
    with pytest.raises(SystemExit):
        run_stages(again, linear_raw, ("generate",))
    assert "and the checkpoints are of different runs" in capsys.readouterr().err
    assert hashes(again) == before

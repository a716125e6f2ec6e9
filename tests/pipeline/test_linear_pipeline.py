"""The whole pipeline through the linear codec, at toy sizes."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from pdiff.autoencoder.codec import load_codec
from pdiff.core.files import load_tensor, load_tensors
from pdiff.export import main
from pdiff.parameters.stack import load_stack
from tests.conftest import change
from tests.pipeline.test_smoke import hashes
from tests.toys.pipeline import run_stages


@pytest.fixture(scope="module")
def linear_raw(tiny_raw) -> dict:
    """By tensor: a parameter that differs in its last digits alone would count like the others."""
    own = {"autoencoder.kind": "linear", "autoencoder.latent_dim": 11, "subset.select": "all"}
    own |= {"autoencoder.normalise": "tensor", "generate.trajectories": 2}
    return change(tiny_raw, **own, generate__trajectory_every=2)


@pytest.fixture(scope="module")
def linear(linear_raw, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("linear") / "run"
    run_stages(folder, linear_raw)
    return folder


def test_the_reconstruction_is_exact(linear):
    metrics = json.loads((linear / "metrics/train_autoencoder.json").read_text())
    assert metrics["r2"] == pytest.approx(1, abs=1e-9)
    originals = load_tensors(linear / "data/predictions_originals.safetensors")[0]
    reconstructed = load_tensors(linear / "data/predictions_generated.safetensors")[0]
    agree = originals["original.test"][[0, 4, 7, 11]] == reconstructed["reconstructed.test"]
    assert agree.float().mean() > 0.99  # rounding may tip an image in a thousand


def test_generated_models_are_the_decoded_latents(linear):
    codec = load_codec(
        linear / "models/autoencoder.safetensors", linear / "data/checkpoints.safetensors"
    )
    latents = load_tensor(linear / "data/generated_latents.safetensors", "latents")
    matrix = torch.cat([block for _, block in codec.decode(latents)], dim=1)
    saved = load_stack(linear / "data/generated.safetensors")[1]
    torch.testing.assert_close(saved, matrix, rtol=1e-4, atol=1e-5)  # threads sum in other orders


def test_noise_has_no_effect(linear, linear_raw, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(linear, folder)
    run_stages(folder, change(linear_raw, noise__latent=3.0), ("train_autoencoder",))
    changed = {name for name, value in hashes(linear).items() if hashes(folder)[name] != value}
    assert changed == {"params.yaml"}


def test_nothing_temporary_is_left(linear):
    assert not list((linear / ".work").glob("tmp*"))
    assert not list((linear / "data").glob(".*"))


@pytest.mark.parametrize("group", ["generated", "reconstructed"])
def test_a_model_is_exported_as_it_was_evaluated(linear, tmp_path, monkeypatch, group):
    monkeypatch.chdir(linear)
    file = tmp_path / "model.safetensors"
    assert main(["2", "--group", group, "--to", str(file)]) == 0
    subset, matrix = load_stack(Path("data/generated.safetensors"))
    if group == "reconstructed":
        _, matrix = load_stack(Path("data/checkpoints.safetensors"))
        matrix = matrix[[0, 4, 7, 11]]
    state = load_tensors(file)[0]
    exported = torch.cat([state[name].flatten() for name in subset.names])
    torch.testing.assert_close(exported, matrix[2], rtol=1e-5, atol=1e-6)


def test_checkpoints_of_another_run_are_one_line_and_outputs_stay(
    linear, linear_raw, finished, tmp_path, capsys
):
    folder = tmp_path / "copy"
    shutil.copytree(linear, folder)
    other = finished / "data/checkpoints.safetensors"
    shutil.copyfile(other, folder / "data/checkpoints.safetensors")
    before = hashes(folder)
    with pytest.raises(SystemExit):
        run_stages(folder, linear_raw, ("generate",))
    assert "and the checkpoints are of different runs" in capsys.readouterr().err
    assert hashes(folder) == before

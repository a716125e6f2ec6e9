"""Table 13: peak memory of trainings, computed and measured, and what its rows say."""

import math

import pandas as pd
import pytest
import torch
import yaml

from pdiff.config import AutoencoderConfig
from pdiff.paper import cli, memory
from pdiff.paper.memory import Peak, StorageCounter, Training, compute_peak, measure_peak
from tests.conftest import ROOT

GIB = 2**30
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
SMALL = {"channels": [2, 4], "kernel_size": 3, "batch_size": 6, "optimizer": "adamw"}
AUTOENCODER = PARAMS["autoencoder"] | SMALL | {"encode_norm": "batch", "decode_norm": "sample"}
DDPM = PARAMS["ddpm"] | {"channels": [2, 4, 2], "kernel_size": 3, "batch_size": 6}


def autoencoder(length=64, latent=8, **changes):
    return Training("autoencoder", length, latent, AUTOENCODER | changes)


def row(parameters, mode=memory.PAPERS, net="autoencoder"):
    (found,) = (
        t for t in memory.trainings() if (t.parameters, t.mode, t.net) == (parameters, mode, net)
    )
    return found


def test_storages_count_while_they_live():
    with StorageCounter() as counter:
        a = torch.zeros(100)
        view = a[:50]  # no storage of its own
        b = a + 1
        assert counter.now == 800
        del a, b
        assert counter.now == 400  # the view holds a's
        del view
    assert (counter.now, counter.peak) == (0, 800)


def test_adamw_holds_two_numbers_for_each_weight():
    """Beside the weight itself; Adafactor next to none."""
    adamw, adafactor = (  # dense layers that outweigh all else
        compute_peak(autoencoder(latent=1000, optimizer=name), "float32").before
        for name in ("adamw", "adafactor")
    )
    dense = 64 * 1000 + 1000 * 1000 + 1000 * 64
    assert adamw == pytest.approx(3 * 4 * dense, rel=0.02)
    assert adafactor == pytest.approx(4 * dense, rel=0.02)


def test_what_a_chain_keeps_for_its_backward_pass_is_counted_by_hand():
    with StorageCounter() as counter:
        x = torch.zeros(1000, 8)
        weight = torch.zeros(8, 8, requires_grad=True)
        y = (x @ weight).relu() @ weight
    # x, relu's output, y and the weight live; at relu the first product did too, but y did not
    assert counter.now == counter.peak == 4 * (3 * 8000 + 64)
    assert y.requires_grad


@pytest.mark.parametrize("kind", ["conv", "vae"])
def test_the_ways_to_save_memory_do(kind):
    big = {"length": 4096, "kind": kind, "batch_size": 60}
    plain, checkpointing, micro = (
        compute_peak(autoencoder(**big, **changes), "float32").peak
        for changes in ({}, {"checkpointing": True}, {"micro_batch": 20})
    )
    assert micro < checkpointing < 0.8 * plain


def test_half_precision_halves_the_activations():
    single, half = (
        compute_peak(autoencoder(8192, batch_size=400), p).peak for p in ("float32", "bfloat16")
    )
    assert 0.45 < half / single < 0.75


def test_the_denoisers_memory_grows_with_the_latent():
    short, long = (
        compute_peak(Training("denoiser", 0, n, DDPM), "float32").peak for n in (64, 640)
    )
    assert long > 5 * short


def test_the_authors_measure_the_denoiser_with_the_autoencoder_around_it():
    """Its weights stay on the GPU, and decoding a batch takes more than the denoiser's step."""
    alone, resident = (
        compute_peak(row(30_016, mode, "denoiser"), "bfloat16")
        for mode in (memory.PAPERS, memory.RESIDENT)
    )
    values = row(30_016).values | {"latent_dim": 256}
    codec = memory.make_autoencoder(30_016, AutoencoderConfig.model_validate(values))
    weights = sum(tensor.numel() for tensor in codec.parameters()) * 4
    assert resident.before - alone.before == pytest.approx(weights, rel=0.05)
    assert resident.peak > 3 * alone.peak
    assert not torch.is_autocast_enabled("cpu")  # it does not stay on behind the step


@pytest.mark.slow
def test_a_measured_peak_is_near_the_computed_one(monkeypatch):
    monkeypatch.setenv("PDIFF_DEVICE", "cpu")
    training = autoencoder(100_000, channels=[8, 8], batch_size=50)
    computed, measured = compute_peak(training, "float32").peak, measure_peak(training).peak
    assert computed < measured < 1.5 * computed


@pytest.mark.slow
def test_the_linear_codec_is_measured_whole_in_a_process_of_its_own(tmp_path, monkeypatch):
    """It holds the checkpoints at least once, and leaves no file behind."""
    monkeypatch.chdir(tmp_path)
    found = measure_peak(Training("linear", 200_000, 19, {"checkpoints": 20, "models": 5}))
    assert found.peak > 20 * 200_000 * 4
    assert list(tmp_path.iterdir()) == []


# the table


def test_the_papers_numbers_stand_beside_its_own_way_of_training_alone():
    assert row(300_288).paper == 44882
    assert row(300_288, memory.RESIDENT, "denoiser").paper == 12942
    assert math.isnan(row(300_288, net="denoiser").paper)
    assert math.isnan(row(300_288, "checkpointing").paper)
    assert math.isnan(row(11_689_512).paper)


@pytest.mark.parametrize(
    ("size", "latent", "components"), [(2048, 128, 128), (100_288, 512, 299), (300_288, 1024, 299)]
)
def test_rows_have_the_papers_latents_widths_and_batch(size, latent, components):
    """The linear codec has fewer components than checkpoints."""
    assert row(size).latent == row(size, net="denoiser").latent == latent
    assert row(size).values["channels"] == [64, 128, 256, 256, 32]
    assert row(size).values["batch_size"] == 50
    assert row(size, memory.LINEAR, "linear").latent == components


def test_without_a_gpu_only_small_rows_are_measured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(memory, "compute_peak", lambda training, precision: Peak(GIB, 0))
    monkeypatch.setattr(memory, "available_memory", lambda: 3 * GIB)
    assert memory.why_not(row(2048), full=False) == ""
    assert memory.why_not(row(300_288), full=False) == "not measured without --full"
    assert memory.why_not(row(300_288), full=True) == ""
    assert memory.why_not(row(300_288, memory.LINEAR, "linear"), full=False) == ""
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * GIB)
    assert memory.why_not(row(300_288), full=True) == "too large for this machine"


def test_the_table_is_written(tmp_path, monkeypatch):
    rows = [row(2048), row(300_288, "checkpointing"), row(2048, memory.LINEAR, "linear")]
    monkeypatch.setattr(memory, "trainings", lambda: rows)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(memory, "compute_peak", lambda training, precision: Peak(GIB, GIB // 2))
    monkeypatch.setattr(memory, "measure_peak", lambda training: Peak(2 * GIB, GIB))
    assert cli.main(["13", "--out", str(tmp_path)]) == 0
    frame = pd.read_csv(tmp_path / "table_13.csv")
    assert list(frame["measured"].fillna(-1)) == [2048, -1, 2048]
    assert list(frame["ours, bfloat16 (computed)"].fillna(-1)) == [1024, 1024, -1]
    text = (tmp_path / "table_13.md").read_text()
    assert "| autoencoder | 2048 | 128 | as in the paper | 658 | 1024 | 1024 | 512 |" in text
    assert "| autoencoder | 300288 | 1024 | checkpointing | - | 1024 |" in text


def test_a_dry_run_lists_the_rows(monkeypatch, capsys):
    rows = [row(300_288, "checkpointing")]
    monkeypatch.setattr(memory, "trainings", lambda: rows)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["13", "--dry-run"]) == 0
    assert "300,288 parameters, checkpointing: not measured" in capsys.readouterr().out

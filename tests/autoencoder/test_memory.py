"""Peak memory of trainings, computed and measured."""

import pytest
import torch

from pdiff.paper.training_memory import (
    StorageCounter,
    Training,
    available_memory,
    compute_peak,
    measure_peak,
)
from pdiff.system.errors import InputError

AUTOENCODER = {
    **{"kind": "conv", "channels": [2, 4], "kernel_size": 3, "latent_dim": 8, "steps": 1},
    **{"batch_size": 6, "optimizer": "adamw", "lr": 0.01, "weight_decay": 0.0},
    **{"checkpointing": False, "micro_batch": None, "kl_weight": 1.0},
    **{"encode_norm": "batch", "decode_norm": "sample", "min_r2": 0.0, "normalise": "tensor"},
}
DDPM = {
    **{"channels": [2, 4, 2], "kernel_size": 3, "timesteps": 10, "beta_start": 0.1},
    **{"beta_end": 0.2, "steps": 1, "batch_size": 6, "lr": 0.01, "weight_decay": 0.0},
    **{"standardise": "none", "prediction": "epsilon", "held_out": 0.0, "ema": 0.0},
}


def autoencoder(length=64, **changes):
    return Training("autoencoder", length, AUTOENCODER | changes)


def test_storages_count_while_they_live():
    with StorageCounter() as counter:
        a = torch.zeros(100)
        view = a[:50]  # no storage of its own
        b = a + 1
        assert counter.now == 800
        del b
        assert counter.now == 400
        del a
        assert counter.now == 400  # the view holds it
        del view
    assert (counter.now, counter.peak) == (0, 800)


def test_adamw_holds_two_numbers_for_each_weight():
    """Beside the weight itself; Adafactor next to none."""
    wide = {"latent_dim": 1000}  # dense layers that outweigh all else
    adamw, adafactor = (
        compute_peak(autoencoder(**wide, optimizer=name), "float32").before
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


def test_a_computed_peak_repeats():
    assert compute_peak(autoencoder(), "float32") == compute_peak(autoencoder(), "float32")


def test_the_denoisers_memory_grows_with_the_latent():
    short, long = (compute_peak(Training("denoiser", n, DDPM), "float32").peak for n in (64, 640))
    assert long > 5 * short


@pytest.mark.slow
def test_a_measured_peak_is_near_the_computed_one(monkeypatch):
    monkeypatch.setenv("PDIFF_DEVICE", "cpu")
    training = autoencoder(100_000, channels=[8, 8], batch_size=50)
    computed, measured = compute_peak(training, "float32").peak, measure_peak(training).peak
    assert computed < measured < 1.5 * computed


def test_a_training_that_fails_says_why():
    with pytest.raises(
        InputError, match=r"autoencoder of 64: .*InputError: .*kernel_size must be odd"
    ):
        measure_peak(autoencoder(kernel_size=4))


def test_the_machine_has_memory():
    assert available_memory() > 2**20


def test_the_linear_codec_is_measured_whole(tmp_path, monkeypatch):
    """It holds the checkpoints at least once, and leaves no file behind."""
    monkeypatch.chdir(tmp_path)
    values = {"checkpoints": 20, "models": 5, "latent_dim": 19}
    found = measure_peak(Training("linear", 200_000, values))
    assert found.peak > 20 * 200_000 * 4
    assert list(tmp_path.iterdir()) == []

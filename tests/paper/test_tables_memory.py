"""Table 13: what its rows are and what it says of them."""

import math

import pandas as pd
import pytest
import torch

from pdiff.paper import cli, memory
from pdiff.paper.exactness import Check, differences
from pdiff.paper.training_memory import Peak
from tests.autoencoder.test_memory import AUTOENCODER

GIB = 2**30


def line(parameters, mode, net="autoencoder"):
    (found,) = (
        row
        for row in memory.lines()
        if (row.parameters, row.mode, row.training.net) == (parameters, mode, net)
    )
    return found


def test_the_papers_numbers_stand_beside_its_own_way_of_training_alone():
    assert line(300_288, memory.PLAIN).paper == 44882
    assert line(300_288, memory.PLAIN, "denoiser").paper == 12942
    assert math.isnan(line(300_288, "checkpointing").paper)
    assert math.isnan(line(11_689_512, memory.PLAIN).paper)


@pytest.mark.parametrize(
    ("parameters", "latent"), [(2048, 128), (30016, 256), (100288, 512), (300288, 1024)]
)
def test_rows_have_the_papers_latents_widths_and_batch(parameters, latent):
    values = line(parameters, memory.PLAIN).training.values
    assert values["latent_dim"] == latent
    assert values["channels"] == [64, 128, 256, 256, 32]
    assert values["batch_size"] == 50


def test_without_a_gpu_only_small_rows_are_measured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(memory, "compute_peak", lambda training, precision: Peak(GIB, 0))
    monkeypatch.setattr(memory, "available_memory", lambda: 3 * GIB)
    small, large = line(2048, memory.PLAIN), line(300_288, memory.PLAIN)
    assert memory._reason(small, full=False) == ""
    assert memory._reason(large, full=False) == "not measured without --full"
    assert memory._reason(large, full=True) == ""
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * GIB)
    assert memory._reason(large, full=True) == "too large for this machine"


def test_the_linear_codec_has_fewer_components_than_checkpoints():
    few, many = (line(size, memory.MODES[-1].label, "linear") for size in (2048, 300_288))
    assert few.latent == 128 and many.latent == 299
    assert memory._reason(many, full=False) == ""


def test_a_codec_that_is_not_trained_has_no_computed_peak(monkeypatch):
    monkeypatch.setattr(memory, "measure_peak", lambda training: Peak(GIB, GIB // 2))
    row = memory._row(line(2048, memory.MODES[-1].label, "linear"), full=False)
    assert row["measured"] == 1024 and math.isnan(row["ours, bfloat16 (computed)"])


def test_the_table_and_its_notes_are_written(tmp_path, monkeypatch, capsys):
    rows = [line(2048, memory.PLAIN), line(300_288, "checkpointing")]
    monkeypatch.setattr(memory, "lines", lambda: rows)
    monkeypatch.setattr(memory, "exactness", lambda values: ["2,048 parameters: 1.0e-07"])
    monkeypatch.setattr(memory, "compute_peak", lambda training, precision: Peak(GIB, GIB // 2))
    monkeypatch.setattr(memory, "measure_peak", lambda training: Peak(2 * GIB, GIB))
    monkeypatch.setenv("PDIFF_TRACKING", "off")
    assert cli.main(["13", "--out", str(tmp_path)]) == 0
    frame = pd.read_csv(tmp_path / "table_13.csv")
    assert list(frame["measured"].fillna(-1)) == [2048, -1]
    assert list(frame["ours, bfloat16 (computed)"]) == [1024, 1024]
    text = (tmp_path / "table_13.md").read_text()
    assert "| autoencoder | 2048 | 128 | as in the paper | 658 | 1024 |" in text
    assert "- 2,048 parameters: 1.0e-07" in text


def test_a_dry_run_lists_the_rows(monkeypatch, capsys):
    rows = [line(300_288, "checkpointing")]
    monkeypatch.setattr(memory, "lines", lambda: rows)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["13", "--dry-run"]) == 0
    assert "300,288 parameters, checkpointing: not measured" in capsys.readouterr().out


def test_all_ways_train_the_same_net(monkeypatch):
    monkeypatch.setenv("PDIFF_DEVICE", "cpu")
    found = differences(Check(64, 8, 6, 2, torch.float64), AUTOENCODER)
    assert found.keys() == {"checkpointing", "micro_batch 2"}
    assert max(found.values()) < 1e-10
    assert torch.get_default_dtype() == torch.float32

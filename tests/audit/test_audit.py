"""The stages `novelty` and `audit` of a whole toy pipeline, recomputed plainly from its files."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from pdiff.baselines.registry import ordered
from pdiff.evaluation.predictions import load_predictions
from tests.conftest import change
from tests.toys.pipeline import run_stages

PREDICTIONS = ("data/predictions_originals.safetensors", "data/predictions_generated.safetensors")


def evaluated(folder: Path, split: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Every group's predictions on one split, and its labels."""
    groups = {}
    for path in PREDICTIONS:
        found, labels = load_predictions(folder / path, split)
        groups |= {group: part for group, part in found.items() if group != "trajectory"}
    return groups, labels


def test_every_group_that_was_evaluated_stands_in_every_table(finished):
    groups = ordered(evaluated(finished, "test")[0])
    for name in ("groups", "copying", "distances", "similarity_matrix"):
        table = pd.read_csv(finished / f"report/audit/{name}.csv")
        assert table["group"].tolist() == groups, name


def test_the_chosen_model_is_chosen_by_validation(finished):
    summary = pd.read_csv(finished / "report/summary.csv").set_index("group")
    (choosing, labels), (reported, true) = (evaluated(finished, s) for s in ("validation", "test"))
    for group in ("original", "generated", "noised_0.15"):
        best = (choosing[group] == labels).double().mean(1).argmax()
        expected = (reported[group][best] == true).double().mean().item()
        assert summary.loc[group, "accuracy_chosen"] == pytest.approx(expected, abs=1e-6)


def test_without_an_audit_nothing_but_the_rivals_is_missing(finished, tiny_raw, tmp_path):
    copied = Path(shutil.copytree(finished, tmp_path / "copy"))
    stages = ("finetune_again", "evaluate_originals", "evaluate_generated", "novelty", "audit")
    run_stages(copied, change(tiny_raw, novelty__audit=False), stages)
    assert list((copied / "report/audit").iterdir()) == []
    assert json.loads((copied / "metrics/audit.json").read_text()) == {}
    assert json.loads((copied / "data/greedy_soup.json").read_text())["members"] == []
    for name in ("report/summary.csv", "report/similarity.csv", "metrics/novelty.json"):
        assert (copied / name).read_bytes() == (finished / name).read_bytes(), name


def test_the_report_leads_with_the_fit(finished):
    text = (finished / "report/audit/report.html").read_text()
    top = text.partition("<main>")[0]
    assert top.index("The codec explains R²") < top.index("accuracy difference (%)")
    assert "no claim about the method can be made from this run" in top  # 20 steps teach nothing
    numbers = json.loads((finished / "metrics/audit.json").read_text())
    assert {"interpolation_index", "z_second_run", "accuracy_over_gaussian_full"} < set(numbers)

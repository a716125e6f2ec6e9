"""What the pipeline asks of a task, shown with one that a single file adds."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from pdiff import outputs, tasks
from pdiff.config import parse_params
from pdiff.core.files import load_tensors
from pdiff.evaluation.predictions import load_scores
from pdiff.images.batches import load_images
from pdiff.system.errors import InputError
from pdiff.tasks.registry import make_task
from tests.conftest import ROOT, change
from tests.toys.pipeline import run_stages, without_figures

TOYS = ROOT / "tests/toys/tasks"
CHANGES = {
    "task.name": "regression",
    "task.judging": {"close": 0.02},
    "base.net": "brightness",
    "subset.select": "2",
    "finetune.lr": 0.01,
    "autoencoder.latent_dim": 6,
}


@pytest.fixture(scope="module")
def raw_toy(tiny_raw):
    return change(tiny_raw, **CHANGES)


@pytest.fixture(scope="module")
def toy(raw_toy, tmp_path_factory) -> Path:
    """A folder in which the whole pipeline ran on the toy task."""
    folder = tmp_path_factory.mktemp("regression")
    with pytest.MonkeyPatch.context() as patch, without_figures():
        patch.setattr(tasks, "__path__", [*tasks.__path__, str(TOYS)])
        run_stages(folder, raw_toy)
    return folder


def test_the_scores_of_a_task_reach_the_tables(toy):
    table = pd.read_csv(toy / outputs.SUMMARY).set_index("group")
    scores, name, larger = load_scores(toy / outputs.PREDICTIONS_GENERATED, "test")
    assert (name, larger) == ("squared error", False)
    own = table.loc["generated"]
    assert own["score"] == "squared error"
    assert own["score_mean"] == pytest.approx(scores["generated"].mean().item(), abs=1e-6)
    assert own["score_best"] == pytest.approx(scores["generated"].min().item(), abs=1e-6)


def test_the_chosen_model_has_the_best_score_on_the_other_split(toy):
    models = pd.read_csv(toy / outputs.MODELS)
    own = models[models["group"] == "generated"]
    chosen = own.loc[own["choosing_score"].idxmin(), "score"]
    table = pd.read_csv(toy / outputs.SUMMARY).set_index("group")
    assert table.loc["generated", "score_chosen"] == pytest.approx(chosen, abs=1e-6)


def test_metrics_hold_the_scores_of_the_paper_s_groups(toy):
    found = json.loads((toy / outputs.NOVELTY_METRICS).read_text())["score"]
    assert {"original_best", "original_mean", "ensemble", "generated_best"} <= found.keys()
    assert found["generated_best"] <= found["generated_mean"]


def test_the_base_net_is_named_by_the_task_s_metric_and_is_the_best_epoch(toy):
    metrics = json.loads((toy / outputs.BASE_METRICS).read_text())
    curve = pd.read_csv(toy / outputs.BASE_CURVE)["base_validation_squared error"]
    assert metrics["base_validation_squared error"] == curve.min()


def test_accuracy_is_the_share_of_images_that_a_task_calls_right(toy):
    tensors, _ = load_tensors(toy / outputs.PREDICTIONS_GENERATED)
    rows = tensors["generated.test"].float().mean(1)
    models = pd.read_csv(toy / outputs.MODELS)
    own = models.loc[models["group"] == "generated", "accuracy"]
    assert own.tolist() == pytest.approx(rows.tolist(), abs=1e-6)


def test_the_report_shows_the_scores_and_the_task_s_picture(toy):
    page = (toy / outputs.AUDIT / "report.html").read_text()
    assert "squared error mean" in page
    assert re.search(r"6 generated models, mean squared error \d+\.\d\d: the originals ", page)
    assert 'alt="Six test images."' in page


def test_examples_come_back_from_disk(toy):
    images = load_images(toy / outputs.IMAGES)
    found = images.test.columns
    assert torch.equal(found["brightness"], found["images"].mean((1, 2, 3)))
    assert images.test.labels.tolist() == [1] * len(images.test)


def test_an_unknown_task_names_those_that_there_are(raw):
    params = parse_params(change(raw, task__name="clasification"))
    with pytest.raises(InputError, match=r"unknown 'clasification'; known: .*did you mean class"):
        make_task(params.task, params.data)


def test_an_option_that_a_task_does_not_have_is_refused(raw):
    params = parse_params(change(raw, task__options={"size": 3}))
    with pytest.raises(InputError, match=r"task\.options: unknown key size"):
        make_task(params.task, params.data)

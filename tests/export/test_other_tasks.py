"""Models of other tasks than classification, taken away: whole nets that p-diff loads."""

from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from pdiff import outputs
from pdiff.config import parse_params
from pdiff.core.files import save_tensors
from pdiff.export.__main__ import main
from pdiff.export.model import load_model
from pdiff.export.upload import TASKS, _metadata, _results
from pdiff.nets.registry import save_net
from pdiff.parameters.stack import load_stack, write_rows
from pdiff.parameters.subset import select_subset
from pdiff.tasks.registry import make_task
from tests.conftest import composed
from tests.toys.exports import code_of, run_card

KINDS = {  # presets, classes, size, metric, whether larger is better, the best of 3
    "detection": (("data=bccd", "net=fcos_mobilenet_025"), 4, 64, "AP", True, 2),
    "segmentation": (("data=camvid", "net=fcn_mobilenet_025"), 3, 32, "mIoU", True, 2),
    "generation": (("data=mnist_images", "net=unet_mini"), 10, 16, "FID", False, 0),
}


@pytest.fixture(params=KINDS)
def task(request, tmp_path, monkeypatch) -> str:
    """What an export reads of a run with three generated models, in the working directory."""
    presets, classes, size, metric, larger, _ = KINDS[request.param]
    monkeypatch.chdir(tmp_path)
    raw = composed(*presets, "data.root=/images")
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    params = parse_params(raw)
    net = make_task(params.task, params.data).build(params.base.net, classes, size)
    subset = select_subset(net, params.subset.select)
    matrix = torch.randn(3, subset.length, generator=torch.Generator().manual_seed(0))
    save_net(outputs.BASE, net, params.base.net, classes, size)
    write_rows(outputs.GENERATED, subset, 3, matrix)
    models = {"group": "generated", "model": range(3), "accuracy": 0.5, "choosing_accuracy": 0.5}
    models |= {"max_similarity": 0.75, "score": [40.0, 41, 42], "choosing_score": [30.0, 31, 32]}
    pd.DataFrame(models).to_csv(outputs.MODELS, index=False)
    save_tensors(outputs.PREDICTIONS_GENERATED, {"a": torch.zeros(1)}, metric=metric, larger=larger)
    return request.param


def test_the_best_by_the_tasks_own_metric_is_taken_and_its_card_loads_it(task, capsys):
    _, classes, _, metric, _, best = KINDS[task]
    assert main(["best", "--to", "model.safetensors"]) == 0
    score, chosen = 40 + best, 30 + best
    said = f"generated model {best}, the best of 3 on validation ({chosen}.00)"
    assert f"{said}; {metric} {score}.00 on test\n" in capsys.readouterr().out
    card = Path("model.md").read_text()
    assert f"A net for the task `{task}`." in card and "classifier for" not in card
    assert f"| | {metric}, test | {metric}, validation |" in card
    assert f"| this model | {score}.00 | {chosen}.00 | 0.750 |" in card
    assert f"- `task`: name {task}, " in card
    assert f", {classes}, " in code_of(card)
    net, (subset, matrix) = run_card(card)["net"], load_stack(outputs.GENERATED)
    values = torch.cat([net.get_parameter(name).flatten() for name in subset.names])
    assert torch.equal(values, matrix[best]) and not net.training


def test_the_hub_is_told_the_task_and_its_metric(task):
    model, metric = load_model("1", "generated"), KINDS[task][3]
    metadata = _metadata(model)
    assert metadata["pipeline_tag"] == TASKS[task] and metadata["metrics"] == [metric]
    assert metadata["library_name"] == "pdiff" and "base_model" not in metadata
    found = [(r["task_type"], r["metric_type"], r["metric_value"]) for r in _results(model)]
    assert found == [(TASKS[task], metric, 41.0), (TASKS[task], metric, 31.0)]

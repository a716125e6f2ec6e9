"""Each benchmark runs at toy size; its numbers are those of the tables."""

import shutil
from pathlib import Path

import pytest
import yaml

from benchmarks import (
    end_to_end,
    evaluation,
    gpu,
    memory,
    sampling,
    similarity,
    start,
    timing,
    training,
)
from benchmarks.__main__ import BENCHMARKS, PAGE, write_section
from benchmarks.timing import Pair, duration, scaled, table
from pdiff.paper.experiments import make_experiment
from pdiff.tracking.made_by import outputs_of
from tests.conftest import change

TOYS = {
    "machine": timing.machine,
    "evaluation": lambda: evaluation.run({"test_resnet": 4}, few=3, size=32),
    "similarity": lambda: similarity.run(models=4, images=30, pairs=5),
    "sampling": lambda: sampling.run({"toy": (2, 4, 2)}, count=2),
    "start": lambda: start.run(repeats=1),
    "training": lambda: training.run(length=64, net="test_resnet", size=32),
}


@pytest.fixture
def quick(monkeypatch):
    """Toy widths, and one repeat of each."""
    monkeypatch.setattr(training, "PAPER", {"autoencoder": (2, 4), "ddpm": (2, 4, 2)})
    once = timing.time_pair
    for module in (evaluation, similarity, sampling, training):
        monkeypatch.setattr(module, "time_pair", lambda ours, plain: once(ours, plain, 1))
    monkeypatch.setattr(evaluation, "REPEATS", 1)
    monkeypatch.setattr(start, "ALL", "pass")  # and once, without a warm-up: it takes seconds
    monkeypatch.setattr(
        start, "time_pair", lambda *pair: [[timing.once(step)] for step in pair[:2]]
    )


ENDS = {
    "evaluation": "0 of 12 predictions differ.",
    "similarity": "0 of 5 similarities differ.",
}
"""Ours and the plain way agree."""


@pytest.mark.parametrize("name", TOYS)
def test_a_benchmark_runs_at_toy_size(quick, name):
    text = TOYS[name]()
    assert text.count("\n| ") != 1  # a table without rows would have one such line
    assert text.endswith(ENDS.get(name, ""))


def test_pipelines_whose_shared_stages_will_not_come_end_the_wait(tmp_path, capsys):
    gpu.run(
        tmp_path, dict.fromkeys(("cifar100", "cifar10"), tmp_path), [], ["cifar100_paper/0"], 600, 1
    )
    assert "cifar100_paper/0 cannot start: cifar100_base/0 is missing" in capsys.readouterr().out


def test_the_pipelines_of_a_gpu_compose_and_start_after_those_they_share_stages_with():
    found = gpu.jobs({"cifar100": Path("/a"), "cifar10": Path("/b")}, [])
    order = {job.name: place for place, job in enumerate(found)}
    assert len(order) == len(found)
    assert all(order[job.shares] < order[job.name] for job in found if job.shares)
    groups = {job.name.partition("/")[0]: job for job in found}
    for job in groups.values():
        make_experiment(job.overrides)


def test_stages_of_equal_parameters_and_inputs_are_taken_from_another_pipeline(
    tiny_raw, tmp_path, monkeypatch
):
    for stage in gpu.pipeline().values():
        for path in map((tmp_path / "other").joinpath, outputs_of(stage)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name)
    (tmp_path / "other/params.yaml").write_text(yaml.safe_dump(tiny_raw))
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    changed = change(tiny_raw, **{"noise.latent": 0.5})
    learned = {"train_autoencoder", "train_ddpm", "generate", "evaluate_generated"}
    after = learned | {"novelty", "audit"}
    assert gpu.share(changed, tmp_path / "other") == set(gpu.pipeline()) - after
    assert Path("models/base.safetensors").read_text() == "base.safetensors"
    assert not Path("models/autoencoder.safetensors").exists()
    (tmp_path / "other/data/held_back.safetensors").unlink()  # a stage that did not finish
    shutil.rmtree(tmp_path / "mine/data"), shutil.rmtree(tmp_path / "mine/models")
    for name in ("metrics", "plots"):
        shutil.rmtree(tmp_path / "mine" / name)
    assert "finetune" not in gpu.share(changed, tmp_path / "other")


@pytest.mark.nightly
def test_peak_memory_is_measured_in_processes_of_their_own():
    assert memory.run(length=2**12, models=12, parameters=2**18).count("| 100% |") == 2


@pytest.mark.nightly
def test_an_experiment_is_timed_stage_by_stage(tiny_raw, tmp_path):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_raw))
    text = end_to_end.run(tmp_path / "params.yaml")
    assert "| check_params | " in text and "x ours |" in text.splitlines()[-1]


def test_a_row_shows_the_median_of_the_paired_ratios():
    row = Pair("x", (1.0, 2.0, 4.0), scaled((1.0, 1.0, 1.0), 8), "how").row()
    assert row == ["x", "2 s (1 s to 4 s)", "8 s (8 s to 8 s)", "**4.0** (2.0 to 8.0)", "how"]
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| - | - |\n| 1 | 2 |"


@pytest.mark.parametrize(
    ("seconds", "text"), [(2e-4, "200 us"), (0.25, "250 ms"), (90, "90 s"), (600, "10 min")]
)
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


def test_a_section_of_the_page_is_replaced_and_the_rest_kept(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- end a -->\nafter\n")
    write_section(page, "a", r"new \1")
    assert page.read_text() == "before\n<!-- a -->\nnew \\1\n<!-- end a -->\nafter\n"
    with pytest.raises(ValueError, match="has no section b"):
        write_section(page, "b", "")


def test_the_page_has_a_section_for_each_benchmark_and_no_other():
    found = [line for line in PAGE.read_text().splitlines() if line.startswith("<!-- end ")]
    assert found == [f"<!-- end {name} -->" for name in BENCHMARKS]

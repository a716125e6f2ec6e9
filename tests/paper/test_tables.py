"""The paper's tables as sets of experiments: what they need, how they run, what comes out."""

import errno
import json
import math
import os
import re
import shutil
import subprocess
from hashlib import md5
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from pdiff import outputs
from pdiff.core.files import save_tensors, write_json
from pdiff.evaluation.predictions import save_picture
from pdiff.novelty.bootstrap import Replicates, save_replicates
from pdiff.novelty.summary import save_table
from pdiff.paper import cli, definitions, experiments, figures, results, runner
from pdiff.paper.cli import repeatable
from pdiff.paper.definitions import Row, names, table
from pdiff.paper.experiments import Experiment, Setting, make_experiment
from pdiff.paper.render import long_table, markdown, recipe_table
from pdiff.paper.results import Library, Measured, Result, difference
from pdiff.paper.runner import last_error
from pdiff.tracking.files import Folder
from tests.conftest import ROOT
from tests.toys.runs import cells, leave

CONF = ROOT / "pdiff/conf"


# what a table consists of


def row_of(name: str, label: str) -> Row:
    return next(row for row in table(name).rows if row.label == label)


def test_every_row_of_every_table_is_made_of_presets():
    rows = [row for name in names() for row in table(name).rows]
    assert len(rows) > 100
    for override in {override for row in rows for override in row.overrides}:
        assert (CONF / f"{override.replace('=', '/')}.yaml").exists(), override


@pytest.mark.parametrize("name", names())
def test_every_claim_and_number_of_a_table_belongs_to_a_row_and_a_measure(name):
    found = table(name)
    assert found.rows or found.kind != "experiments"
    labels = {row.label for row in found.rows}
    assert {label for _, *pair in found.claims for label, _ in pair} <= labels
    used = {*found.measures, *(measure for row in found.rows for measure in row.paper)}
    assert used <= results.MEASURES.keys()


def test_accuracies_of_the_paper_become_fractions_and_similarities_stay():
    row = row_of("4", "x10")
    assert row.paper["generated_best"] == pytest.approx(0.779)
    assert row.paper["generated_similarity_high"] == 0.87


@pytest.mark.parametrize(
    ("name", "label", "logged"),
    [
        *(("3a", "none", 0.7715), ("3c", "0.1", 0.7755), ("1", "Flowers, ResNet-18", 0.8086)),
        ("3c", "x10", None),
    ],
)
def test_a_row_finds_the_authors_log_of_its_presets_if_they_have_one(name, label, logged):
    found = row_of(name, label).authors().get("generated_best")
    assert found == (logged and pytest.approx(logged, abs=5e-5))


def test_a_new_table_is_one_entry_in_one_file(tmp_path, monkeypatch):
    content = yaml.safe_load(definitions.TABLES.read_text())
    content["tables"]["99"] = {
        "title": "a throw-away table",
        "measures": ["generated_best"],
        "rows": {"few": {"ablation": "checkpoints_10", "paper": [77.0]}, "all": {"paper": [77.9]}},
        "claims": [["more is better", "all", "few", "generated_best"]],
    }
    (tmp_path / "tables.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(definitions, "TABLES", tmp_path / "tables.yaml")
    assert cli.main(["99", "--no-run", "--any-code", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "table_99.md").read_text()
    assert "\n# Table 99: a throw-away table\n" in text
    assert "| all | 77.9 / 77.55 / not run | - | 0 | - |" in text
    assert "| more is better | - | - |" in text


def test_table_9_always_samples_with_ddpm():
    for row in table("9").rows:
        experiment = make_experiment(["recipe=quick", "data=digits", *row.overrides])
        assert experiment.params["generate"]["sampler"] == "ddpm"
        assert str(experiment.params["ddpm"]["timesteps"]) == row.label


def test_the_general_claims_are_about_the_default_row():
    about = {name: table(name).claims[0][1][0] for name in ("3a", "3c", "3e", "9")}
    assert about == {"3a": "both", "3c": "0.1", "3e": "300", "9": "1000"}


def test_table_5_shows_the_recipe_that_composes():
    recipe = recipe_table(table("5")).set_index("parameter")["ours"]
    assert recipe["autoencoder.lr"] == 2e-5
    assert recipe["data.crop_scale"] == [0.08, 1.0]


# experiments and stages


def quick(*overrides: str) -> Experiment:
    return make_experiment(["recipe=quick", "data=digits", "net=resnet18", *overrides])


def test_an_experiment_has_another_name_and_hash_for_other_parameters():
    one, other = quick("seed.model=1"), quick("seed.model=2")
    assert one.name.startswith("quick-digits-resnet18-s1-")
    assert one.sha != other.sha and one.name != other.name


def test_a_name_that_is_too_long_for_a_file_is_cut_and_stays_its_own():
    assert Setting("quick", "digits", "", ("a.b=0.5",)).name == "quick_digits_a.b_0.5"
    long = tuple(f"data.mean=[{i / 7}]" for i in range(60))
    one, other = (Setting("quick", "", "", sets).name for sets in (long, (*long, "a=b")))
    assert one.startswith("quick_data.mean") and len(one) < 100
    assert one != other and len(other) == len(one)


def test_the_folder_of_a_table_names_what_is_not_the_papers(monkeypatch):
    monkeypatch.setenv("DVC_ROOT", "/here")
    folders = {"": "results", "cifar100": "results", "digits": "results/paper_digits"}
    for data, folder in folders.items():
        assert cli.result_folder(Setting("paper", data, "")) == Path("/here", folder)
    elsewhere = ("data.root=/a",)  # where images lie tells nothing
    assert cli.result_folder(Setting("quick", "", "", elsewhere)) == Path("/here/results/quick")


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("epoch 1\nerror: autoencoder.lr: too much\n", "autoencoder.lr: too much"),
        ("error: mine\nERROR: failed to reproduce 'x': failed to run: python", "mine"),
        ("Traceback\nValueError: bug", "ValueError: bug"),
        ("", "no output"),
    ],
)
def test_the_line_that_says_why_is_found(log, line):
    assert last_error(log) == line


# which results count


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A project of its own in which the default experiment has run."""
    for name in ("pdiff", "stages", "dvc.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    experiments.code_hashes.cache_clear()
    folder = tmp_path / "run"
    make_result(folder, 0.8)
    source = leave(folder, quick())
    monkeypatch.setattr(results, "experiments", lambda here: [source])
    yield tmp_path
    experiments.code_hashes.cache_clear()


def test_a_result_is_found_by_its_parameters(workplace):
    assert Library().find(quick()).metrics["accuracy.generated_best"] == 0.8
    assert Library().find(quick("seed.model=1")) is None


def test_all_code_that_a_lock_names_has_a_hash_here():
    stages = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"].values()
    paths = {dep["path"] for stage in stages for dep in stage["deps"]}
    known = experiments.code_hashes()
    assert {path for path in paths if path.startswith(experiments.CODE)} <= known.keys()
    assert all(known.values())


def test_a_result_counts_while_the_rooms_of_its_stages_are_unchanged(workplace):
    (workplace / "pdiff").unlink()
    shutil.copytree(ROOT / "pdiff", workplace / "pdiff")
    for path, counts in (("pdiff/paper/cli.py", True), ("pdiff/diffusion/schedule.py", False)):
        with (workplace / path).open("a") as file:
            file.write("# a comment\n")
        experiments.code_hashes.cache_clear()
        assert (Library().find(quick()) is not None) == counts
    assert Library(any_code=True).find(quick()) is not None


def test_a_result_that_names_no_code_is_not_current(workplace):
    path = workplace / "run/dvc.lock"
    path.write_text("stages: {}")
    assert Library().find(quick()) is None
    path.unlink()
    assert Library().find(quick()) is None


def test_a_pipeline_that_ran_without_dvc_is_found_below_a_folder(workplace, monkeypatch):
    monkeypatch.setattr(results, "experiments", lambda here: [])
    folder = workplace / "gpu/group/0"
    make_result(folder, 0.7)
    source, lock = leave(folder, quick()), folder / "dvc.lock"
    source.verified = False
    [stage] = yaml.safe_load(lock.read_text())["stages"].values()
    novelty = folder / "metrics/novelty.json"
    hashes = {"metrics/novelty.json": md5(novelty.read_bytes()).hexdigest(), "report/a.png": "b"}
    outs = [{"path": path, "md5": digest} for path, digest in hashes.items()]
    lock.write_text(yaml.safe_dump({"stages": {"audit": stage | {"outs": outs}}}))
    assert not source.is_complete() and Library().find(quick()) is None
    found = Library(folders=[workplace / "gpu"])
    assert found.find(quick()).metrics["accuracy.generated_best"] == 0.7
    novelty.write_text(novelty.read_text().replace("0.7", "0.9"))
    assert Library(folders=[workplace / "gpu"]).find(quick()) is None


def test_an_output_that_is_not_checked_out_comes_from_the_cache(workplace):
    folder = workplace / "run"
    models, lock = folder / outputs.MODELS, folder / "dvc.lock"
    before, digest = pd.read_csv(models), md5(models.read_bytes()).hexdigest()
    outs = [{"path": str(outputs.MODELS), "md5": digest}]
    [stage] = yaml.safe_load(lock.read_text())["stages"].values()
    lock.write_text(yaml.safe_dump({"stages": {"all": stage | {"outs": outs}}}))
    there = workplace / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    there.parent.mkdir(parents=True)
    models.rename(there)
    pd.testing.assert_frame_equal(Library().find(quick()).frame(outputs.MODELS), before)
    there.unlink()
    assert Library().find(quick()).frame(outputs.MODELS) is None


def test_a_folder_without_pipelines_is_refused(tmp_path, capsys):
    arguments = ["3a", "--data", "digits", "--no-run", "--results", str(tmp_path)]
    assert cli.main(arguments) == 1
    assert f"--results: {tmp_path}: no pipeline below it" in capsys.readouterr().err


def test_a_result_of_only_some_stages_does_not_count(workplace):
    results.experiments(workplace)[0].verified = False
    assert Library().find(quick()) is None


def test_a_dry_run_names_what_would_run_and_when_each_stage_last_ran(workplace, capsys):
    for key, started, seconds in (("new", 2.0, 12.25), ("old", 1.0, 99.0)):
        (workplace / f".work/runs/{key}").mkdir(parents=True)
        record = {"stage": "train_ddpm", "status": "FINISHED", "key": key, "started": started}
        record |= {"timing": {"duration_s": seconds}, "tracked": True, "all_params": {}}
        (workplace / f".work/runs/{key}/train_ddpm.json").write_text(json.dumps(record))
    (workplace / ".work/runs/new/train_base.json").write_text('{"stage": "tr')
    arguments = ["3c", "--recipe", "quick", "--data", "digits", "--rows", "0.1;x10", "--dry-run"]
    assert cli.main(arguments) == 0
    output, errors = capsys.readouterr()
    assert "train_base.json is damaged and left aside: " in errors and errors.count("\n") == 1
    assert "table_3c: 2 experiments, 1 to run" in output
    assert "dvc exp run -S recipe=quick" in output and "ablation=latent_x10" in output
    assert re.search(r"train_ddpm +12\.2 s in new\n", output)
    assert re.search(r"train_base +not yet timed\n", output)
    assert not (workplace / "results").exists()


def test_without_dvc_a_table_says_how_to_be_made_of_what_is_there(workplace, monkeypatch, capsys):
    monkeypatch.setattr(runner, "has_dvc", lambda: False)
    arguments = ["3c", "--recipe", "quick", "--data", "digits", "--rows", "0.1;x10"]
    assert cli.main(arguments) == 1
    assert "1 experiments have no result" in capsys.readouterr().err
    assert cli.main([*arguments, "--no-run"]) == 0
    assert "| x10 | 77.9 / - / not run |" in capsys.readouterr().out


def test_make_stages_runs_the_commands_of_the_pipeline_until_one_fails(tmp_path):
    for name in ("Makefile", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "python $*" >> ran; test "$2" != stages.finetune\n')
    python.chmod(0o755)
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["make", "stages"], cwd=tmp_path, env={"PATH": path}, check=False)
    assert done.returncode != 0
    commands = [entry["cmd"] for entry in experiments.pipeline().values()]
    ran = (tmp_path / "ran").read_text().splitlines()
    assert ran == commands[: 1 + commands.index("python -m stages.finetune")]


# results


def make_result(folder: Path, best: float, noise: int = 0) -> Result:
    """What an experiment leaves, by hand: 40 replicates and 3 + 1 + 4 + 2 models."""
    images = np.random.default_rng(7).normal(0, 0.01, 40)  # the same images for everyone
    own = np.random.default_rng(noise).normal(0, 1e-4, 40)
    means = {"original": (0.79, 0.8, 0.9), "generated": (best - 0.01, best, 0.8)}
    means["ensemble"] = (0.795, 0.795, 0.9)
    accuracy = {"ensemble": 0.795, "original_mean": 0.79, "original_best": 0.8}
    accuracy |= {"generated_mean": best - 0.01, "generated_best": best}
    similarity = {"original_max_mean": 0.9, "generated_max_mean": 0.8}
    write_json(folder / outputs.NOVELTY_METRICS, {"accuracy": accuracy, "similarity": similarity})
    replicates = {
        group: Replicates(mean + images + own, top + images + own, *[np.full(40, similar)] * 3)
        for group, (mean, top, similar) in means.items()
    }
    save_replicates(folder / outputs.BOOTSTRAP, replicates)
    groups = ["original"] * 3 + ["ensemble"] + ["generated"] * 4 + ["noised_0.05"] * 2
    models = {"group": groups, "accuracy": np.linspace(0.7, 0.8, 10)}
    models["max_similarity"] = np.linspace(0.8, 0.9, 10)
    save_table(folder / outputs.MODELS, pd.DataFrame(models))
    points = {"step": [0, 20], "trajectory_mean": [0.1, 0.7], "trajectory_0": [0.1, 0.7]}
    save_table(folder / outputs.TRAJECTORY_CURVE, pd.DataFrame(points))
    return Result(Folder(folder), "abc1234", folder.name)


def add_scores(folder: Path) -> None:
    """What an experiment of another task leaves too."""
    models = pd.read_csv(folder / outputs.MODELS)
    save_table(folder / outputs.MODELS, models.assign(score=50 * models["accuracy"]))
    similarities = {"max_similarity_low": [0.8, 0.8], "max_similarity_high": [0.9, 0.9]}
    summary = {"group": ["original", "generated"], "score": ["mIoU"] * 2, **similarities}
    save_table(folder / outputs.SUMMARY, pd.DataFrame(summary))
    save_picture(folder / outputs.EXAMPLES, torch.zeros(3, 8, 8, dtype=torch.uint8), "What it is.")


@pytest.fixture
def measured(tmp_path):
    def make(label: str, *bests: float | None, failure: str = "") -> Measured:
        shared = {"label": label, "baselines": {"noise_levels": [0.05]}}
        experiments = [
            Experiment((f"seed.model={i}",), {"seed": {"model": i, "base": 0}, **shared})
            for i in range(len(bests))
        ]
        found = [
            None if best is None else make_result(tmp_path / f"{label}{i}", best, i)
            for i, best in enumerate(bests)
        ]
        failures = {experiments[0].sha: failure} if failure else {}
        return Measured(Row(label), experiments, found, failures)

    return make


def test_a_value_is_the_mean_over_seeds_and_its_spread_their_deviation(measured):
    row = measured("a", 0.80, 0.82)
    assert row.value("generated_best") == pytest.approx(0.81)
    assert row.spread("generated_best") == pytest.approx(math.sqrt(2) * 0.01)
    for result in row.found:
        del result.metrics["similarity.original_max_mean"]  # a single original has none
    assert math.isnan(row.value("original_similarity"))
    assert math.isnan(row.spread("original_similarity"))


def test_the_interval_of_several_seeds_is_that_of_their_mean_on_the_same_images(measured):
    row = measured("a", 0.80, 0.82)
    alone = [Measured(row.row, [], [found]).replicates("generated_best") for found in row.found]
    np.testing.assert_allclose(row.replicates("generated_best"), np.mean(alone, axis=0))
    one = measured("b", 0.81).interval("generated_best")
    assert row.interval("generated_best") == pytest.approx(one, abs=1e-3)


def test_a_score_has_students_interval_unless_all_seeds_share_its_models(measured):
    row = measured("CamVid, FCN", 0.80, 0.82, 0.84)
    for result, best in zip(row.found, (46.3, 46.5, 46.4), strict=True):
        result.metrics.update({"score.generated_best": best, "score.original_best": 46.5})
    low, high = row.interval("score_generated_best")
    half = 4.302653 * 0.1 / math.sqrt(3)  # t of 97.5 % with two degrees of freedom
    assert (low, high) == pytest.approx((46.4 - half, 46.4 + half))
    assert all(map(math.isnan, row.interval("score_original_best")))
    page = markdown(table("11"), [row], long_table(table("11"), [row]), "")
    assert "| - / - / **46.50** | " in page
    assert f"**46.40** ± 0.10 [{low:.2f}, {high:.2f}]" in page


def test_a_difference_is_paired_on_the_images(measured):
    """Each number alone is uncertain by 0.02, their difference by a hundredth of that."""
    rows = {"a": measured("a", 0.803), "b": measured("b", 0.80)}
    claim = difference("", ("a", "generated_best"), ("b", "generated_best"), rows)
    assert claim.estimate == pytest.approx(0.003)
    assert claim.high - claim.low < 1e-3
    assert claim.word is None


def test_a_cell_that_was_not_run_or_failed_says_so_with_its_command_or_reason(measured):
    missing, failed = measured("x0.01", None), measured("x10", None, failure="train_ddpm: lr")
    rows = [measured("0.1", 0.8), missing, failed, measured("x100", 0.8, None)]
    frame = long_table(table("3c"), rows)
    text = markdown(table("3c"), rows, frame, "make table")
    assert re.search(r"\| x0\.01 \| .* / not run \|", text)
    assert "    dvc exp run -S seed.model=0" in text
    assert "| 0.1 beats a hundredth of it (mean) | - | - |" in text
    assert re.search(r"\| x10 \| .* / failed \|", text)
    assert "- x10: failed: train_ddpm: lr" in text
    status = frame.groupby("row", sort=False)["status"].first().tolist()
    assert status == ["run", "not run", "failed: train_ddpm: lr", "1 of 2 seeds"]


def test_the_csv_holds_paper_log_ours_interval_n_and_commit(measured):
    line = long_table(table("3c"), [measured("0.1", 0.8)]).iloc[0]
    assert line["ours"] == 0.8
    assert line["low"] < 0.8 < line["high"]
    assert (line["seeds"], line["originals"], line["generated"]) == (1, 3, 4)
    assert line["commit"] == "abc1234"


def test_a_row_says_whether_its_generators_fit_on_average_and_which_bars_they_miss(measured):
    rows = [measured("0.1", 0.8, 0.8), measured("x10", 0.8), measured("x100", 0.8)]
    for row, fits in zip(rows, ([0.985, 0.978], [0.9], []), strict=True):
        for result, r2 in zip(row.found, fits, strict=False):
            known = dict.fromkeys(["variance_least", "variance_most"], 1.0) | {"r2": r2}
            result.metrics.update({f"fit.{name}": value for name, value in known.items()})
            shutil.copy(ROOT / "params.yaml", result.tree.path)
    frame = long_table(table("3c"), [*rows, measured("x0.1", None)])
    said = frame.groupby("row", sort=False)["generator"].first().tolist()
    assert said == ["fits", "does not fit", "not measured", "-"]
    text = markdown(table("3c"), rows, frame, "make table")
    assert re.search(
        r"^\| 0\.1 \| .* \| fits on average; 1 of 2 runs miss a bar \| 2 x 4", text, re.M
    )
    assert re.search(r"^\| x10 \| .* \| does not fit \| 1 x 4", text, re.M)
    missed = text.partition("## Where the generator does not fit")[2].strip()
    assert missed.splitlines()[0] == "- x10: the codec's R² is 0.90 (autoencoder.min_r2: 0.98)"
    assert "0.1:" not in missed and "x100:" not in missed


@pytest.mark.parametrize("name", figures.DRAW)
def test_every_figure_is_drawn_from_results(tmp_path, measured, name):
    rows = [measured("a", 0.8), measured("b", 0.81), measured("c", None)]
    tensors = {"n.weight": torch.randn(5, 9), "n.bias": torch.zeros(5, 3)}
    save_tensors(tmp_path / "a0" / outputs.CHECKPOINTS, tensors)
    for row in rows[:2]:
        add_scores(row.found[0].tree.path)
    png, pdf = figures.draw(name, tmp_path / "figure.png", rows)
    assert png.read_bytes().startswith(b"\x89PNG") and pdf.read_bytes().startswith(b"%PDF")


def test_a_picture_of_scores_has_their_groups_and_the_words_of_the_examples(measured):
    row = measured("CamVid", 0.8)
    add_scores(row.found[0].tree.path)
    boxes, examples = figures.score_panels([row, measured("COCO", None)]).axes
    labels = [text.get_text() for text in boxes.get_yticklabels()]
    assert labels == ["original", "ensemble", "generated", "noise 0.05"]
    assert boxes.get_xlabel() == "test mIoU" and boxes.get_title() == "CamVid"
    medians = [line.get_xdata()[0] for line in boxes.lines]
    means = row.models.groupby("group")["score"].median()
    order = ["original", "ensemble", "generated", "noised_0.05"]
    assert medians == pytest.approx(means[order].tolist())
    assert examples.get_title(loc="left") == "What it is."


def test_a_figure_of_nothing_leaves_no_file(tmp_path, measured):
    assert figures.draw("violins", tmp_path / "f.png", [measured("a", None)]) == []
    assert list(tmp_path.iterdir()) == []


def test_panels_share_their_axes_and_one_without_a_run_says_so(measured):
    ran = measured("b", 0.81)
    figure = figures.scatter_panels([measured("a", None), ran, measured("c", None, failure="lr")])
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}) == 1
    said = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert said == [["not run"], [], ["failed"]]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["noise", *figures.PAIR]


def test_beside_the_cloud_stand_differences_paired_on_the_images(measured):
    rows = [measured("a", 0.8), measured("b", 0.81)]
    accuracy = figures.scatter_together(rows).axes[1]
    means = [line.get_xdata()[0] for line in accuracy.lines[1:]]
    assert means == pytest.approx([100 * (0.79 - 0.79), 100 * (0.80 - 0.79)])
    for lines in accuracy.collections:  # alone, each mean is uncertain by 2 points
        assert np.ptp(lines.get_segments()[0][:, 0]) < 0.1


@pytest.mark.parametrize(("last", "insets"), [(0.9, 0), (0.705, 1)])
def test_accuracy_along_the_way_is_drawn_from_0_to_100_with_its_own_range_beside(
    measured, last, insets
):
    row = measured("a", 0.8)
    first = 0.7 if insets else 0.1
    points = {"step": [0, 20], "trajectory_mean": [first, last], "trajectory_0": [first, last]}
    save_table(row.found[0].tree.path / outputs.TRAJECTORY_CURVE, pd.DataFrame(points))
    labels = {"labels.test": torch.zeros(1234, dtype=torch.long)}
    save_tensors(row.found[0].tree.path / outputs.PREDICTIONS_GENERATED, labels)
    (axes,) = figures.trajectories([row]).axes
    assert axes.get_ylim() == (0, 101)
    assert axes.get_ylabel() == "test accuracy on 1,234 images (%)"
    assert "pure noise" in axes.get_xlabel() and axes.get_xlabel().endswith("sample")
    assert len(axes.child_axes) == insets


def test_all_tensors_of_figure_1_share_one_scale(tmp_path, measured):
    row = measured("a", 0.8)
    tensors = {"n.weight": 100 * torch.randn(5, 99), "n.bias": torch.randn(5, 3)}
    save_tensors(tmp_path / "a0" / outputs.CHECKPOINTS, tensors)
    *panels, bar = figures.heat_map([row]).axes
    assert len({axes.images[0].get_clim() for axes in panels}) == 1
    assert bar.get_ylabel() == "change since the first"
    assert panels[0].get_ylabel() == "value\n(first 64 of 99)"


def test_figure_1_begins_with_the_base_nets_training_where_it_was_kept(tmp_path, measured):
    row = measured("a", 0.8)
    save_tensors(tmp_path / "a0" / outputs.CHECKPOINTS, {"n.bias": torch.randn(5, 3)})
    epochs = torch.tensor([[0.0, 0.0, 0.0], [0.5, 1.0, 1.5]])
    save_tensors(tmp_path / "a0" / outputs.BASE_EPOCHS, {"m.bias": epochs, "n.bias": epochs})
    base, tuned, *_ = figures.heat_map([row]).axes
    assert base.get_xlabel() == "epoch of base training" and tuned.get_xlabel() == "checkpoint"
    assert base.images[0].get_array().tolist() == epochs.T.tolist()


# the command line


def test_a_committed_command_holds_no_folder_of_this_machine_and_not_who_ran_it(tmp_path):
    given = ["3c", "-S", f"data.root={tmp_path}", "--seeds", "0,1", "--no-run", "--out", "/tmp"]
    given += ["--launcher", "slurm", "--sbatch=--partition=a100"]
    own = f"data.root=/path/to/{tmp_path.name}"
    assert repeatable(given) == ["3c", "-S", own, "--seeds", "0,1"]
    experiment = Experiment((f"data.root={tmp_path}", "data.std=[0.1,1.0]"), {})
    assert experiment.shared_command == f"dvc exp run -S {own} -S 'data.std=[0.1,1.0]'"
    assert experiment.command == f"dvc exp run -S data.root={tmp_path} -S 'data.std=[0.1,1.0]'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["3z"], "error: unknown table '3z'; there are 1, 2, 3a, 3b"),
        (["3c", "--rows", "x7"], "error: --rows: unknown x7; known: 0.1, x0.01"),
        (["3c", "--seeds", "a"], "error: --seeds: 'a' is not a list of numbers"),
        (["3c", "--data", "cifar11"], "error: recipe=paper data=cifar11"),
        (["3c", "-S", "+ablation=latent_x7"], "'ablation/latent_x7'"),
        (["1", "--net", "vgg"], "error: --data and --net leave no row"),
        (["7", "--data", "mnist_images", "--net", "vgg"], "error: --data and --net leave no row"),
        (["7", "--data", "svhn", "--rows", "SVHN"], "known: SVHN, 3-layer CNN of the zoos, zoo"),
        (["3c", "--recipe", "quick", "--data", "folder"], "want more: -S data.root=ROOT"),
        (["3c", "--whole"], "error: --whole, --base-seeds and --ablations belong to `verdict`"),
        (["3c", "--ablations"], "error: --whole, --base-seeds and --ablations belong to `verdict`"),
        (["verdict", "--whole", "--base-seeds", "0,1"], "error: --base-seeds: --whole gives each"),
        (["fit", "--base-seeds", "a"], "error: --base-seeds: 'a' is not a list of numbers"),
        (["verdict", "--rows", "a"], "error: --rows: `verdict` has none"),
        (["3c", "--jobs", "0"], "error: --jobs: 0 is less than 1"),
        (["3c", "--sbatch=-t 60"], "--sbatch: belongs to --launcher slurm, not local"),
        (["3c", "-S", "=1"], "error: -S: '=1' is not KEY=VALUE"),
        (["3c", "--no-run", "--out", "/proc/t"], "error: --out: /proc/t: No such file"),
        (["3c", "--no-run", "--out", "/" + 300 * "t"], "File name too long"),
    ],
)
def test_a_wrong_argument_is_one_line(capsys, arguments, message):
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_full_disk_ends_a_table_in_one_line_with_the_path(tmp_path, monkeypatch, capsys):
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    arguments = ["3c", "--recipe", "quick", "--data", "digits", "--no-run"]
    assert cli.main([*arguments, "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/") and error.count("\n") == 1
    assert "No space left on device; needed: free space" in error
    assert list(tmp_path.iterdir()) == []


def rows_of(*arguments: str) -> list[Row]:
    options = cli.parser().parse_args(arguments)
    return cli.chosen_rows(table(options.table), options)


def test_table_2_on_a_folder_of_the_same_images_keeps_the_papers_numbers():
    rows = rows_of("2", "--data", "cifar10_images")
    assert [row.overrides[0] for row in rows] == ["data=cifar10_images"] * 5
    assert rows[0].paper["generated_best"] == pytest.approx(0.558)
    assert rows[0].authors() == table("2").rows[0].authors() != {}


def test_table_1_on_another_data_set_has_each_net_once():
    labels = [row.label for row in rows_of("1", "--data", "digits")]
    assert labels[:2] == ["digits, ResNet-18", "digits, ResNet-50"]
    assert len(labels) == 6


def test_table_7_on_a_folder_takes_zoos_beside_the_papers_numbers():
    rows = rows_of("7", "--data", "mnist_images")
    labels = ["MNIST, 3-layer CNN of the zoos, zoo", "MNIST, 3-layer CNN, zoo"]
    assert [row.label for row in rows] == labels
    assert rows[0].overrides == ("data=mnist_images", "net=cnn_small", "checkpoints=zoo")
    assert [row.paper["s_kde30_mean"] for row in rows] == pytest.approx([0.686] * 2)
    (grey,) = rows_of("7", "--data", "cifar10_grey", "--net", "cnn_small")
    assert grey.overrides[:2] == ("data=cifar10_grey", "net=cnn_small") and grey.paper == {}


def test_no_key_stands_twice_in_the_tables():
    """YAML's loader keeps the last one and says nothing."""
    nodes = [yaml.compose((ROOT / "pdiff/paper/tables.yaml").read_text())]
    for node in nodes:
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            assert len(keys) == len(set(keys)), keys
            nodes += [value for _, value in node.value]


def test_table_7_without_data_has_the_papers_cells():
    presets = [("data=mnist", "net=cnn_medium"), ("data=svhn", "net=cnn_medium")]
    assert [row.overrides for row in rows_of("7")] == presets


def test_a_zoos_table_says_what_is_beside_it_and_how_to_run_the_papers_cells(
    tmp_path, image_folder
):
    arguments = ["7", "--data", "mnist_images", "-S", f"data.root={image_folder}", "--no-run"]
    assert cli.main([*arguments, "--recipe", "quick", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "table_7.md").read_text()
    assert "equal SANE's published numbers" in text and "one training latent plus one" in text
    heads = cells(text, " |")
    assert heads[0] == "" and len(heads) == 5  # two zoos, the paper's two
    assert cells(text, "SANE_SUB, mean", 4)[2:] == ["86.7 / - / not run", "72.3 / - / not run"]
    assert "dvc exp run -S recipe=paper -S data=svhn -S net=cnn_medium -S seed.model=0" in text
    commands = [line for line in text.splitlines() if "data=mnist " in line]
    assert commands and not any("data.root" in line for line in commands)


def test_a_zoos_result_gives_means_and_the_best_of_fifty_by_validation(tmp_path):
    models = pd.DataFrame({"group": ["soup_8"] * 50 + ["sane_sub"] * 2})
    models["accuracy"] = [i / 100 for i in range(50)] + [0.7, 0.9]
    models["max_similarity"] = 0.5
    models["choosing_accuracy"] = [1 - i / 100 for i in range(50)] + [0.1, 0.2]
    save_table(tmp_path / outputs.MODELS, models)
    found = Result(Folder(tmp_path), "unknown", "x").zoo
    assert found == {
        "accuracy.soup_8_mean": pytest.approx(0.245),
        "accuracy.soup_8_of_50": 0.0,  # validation prefers the worst
        "accuracy.sane_sub_mean": pytest.approx(0.8),
        "similarity.soup_8_max_mean": 0.5,
        "similarity.sane_sub_max_mean": 0.5,
    }


def test_table_11_runs_a_small_net_and_shows_the_papers_row_with_its_command(tmp_path, capsys):
    arguments = ["11", "-S", "data.root=/images", "--out", str(tmp_path)]
    assert cli.main([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "1 experiments, 1 to run" in said and "net=fcn_mobilenet_025" in said
    assert cli.main([*arguments, "--no-run"]) == 0
    page = (tmp_path / "table_11.md").read_text()
    assert "| COCO with VOC's classes, FCN ResNet-50 | 60.50 / - / not run |" in page
    assert "| CamVid, FCN MobileNetV1 x0.25 | - / - / not run |" in page
    paper = next(line for line in page.splitlines() if "net=fcn_resnet50" in line)
    for preset in ("recipe=paper", "data=coco_voc"):
        assert f"-S {preset}" in paper
    assert "data.root" not in paper  # of the other images
    assert cli.main([*arguments, "--net", "fcn_resnet50", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "-S recipe=paper" in said and "-S data.root=/images" in said


def test_table_11_on_a_folder_of_one_s_own_keeps_net_and_recipe():
    *_, row = rows_of("11", "--data", "own")
    assert row.label == "own, FCN MobileNetV1 x0.25"
    presets = ("data=own", "net=fcn_mobilenet_025", "recipe=quick")
    assert row.overrides == presets


def test_the_status_tells_run_partly_run_not_run_and_failed(measured):
    assert measured("a", 0.8, 0.8).status == "run"
    assert measured("b", 0.8, None).status == "1 of 2 seeds"
    assert measured("c", None).status == "not run"
    assert measured("d", None, failure="lr: too much").status == "failed: lr: too much"

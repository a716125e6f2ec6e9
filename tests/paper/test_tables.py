"""The paper's tables as sets of experiments: what they need, how they run, what comes out."""

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pdiff.core.files import save_tensors
from pdiff.paper import cli, figures, results, runner
from pdiff.paper.complete import repeatable
from pdiff.paper.definitions import ABLATIONS, DATA, NETS, Claim, Row, names, table
from pdiff.paper.estimate import _WORK, _count_net, compare, estimate, work_of
from pdiff.paper.estimate import Measured as Measurement
from pdiff.paper.experiments import Experiment, Result, make_experiment
from pdiff.paper.pipeline import pipeline, stage_keys
from pdiff.paper.render import counts_table, long_table, markdown, recipe_table
from pdiff.paper.results import Measured, Verdict, judge
from pdiff.paper.runner import _last_error
from pdiff.system.errors import InputError
from pdiff.tracking.files import Folder
from tests.conftest import ROOT
from tests.toys.project import commit, make_project

CONF = ROOT / "pdiff/conf"


# what a table consists of


@pytest.mark.parametrize("name", names())
def test_every_table_of_the_paper_has_a_definition(name):
    found = table(name)
    assert found.title
    assert found.rows or found.kind != "experiments"


def test_an_unknown_table_is_named_with_those_there_are():
    with pytest.raises(InputError, match=r"unknown table '3z'; there are 1, 2, 3a, .*figure_5c"):
        table("3z")


def test_every_ablation_of_a_table_is_a_preset():
    named = {name for rows in ABLATIONS.values() for name in rows.values() if name}
    assert named <= {path.stem for path in (CONF / "ablation").glob("*.yaml")}


def test_every_cell_of_tables_1_and_2_is_a_pair_of_presets():
    rows = [*table("1").rows, *table("2").rows]
    assert len(rows) == 36 + 10
    for row in rows:
        data, net = (override.split("=")[1] for override in row.overrides)
        assert (CONF / f"net/{net}.yaml").exists()
        assert data in DATA.values() and net in NETS.values()


@pytest.mark.parametrize(
    ("name", "label", "measure", "paper"),
    [
        ("1", "CIFAR-100, ResNet-18", "generated_best", 0.779),
        ("2", "CIFAR-10, MLP-mini", "ensemble", 0.418),
        ("3a", "latent", "generated_mean", 0.776),
        ("3c", "x100", "generated_best", 0.775),
        ("3d", "Adam", "original_best", 0.797),
        ("4", "x10", "generated_similarity_high", 0.87),
        ("7", "SVHN, 3-layer CNN", "generated_mean", 0.741),
        ("8", "vae", "generated_similarity_low", 0.74),
        ("9", "10", "generated_mean", 0.705),
    ],
)
def test_a_row_knows_what_the_paper_says(name, label, measure, paper):
    (row,) = (row for row in table(name).rows if row.label == label)
    assert row.paper[measure] == pytest.approx(paper)


@pytest.mark.parametrize(
    ("name", "label", "logged"),
    [
        ("3a", "none", 0.7715),
        ("3c", "0.1", 0.7755),
        ("1", "Flowers, ResNet-18", 0.8086),
        ("1", "ImageNet-1K, ViT-Tiny", 0.7538),
    ],
)
def test_a_row_knows_what_the_authors_logged(name, label, logged):
    (row,) = (row for row in table(name).rows if row.label == label)
    assert row.authors()["generated_best"] == pytest.approx(logged, abs=5e-5)


def test_a_row_that_the_authors_have_not_run_has_no_log():
    (row,) = (row for row in table("3c").rows if row.label == "x10")
    assert row.authors() == {}


def test_table_9_always_samples_with_ddpm():
    for row in table("9").rows:
        experiment = make_experiment(["recipe=quick", "data=digits", *row.overrides])
        assert experiment.params["generate"]["sampler"] == "ddpm"
        assert str(experiment.params["ddpm"]["timesteps"]) == row.label


def test_the_general_claims_are_about_the_default_row():
    about = {name: table(name).claims[0].larger[0] for name in ("3a", "3c", "3e", "9")}
    assert about == {"3a": "both", "3c": "0.1", "3e": "300", "9": "1000"}


def test_table_6_has_the_papers_eleven_counts():
    counts = counts_table()
    assert len(counts) == 11
    assert (counts["paper"] == counts["ours"]).all()


def test_table_5_shows_the_recipe_that_composes():
    recipe = recipe_table().set_index(["step", "parameter"])
    assert recipe.loc[("autoencoder", "lr"), "ours"] == 2e-5
    assert recipe.loc[("ddpm", "T"), "ours"] == 1000
    assert recipe["ours"].notna().all()


# experiments and stages


def quick(*overrides: str) -> Experiment:
    return make_experiment(["recipe=quick", "data=digits", "net=resnet18", *overrides])


def test_an_unknown_preset_is_one_line_with_those_there_are():
    with pytest.raises(InputError, match=r"'ablation/latent_x7'.*latent_x10") as caught:
        quick("ablation=latent_x7")
    assert "\n" not in str(caught.value)


def test_an_experiment_has_another_name_and_hash_for_other_parameters():
    one, other = quick("seed.model=1"), quick("seed.model=2")
    assert one.sha != other.sha
    assert one.name.startswith("quick-digits-resnet18-s1-")
    assert one.name != other.name


def test_the_command_of_an_experiment_can_be_typed_in_a_shell():
    assert quick("data.crop_scale=[0.1,1.0]").command.endswith("-S 'data.crop_scale=[0.1,1.0]'")


def test_a_row_of_table_3c_retrains_only_autoencoder_and_what_follows_it():
    default, changed = (stage_keys(quick(*o).params) for o in ([], ["ablation=latent_x10"]))
    different = {stage for stage in default if default[stage] != changed[stage]}
    after = {"train_autoencoder", "train_ddpm", "generate", "evaluate_generated", "novelty"}
    assert different == {"check_params", *after}


def test_another_sampler_retrains_nothing():
    default, changed = (stage_keys(quick(*o).params) for o in ([], ["generate.steps=30"]))
    different = {stage for stage in default if default[stage] != changed[stage]}
    assert different == {"check_params", "generate", "evaluate_generated", "novelty"}


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
    assert _last_error(log) == line


# estimates


def test_every_stage_that_computes_has_a_count_of_its_work():
    assert set(_WORK) | {"check_params"} == set(pipeline())


def test_the_operations_of_resnet18_are_the_known_ones():
    counted = _count_net("resnet18", 1000, 224, "last_norms:2")
    assert counted.whole == pytest.approx(3.63e9, rel=0.01)


@pytest.mark.parametrize(
    ("stage", "override", "factor"),
    [
        ("train_base", "base.epochs=80", 10),
        ("finetune", "finetune.held_back=400", 2),
        ("train_autoencoder", "autoencoder.steps=1200", 2),
        ("train_ddpm", "ddpm.steps=80", 0.1),
        ("generate", "generate.models=400", 2),
    ],
)
def test_work_grows_with_what_is_asked_for(stage, override, factor):
    from pdiff.config import parse_params

    before, after = (work_of(stage, parse_params(quick(*o).params)) for o in ([], [override]))
    assert after.operations / before.operations == pytest.approx(factor, rel=0.1)


def test_an_estimate_is_a_measured_time_scaled_by_the_work():
    short, long = (
        Measurement(
            "train_ddpm", "cpu", "here", quick(f"ddpm.steps={steps}").params, seconds, 700.0
        )
        for steps, seconds in ((60, 6.0), (6000, 500.0))
    )
    ((run, estimated),) = compare([long], [short])
    assert run is long
    assert estimated == pytest.approx(600, rel=0.01)


def test_shared_stages_are_estimated_once(monkeypatch, tmp_path):
    monkeypatch.setenv("DVC_ROOT", str(ROOT))
    found = estimate([quick(), quick("ablation=latent_x10")], "cpu")
    stages = [entry.stage for entry in found]
    assert stages.count("train_base") == 1
    assert stages.count("train_autoencoder") == 2


def test_stages_that_have_run_are_not_estimated():
    found = estimate([quick("ablation=latent_x10")], "cpu", done=[quick()])
    assert "train_base" not in {entry.stage for entry in found}
    assert "train_autoencoder" in {entry.stage for entry in found}


def test_an_estimate_says_when_nothing_was_measured_on_a_device():
    found = {e.stage: e for e in estimate([quick()], "no such device")}
    assert math.isnan(found["train_base"].seconds)
    assert "no measured run" in found["train_base"].source


def test_a_gpu_that_was_not_measured_has_an_estimate_that_says_so(monkeypatch):
    monkeypatch.setattr("pdiff.paper.estimate._own", lambda: [])
    monkeypatch.setattr("pdiff.paper.estimate._reference", lambda: ())
    found = {e.stage: e for e in estimate([quick()], "cuda")}
    assert 8 < found["train_base"].seconds < 60
    assert "assumed" in found["train_base"].source


# results


def make_result(folder: Path, best: float, noise: int = 0) -> Result:
    """What an experiment leaves, by hand: 40 replicates and 3 + 4 models."""
    random = np.random.default_rng(7)  # the same images for everyone
    images = random.normal(0, 0.01, 40)
    accuracy = {"generated_best": best, "original_best": 0.8, "generated_mean": best - 0.01}
    accuracy |= {"original_mean": 0.79, "ensemble": 0.795}
    for name in ("metrics", "data", "plots"):
        (folder / name).mkdir(parents=True)
    similarity = {"original_max_mean": 0.9, "generated_max_mean": 0.8}
    (folder / "metrics/novelty.json").write_text(
        json.dumps({"accuracy": accuracy, "similarity": similarity})
    )
    own = np.random.default_rng(noise).normal(0, 1e-4, 40)
    frame = pd.DataFrame({name: value + images + own for name, value in accuracy.items()})
    similar = {"original_max_similarity": 0.9, "generated_max_similarity": 0.8}
    frame.assign(**similar).to_csv(folder / "data/bootstrap.csv", index=False)
    groups = ["original"] * 3 + ["ensemble"] + ["generated"] * 4 + ["noised_0.05"] * 2
    models = {"group": groups, "model": range(10), "accuracy": np.linspace(0.7, 0.8, 10)}
    models["max_similarity"] = np.linspace(0.8, 0.9, 10)
    pd.DataFrame(models).to_csv(folder / "data/models.csv", index=False)
    points = {"step": [0, 20], "trajectory_mean": [0.1, 0.7], "trajectory_0": [0.1, 0.7]}
    pd.DataFrame(points).to_csv(folder / "plots/evaluate_generated.csv", index=False)
    return Result(Folder(folder), "abc1234", folder.name)


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


def test_a_number_that_an_experiment_does_not_have_is_nan(measured):
    row = measured("a", 0.80, 0.82)
    for result in row.found:
        result.metrics["similarity"]["original_max_mean"] = None  # a single original has none
    assert math.isnan(row.value("original_similarity"))
    assert math.isnan(row.spread("original_similarity"))


def test_the_interval_of_several_seeds_is_that_of_their_mean_on_the_same_images(measured):
    low, high = measured("a", 0.80, 0.82).interval("generated_best")
    one = measured("b", 0.81).interval("generated_best")
    assert (low, high) == pytest.approx(one, abs=1e-3)


def test_a_difference_is_paired_on_the_images(measured):
    """Each number alone is uncertain by 0.02, their difference by a hundredth of that."""
    rows = {"a": measured("a", 0.803), "b": measured("b", 0.80)}
    verdict = judge(Claim("", ("a", "generated_best"), ("b", "generated_best")), rows)
    assert verdict.difference == pytest.approx(0.003)
    assert verdict.high - verdict.low < 1e-3
    assert verdict.word == "holds"


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.1, 0.2, "holds"),
        (-0.2, -0.1, "does not hold"),
        (-0.1, 0.1, "cannot tell"),
        (math.nan, math.nan, "not run"),
    ],
)
def test_a_verdict_follows_the_interval(low, high, word):
    assert Verdict("", "generated_best", 0.0, low, high).word == word


def test_the_status_tells_run_partly_run_not_run_and_failed(measured):
    assert measured("a", 0.8, 0.8).status == "run"
    assert measured("b", 0.8, None).status == "1 of 2 seeds"
    assert measured("c", None).status == "not run"
    assert measured("d", None, failure="lr: too much").status == "failed: lr: too much"


def test_a_cell_that_was_not_run_says_so_with_its_command(measured):
    default, missing = measured("0.1", 0.8), measured("x0.01", None)
    text = markdown(table("3c"), [default, missing], "make table")
    assert re.search(r"\| x0\.01 \| .* / not run \|", text)
    assert "    dvc exp run -S seed.model=0" in text
    assert "| 0.1 beats a hundredth of it (mean) | - | - | not run |" in text


def test_a_failed_cell_is_failed_in_the_table_with_the_reason(measured):
    rows = [measured("0.1", 0.8), measured("x0.01", None, failure="train_ddpm: lr")]
    text = markdown(table("3c"), rows, "make table")
    assert "/ failed |" in text
    assert "- x0.01: failed: train_ddpm: lr" in text
    assert set(long_table(table("3c"), rows)["status"]) == {"run", "failed: train_ddpm: lr"}


def test_the_csv_holds_paper_log_ours_interval_n_and_commit(measured):
    line = long_table(table("3c"), [measured("0.1", 0.8)]).iloc[0]
    assert line["ours"] == 0.8
    assert line["low"] < 0.8 < line["high"]
    assert (line["seeds"], line["originals"], line["generated"]) == (1, 3, 4)
    assert line["commit"] == "abc1234"


@pytest.mark.parametrize("name", sorted(set(figures.DRAW) - {"heat_map"}))
def test_every_figure_is_drawn_from_results(tmp_path, measured, name):
    path = tmp_path / "figure.png"
    assert figures.draw(name, path, [measured("a", 0.8), measured("b", 0.81), measured("c", None)])
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_heat_map_is_drawn_from_the_checkpoints(tmp_path, measured):
    import torch

    row = measured("a", 0.8)
    tensors = {"n.weight": torch.randn(5, 9), "n.bias": torch.zeros(5, 3)}
    save_tensors(tmp_path / "a0/data/checkpoints.safetensors", tensors, names=list(tensors))
    assert figures.draw("heat_map", tmp_path / "f.png", [row])


def test_a_figure_of_nothing_leaves_no_file(tmp_path, measured):
    assert not figures.draw("violins", tmp_path / "f.png", [measured("a", None)])
    assert not (tmp_path / "f.png").exists()


def test_measures_of_the_tables_are_all_known():
    used = {measure for name in names() for measure in table(name).measures}
    assert used <= results.HEADLINE.keys()


# the command line


def test_a_committed_command_holds_no_folder_of_this_machine(tmp_path):
    given = ["3c", "-S", f"data.root={tmp_path}", "--seeds", "0,1", "--no-run", "--out", "/tmp"]
    own = f"data.root=/path/to/{tmp_path.name}"
    assert repeatable(given) == ["3c", "-S", own, "--seeds", "0,1"]
    experiment = Experiment((f"data.root={tmp_path}",), {})
    assert experiment.shared_command == f"dvc exp run -S {own}"
    assert experiment.command == f"dvc exp run -S data.root={tmp_path}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["3z"], "error: unknown table '3z'"),
        (["3c", "--rows", "x7"], "error: --rows: unknown x7; known: 0.1, x0.01"),
        (["3c", "--seeds", "a"], "error: --seeds: 'a' is not a list of numbers"),
        (["3c", "--data", "cifar11"], "error: recipe=paper data=cifar11"),
        (["1", "--net", "vgg"], "error: --data and --net leave no row"),
        (["3c", "--recipe", "quick", "--data", "folder"], "want more: -S data.root=ROOT"),
    ],
)
def test_a_wrong_argument_is_one_line(capsys, arguments, message):
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_table_2_on_a_folder_of_the_same_images_keeps_the_papers_numbers():
    options = cli._parser().parse_args(["2", "--data", "cifar10_images"])
    rows = cli._chosen(table("2"), options)
    assert [row.overrides[0] for row in rows] == ["data=cifar10_images"] * 5
    assert rows[0].paper["generated_best"] == pytest.approx(0.558)


def test_table_1_on_another_data_set_has_each_net_once():
    options = cli._parser().parse_args(["1", "--data", "digits"])
    rows = cli._chosen(table("1"), options)
    assert [row.label for row in rows][:2] == ["digits, ResNet-18", "digits, ResNet-50"]
    assert len(rows) == 6


# for real, on a tiny pipeline


@pytest.fixture
def project(tmp_path):
    """A tiny recipe, in which one row of Table 3c cannot be trained."""
    found = make_project(tmp_path / "project")
    broken = {"noise": {"latent": 10.0}, "autoencoder": {"lr": 1e30}}
    path = found.path / "pdiff/conf/ablation/latent_x100.yaml"
    path.write_text("# @package _global_\n" + yaml.safe_dump(broken))
    commit(found)
    return found


TABLE = ("-m", "pdiff.paper", "3c", "--recipe", "tiny", "--data", "digits", "--net", "tiny")
ROWS = ("--rows", "0.1;x10;x100")


def check_table(project, output: str) -> None:
    assert project.code == 3
    assert re.search(
        r"failed: tiny-digits-tiny-latent-x100-s0-\w+: .*autoencoder\.?\S* loss", output
    )
    found = pd.read_csv(project.path / "results/tiny_digits_tiny/table_3c.csv")
    status = found.groupby("row", sort=False)["status"].first()
    assert status["0.1"] == status["x10"] == "run"
    assert status["x100"].startswith("failed: ")
    assert found.loc[found["row"] == "x10", "low"].notna().all()


@pytest.mark.slow
def test_a_table_runs_through_dvc_and_keeps_what_went_well(project):
    dry = project.run(sys.executable, *TABLE, *ROWS, "--dry-run")
    assert "3 experiments, 3 to run" in dry
    output = project.run(sys.executable, *TABLE, *ROWS, check=False)
    check_table(project, output)
    again = project.run(sys.executable, *TABLE, "--rows", "0.1;x10")
    assert "2 experiments, 0 to run" in again
    runs = project.runs()
    assert sum(run["status"] == "FINISHED" for run in runs.values()) >= 2


@pytest.mark.slow
def test_a_table_runs_as_plain_stages_and_shares_what_is_equal(project):
    output = project.run(sys.executable, *TABLE, *ROWS, "--plain", check=False)
    check_table(project, output)
    assert output.count("train_base:") == 1
    assert output.count("train_autoencoder: ") >= 2
    again = project.run(sys.executable, *TABLE, "--rows", "0.1;x10", "--plain")
    assert "2 experiments, 0 to run" in again


def test_a_folder_among_a_stages_outputs_is_handed_on_whole(tmp_path):
    kept, folder = tmp_path / "kept", tmp_path / "run"
    (kept / "report/audit").mkdir(parents=True)
    (kept / "report/audit/new.csv").write_text("new")
    (folder / "report/audit").mkdir(parents=True)
    (folder / "report/audit/old.csv").write_text("old")
    runner._link(kept, folder, ["report/audit"])
    assert [path.name for path in (folder / "report/audit").iterdir()] == ["new.csv"]
    assert (folder / "report/audit/new.csv").samefile(kept / "report/audit/new.csv")

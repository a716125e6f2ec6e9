"""The pipeline under DVC, for real, on a tiny configuration: slow tests."""

import os
import re
import shlex
import shutil
import sys

import pandas as pd
import pytest
import yaml

from pdiff.tracking import made_by
from tests.conftest import ROOT
from tests.toys.project import GIT, Project, clone, commit, make_project, stages_run

pytestmark = pytest.mark.slow

OF_MODEL = {"train_autoencoder", "train_ddpm", "generate", "evaluate_generated", "novelty", "audit"}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A tiny project whose stages ran by `make stages`, as if neither DVC nor MLflow were there,
    committed afterwards. One row of its Table 3c cannot be trained."""
    folder = tmp_path_factory.mktemp("project")
    project = make_project(folder / "pdiff")
    broken = {"noise": {"latent": 10.0}, "autoencoder": {"kind": "vae", "lr": 1000.0}}
    preset = project.path / "pdiff/conf/ablation/latent_x100.yaml"
    preset.write_text("# @package _global_\n" + yaml.safe_dump(broken))
    shutil.copy(ROOT / "Makefile", project.path)
    for name in ("dvc", "mlflow"):
        blocked = folder / "blocked" / name / "__init__.py"
        blocked.parent.mkdir(parents=True)
        blocked.write_text(f"raise ModuleNotFoundError('no {name} here')")
    path = os.pathsep.join(map(str, (folder / "blocked", project.path)))
    output = project.run("make", "stages", PYTHONPATH=path)
    assert "warning: tracking: audit was not logged: no mlflow here" in output
    shutil.rmtree(project.path / ".work/runs")  # nobody looks for this run in MLflow
    project.dvc("commit", "--force")
    commit(project)
    return project


def test_dvc_runs_a_stage_to_the_bytes_of_make_stages(project):
    before = project.output_hashes()
    output = project.dvc("repro", "--force", "--single-item", "generate", PDIFF_TRACKING="off")
    assert stages_run(output) == {"generate"}
    assert project.output_hashes() == before


def test_a_team_shares_results_through_a_remote(project, tmp_path):
    """Push, fresh clone, pull: `dvc repro` is a no-op."""
    mine = clone(project, tmp_path / "mine")
    mine.dvc("cache", "dir", "--local", str(project.path / ".dvc/cache"))
    mine.dvc("remote", "add", "--default", "team", str(tmp_path / "remote"))
    commit(mine)
    mine.dvc("push")
    yours = clone(mine, tmp_path / "yours")
    yours.dvc("pull")
    assert stages_run(yours.dvc("repro", PDIFF_TRACKING="off")) == set()
    assert yours.output_hashes() == project.output_hashes()


@pytest.fixture(scope="module")
def low(project) -> tuple[str, dict[str, str], float]:
    """An ablation that ran: what it said, the hashes of its outputs, and its accuracy."""
    output = project.dvc("exp", "run", "-n", "low", "-S", "noise.latent=0.01")
    left = project.output_hashes(), project.metrics()["accuracy"]["generated_mean"]
    project.undo()
    return output, *left


def test_an_ablation_runs_only_what_follows_the_autoencoder(project, low):
    output, _, accuracy = low
    assert stages_run(output) == {"check_params", *OF_MODEL}
    rows = project.dvc("exp", "show", "--csv").splitlines()
    assert "accuracy.generated_mean" in rows[0]
    assert [row for row in rows if "low" in row.split(",")[:4]]
    (run,) = project.runs().values()
    assert run["status"] == "FINISHED" and run["tags"]["pdiff.key"] == "low"
    assert run["params"]["noise.latent"] == "0.01"
    assert run["metrics"]["accuracy.generated_mean"] == pytest.approx(accuracy)


def test_an_experiment_is_brought_back_by_its_name(project, low, tmp_path):
    """And what differs from the last commit is said, with the command that keeps it."""
    mine = project.copy(tmp_path / "mine")
    mine.environment["PDIFF_TRACKING"] = "off"
    say = (sys.executable, "-m", "pdiff.tracking.changed")
    assert mine.run(*say) == ""
    output, after, _ = low
    assert "stage 6 of 12: train_autoencoder\n" in output
    assert "keep:    dvc exp apply low brings it back\n" in output
    assert mine.output_hashes() == project.output_hashes() != after
    mine.dvc("exp", "apply", "low")
    assert mine.output_hashes() == after
    assert stages_run(mine.dvc("repro")) == set()
    told, command = mine.run(*say).splitlines()
    assert "params.yaml" in told and "in metrics/" in told and "dvc.lock" in told
    keep = shlex.split(command.removeprefix("to make them your baseline: "))
    mine.run(keep[0], *GIT, *keep[1:])
    assert mine.run(*say) == ""


def test_a_table_runs_through_dvc_and_keeps_what_went_well(project):
    command = (sys.executable, "-m", "pdiff.paper", "3c", "--recipe", "tiny", "--data", "digits")
    command += ("--net", "tiny")
    output = project.run(*command, "--rows", "x10;x100", check=False)
    assert project.code == 3
    name = r"tiny-digits-tiny-latent-x100-s\w+-\w+"
    assert re.search(f"failed: {name}: autoencoder: loss is nan", output)
    found = pd.read_csv(project.path / "results/tiny_digits_tiny/table_3c.csv")
    status = found.groupby("row", sort=False)["status"].first()
    assert status["x10"] == "run"
    assert status["x100"].startswith("failed: ")
    assert found.loc[found["row"] == "x10", "low"].notna().all()
    assert "1 experiments, 0 to run" in project.run(*command, "--rows", "x10")
    (key,) = (key for key in project.runs() if key.startswith("tiny-digits-tiny-latent-x10-"))
    assert project.runs()[key]["status"] == "FINISHED"


def test_a_wrong_parameter_stops_the_run_and_keeps_what_was_there(project):
    before = {p: p.read_bytes() for p in (project.path / "models").iterdir()}
    output = project.dvc("exp", "run", "-S", "noise.latent=-1", check=False)
    assert project.code != 0
    assert "error: params.yaml: noise.latent: -1 is refused" in output
    assert "Traceback" not in output
    assert stages_run(output) == {"check_params"}
    assert {p: p.read_bytes() for p in (project.path / "models").iterdir()} == before
    project.undo()


def test_a_commit_over_other_parameters_code_or_metrics_is_found_and_not_logged(project, tmp_path):
    forged = project.copy(tmp_path / "forged")
    sync = (sys.executable, "-m", "pdiff.tracking", "sync")

    def committed() -> list[str]:
        assert "Running" not in forged.dvc("commit", "-f")
        found = made_by.forged(yaml.safe_load((forged.path / "dvc.lock").read_text()))
        assert "nothing is missing" in forged.run(*sync)
        forged.undo()
        return found

    def edit(path: str) -> None:
        file = forged.path / path
        file.write_text(file.read_text().replace(": 0.", ": 0.1").replace('"""', '"""# ', 1))

    forged.run("rm", "-rf", "mlflow.db", ".work/runs")
    forged.run(*sync)  # what Git has is honest
    assert made_by.forged(yaml.safe_load((forged.path / "dvc.lock").read_text())) == []
    forged.set_param("noise.latent", 7.5)
    assert committed() == ["check_params", "train_autoencoder", "audit"]
    edit("pdiff/diffusion/train.py")
    assert committed() == ["train_ddpm", "generate", "novelty", "audit"]
    edit("metrics/novelty.json")
    assert committed() == ["novelty", "audit"]


def test_a_killed_training_goes_on_where_it_was_and_ends_the_same(project, tmp_path):
    whole, killed = (project.copy(tmp_path / name) for name in ("whole", "killed"))
    for copy in (whole, killed):
        copy.environment["PDIFF_TRACKING"] = "off"
        copy.set_param("autoencoder.steps", 800)
    whole.stage("train_autoencoder")
    killed.kill("train_autoencoder", "stages.train_autoencoder")
    killed.stage("train_autoencoder")
    for name in ("models/autoencoder.safetensors", "data/latents.safetensors"):
        assert (killed.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert not killed.states("train_autoencoder")

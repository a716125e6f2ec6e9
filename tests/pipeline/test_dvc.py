"""The pipeline under DVC, for real, on a tiny configuration: slow tests."""

import pytest

from tests.toys.own import Own
from tests.toys.project import Project, clone, commit, make_project, stages_run

pytestmark = pytest.mark.slow

OF_MODEL = {"train_autoencoder", "train_ddpm", "generate", "evaluate_generated", "novelty", "audit"}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A tiny project after its first `dvc repro`, committed; nobody reads that one in MLflow."""
    project = make_project(tmp_path_factory.mktemp("project") / "pdiff")
    project.dvc("repro", PDIFF_TRACKING="off")
    commit(project)
    return project


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


def test_an_ablation_runs_only_what_follows_the_autoencoder(project):
    output = project.dvc("exp", "run", "-n", "low", "-S", "noise.latent=0.01")
    assert stages_run(output) == {"check_params", *OF_MODEL}
    rows = project.dvc("exp", "show", "--csv").splitlines()
    assert "accuracy.generated_mean" in rows[0]
    assert [row for row in rows if "low" in row.split(",")[:4]]
    (run,) = project.runs().values()
    assert run["status"] == "FINISHED" and run["tags"]["pdiff.key"] == "low"
    assert run["params"]["noise.latent"] == "0.01"
    assert run["metrics"]["accuracy.generated_mean"] == pytest.approx(
        project.metrics()["accuracy"]["generated_mean"]
    )
    project.undo()


def test_another_commit_of_a_repository_is_noticed(tmp_path, hub):
    own = Own(tmp_path / "own")
    files = {path.name: path.read_bytes() for path in own.folder.iterdir()}
    commit = hub.commit("user/name", files)
    later = hub.commit("user/name", {"epoch_12.pth": files["epoch_8.pth"]})
    project = make_project(tmp_path / "pdiff")
    settings = {"finetune.folder": f"hf://user/name@{commit}", "finetune.checkpoints": 5}
    settings |= {"base.weights": str(own.weights), "base.epochs": 0}
    for name, value in settings.items():
        project.set_param(name, value)
    project.dvc("repro", "finetune", PDIFF_TRACKING="off")
    before = project.output_hashes()["data/checkpoints.safetensors"]
    project.set_param("finetune.folder", f"hf://user/name@{later}")
    output = project.dvc("repro", "finetune", PDIFF_TRACKING="off")
    assert stages_run(output) == {"check_params", "finetune"}
    assert project.output_hashes()["data/checkpoints.safetensors"] != before


def test_a_wrong_parameter_stops_the_run_and_keeps_what_was_there(project):
    before = {p: p.read_bytes() for p in (project.path / "models").iterdir()}
    output = project.dvc("exp", "run", "-S", "noise.latent=-1", check=False)
    assert project.code != 0
    assert "error: params.yaml: noise.latent: -1 is refused" in output
    assert "Traceback" not in output
    assert stages_run(output) == {"check_params"}
    assert {p: p.read_bytes() for p in (project.path / "models").iterdir()} == before
    project.undo()


def test_a_killed_training_goes_on_where_it_was_and_ends_the_same(project, tmp_path):
    whole, killed = (project.copy(tmp_path / name) for name in ("whole", "killed"))
    for copy in (whole, killed):
        copy.environment["PDIFF_TRACKING"] = "off"
        copy.set_param("autoencoder.steps", 1500)
    whole.stage("train_autoencoder")
    killed.kill("train_autoencoder", "stages.train_autoencoder")
    killed.stage("train_autoencoder")
    for name in ("models/autoencoder.safetensors", "data/latents.safetensors"):
        assert (killed.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert not killed.states("train_autoencoder")

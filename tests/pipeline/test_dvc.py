"""The pipeline under DVC, for real, on a tiny configuration: slow tests."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from pdiff.tracking import SETTINGS
from tests.toys.project import Project, clone, commit, make_project, stages_run

pytestmark = pytest.mark.slow

AFTER_THE_AUTOENCODER = {
    "train_autoencoder",
    "train_ddpm",
    "generate",
    "evaluate_generated",
    "novelty",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A tiny project after its first `dvc repro`, committed."""
    project = make_project(tmp_path_factory.mktemp("project") / "pdiff")
    project.dvc("repro")
    commit(project)
    return project


def test_a_second_repro_runs_nothing(project):
    assert stages_run(project.dvc("repro")) == set()


def test_a_clean_run_elsewhere_gives_the_same_hashes(project, tmp_path):
    other = clone(project, tmp_path / "clone")
    assert stages_run(other.dvc("repro")) == set(project.lock())
    assert other.output_hashes() == project.output_hashes()
    assert other.run("git", "status", "--porcelain").strip() == ""


def test_an_ablation_runs_only_what_follows_the_autoencoder(project):
    output = project.dvc("exp", "run", "-n", "low", "-S", "noise.latent=0.01")
    assert stages_run(output) == {"check_params", *AFTER_THE_AUTOENCODER}
    shown = project.dvc("exp", "show", "--csv")
    rows = shown.splitlines()
    assert "accuracy.generated_mean" in rows[0]
    assert [row for row in rows if "low" in row.split(",")[:4]]
    runs = project.runs()
    assert runs["low"]["status"] == "FINISHED"
    assert runs["low"]["params"]["noise.latent"] == "0.01"
    assert len(runs) == 2  # beside the default
    project.run("git", "checkout", "-q", ".")
    project.dvc("checkout")


def test_no_queued_experiment_is_lost_from_mlflow(project):
    """Queued runs live in folders that are thrown away; the default's repeat runs no stage."""
    project.dvc("exp", "run", "--queue", "-n", "lat", "-S", "noise.latent=0.001,0.01,0.1,1")
    project.dvc("queue", "start", "-j", "1")
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        status = project.dvc("queue", "status")
        if status.count("Success") == 4:
            break
        assert "Failed" not in status, status
        time.sleep(2)
    project.sync()
    runs = project.runs()
    latent = {key: run["params"]["noise.latent"] for key, run in runs.items() if "lat-" in key}
    assert sorted(latent.values(), key=float) == ["0.001", "0.01", "0.1", "1"]
    assert all("accuracy.generated_mean" in run["metrics"] for run in runs.values())
    same = next(key for key, value in latent.items() if value == "0.1")
    default = next(run for key, run in runs.items() if key.startswith("repro-"))
    name = "accuracy.generated_mean"
    assert runs[same]["metrics"][name] == default["metrics"][name]
    assert project.sync().startswith("sync: 0 added")
    assert not list((project.path / ".dvc/tmp/exps").glob("tmp*/mlflow.db"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("noise.latent=-1", "error: params.yaml: noise.latent: -1 is refused"),
        ("base.net=resnet81", "error: base.net: unknown net 'resnet81'"),
        ("+noise.latnet=0.1", "unknown key noise.latnet; known: latent, param"),
    ],
)
def test_a_wrong_parameter_stops_the_run_and_keeps_what_was_there(project, override, message):
    before = {p: p.read_bytes() for p in (project.path / "models").iterdir()}
    output = project.dvc("exp", "run", "-S", override, check=False)
    assert project.code != 0
    assert message in output
    assert "Traceback" not in output
    assert stages_run(output) == {"check_params"}
    assert {p: p.read_bytes() for p in (project.path / "models").iterdir()} == before
    project.run("git", "checkout", "-q", ".")
    project.dvc("checkout")


def test_own_images_and_any_timm_net(project, image_folder):
    chosen = ("data=folder", f"data.root={image_folder}", "net=timm", "base.net=test_vit")
    # the tiny recipe's sizes are meant for digits
    sizes = ("data.train_size=null", "data.validation_size=0.25", "data.test_size=null")
    overrides = [
        part
        for value in (*chosen, *sizes, "data.size=32", "data.noise=0")
        for part in ("-S", value)
    ]
    output = project.dvc("exp", "run", "-n", "own", *overrides, "-S", "data.resize=32")
    assert stages_run(output) == set(project.lock())
    assert project.metrics()["accuracy"]["original_mean"] > 0
    assert "up to date" in project.dvc("status")
    shutil.copyfile(image_folder / "train/cat/0.png", image_folder / "train/cat/new.png")
    status = project.dvc("status")
    assert "prepare_data" in status and str(image_folder) in status
    project.run("git", "checkout", "-q", ".")
    project.dvc("checkout")


def test_dvc_notices_a_change_of_an_own_net(tmp_path):
    project = make_project(tmp_path / "project")
    shutil.copyfile(project.path / "examples/cifar_resnet.py", project.path / "my_net.py")
    commit(project)
    chosen = ("-S", "net=own", "-S", "base.net=my_net.py:resnet20")
    output = project.dvc("exp", "run", *chosen, "finetune", check=False)
    assert "error: base.watch: 'requirements.txt' is not the file" in output
    assert "give -S base.watch=my_net.py" in output
    watched = (*chosen, "-S", "base.watch=my_net.py")
    output = project.dvc("exp", "run", "--temp", *watched, "finetune")
    assert stages_run(output) == {"check_params", "prepare_data", "train_base", "finetune"}
    assert stages_run(project.dvc("exp", "run", *watched, "finetune")) == set()  # from the cache
    with (project.path / "my_net.py").open("a") as file:
        file.write("# changed\n")
    status = project.dvc("status", "train_base", "finetune")
    assert "train_base:" in status and "finetune:" in status
    assert status.count("my_net.py") == 2


@pytest.mark.parametrize("stage", ["train_base", "train_autoencoder", "train_ddpm"])
def test_a_killed_training_goes_on_where_it_was_and_ends_the_same(project, tmp_path, stage):
    longer = {"base.epochs": 40, "autoencoder.steps": 1500, "ddpm.steps": 1500}
    key = {"train_base": "base.epochs"}.get(stage, f"{stage.removeprefix('train_')}.steps")
    whole = make_project(tmp_path / "whole", **{key: longer[key]})
    killed = make_project(tmp_path / "killed", **{key: longer[key]})
    whole.dvc("repro", stage)
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", stage],
        cwd=killed.path,
        env=killed.env({"PDIFF_SAVE_EVERY_S": "0.2"}),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not list((killed.path / ".work" / stage).glob("*/state.pt")):
        assert process.poll() is None and time.monotonic() < deadline, "ended before it was killed"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killed.dvc("repro", stage)
    assert killed.output_hashes() == whole.output_hashes()
    assert not list((killed.path / ".work" / stage).glob("*/state.pt"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server(tmp_path):
    """A real MLflow server on loopback."""
    port = _free_port()
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(
        command,
        stdout=log,
        stderr=log,
        env={**os.environ, **SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=2).close()
            break
        except OSError:
            assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
            time.sleep(0.5)
    yield uri
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def test_a_team_shares_results_through_a_remote_and_a_server(server, tmp_path):
    """Push, fresh clone, pull: `dvc repro` is a no-op, and the run stands on the server."""
    mine = make_project(tmp_path / "mine")
    mine.environment["MLFLOW_TRACKING_URI"] = server
    mine.dvc("remote", "add", "--default", "team", str(tmp_path / "remote"))
    mine.dvc("repro")
    commit(mine)
    mine.dvc("push")
    yours = clone(mine, tmp_path / "yours")
    yours.dvc("pull")
    assert stages_run(yours.dvc("repro")) == set()
    assert yours.output_hashes() == mine.output_hashes()
    (run,) = mine.runs(server).values()
    assert run["status"] == "FINISHED"
    assert run["metrics"]["accuracy.generated_mean"] == pytest.approx(
        yours.metrics()["accuracy"]["generated_mean"]
    )
    assert not (mine.path / "mlflow.db").exists()


def test_a_server_that_is_down_loses_nothing(project, tmp_path):
    mine = clone(project, tmp_path / "mine")
    shutil.copytree(project.path / ".dvc/cache", mine.path / ".dvc/cache")
    mine.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{_free_port()}"
    mine.dvc("checkout")
    output = mine.dvc("exp", "run", "-n", "alone", "-S", "noise.latent=0.5")
    assert "warning: tracking:" in output
    del mine.environment["MLFLOW_TRACKING_URI"]
    mine.sync()
    runs = mine.runs()
    assert runs["alone"]["status"] == "FINISHED"
    assert runs["alone"]["metrics"]["accuracy.generated_mean"] > 0

"""Tracking against real stores: SQLite, MLflow's server on the loopback, and a toy DVC project."""

import contextlib
import hashlib
import http.server
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pandas as pd
import pytest
import yaml

from pdiff import tracking
from pdiff.tracking import ui
from pdiff.tracking.__main__ import main
from pdiff.tracking.comparison import COLUMNS
from pdiff.tracking.files import REPORT_STAGE, Folder, flat_params, md5_of, params_sha
from pdiff.tracking.made_by import FILE
from pdiff.tracking.store import Store, open_store, tracking_uri
from pdiff.tracking.sync import Source, sync
from tests.conftest import ROOT
from tests.toys.project import GIT, Project, commit
from tests.toys.tracked import PNG, run_report, run_stage, toy, write, write_dvc_project

NOTHING = ""


def fail(stage: str) -> None:
    with pytest.raises(ValueError, match="first line"), tracking.run(stage, toy()):
        raise ValueError("first line\nsecond")


def by_name(**tags: str) -> dict:
    """MLflow's runs with these tags, none of them twice."""
    with open_store() as store:
        runs = store.runs(**tags)
    found = {run.info.run_name: run for run in runs}
    assert len(found) == len(runs), "one stands twice"
    return found


def all_runs() -> dict:
    return by_name(role="pipeline")


def only_pipeline():
    (found,) = all_runs().values()
    return found


def stages_of(pipeline) -> dict:
    return by_name(parent=pipeline.info.run_id)


def curve_of(run, name: str) -> list[tuple[int, float]]:
    with open_store() as store:
        points = store.client.get_metric_history(run.info.run_id, name)
    return sorted((point.step, point.value) for point in points)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


# Names and notation


def test_params_have_one_hash_however_they_are_written():
    from_yaml = yaml.safe_load("noise: {channels: [8, 16], latent: 1e-5}\nname: toy")  # a string
    assert params_sha(from_yaml) == params_sha(toy(0.00001).model_dump(mode="json"))
    assert params_sha({"a": 1, "b": True}) == params_sha({"b": True, "a": 1.0})
    assert params_sha({"a": 1}) != params_sha({"a": 2})
    assert params_sha({"a": 1}) != params_sha({"a": True})


def test_params_are_flat_and_lists_compact():
    shown = flat_params({"noise": {"channels": (8, 16), "latent": 1.0}, "n": None, "on": True})
    flat = {"noise.channels": "[8,16]", "noise.latent": "1", "n": "null", "on": "true"}
    assert shown == flat


def test_a_relative_store_starts_at_the_root(bare_project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert tracking_uri() == f"sqlite:///{bare_project}/other.db"


# One stage


def test_a_stage_keeps_every_point_and_its_own_sections(project, monkeypatch):
    import mlflow

    log_batch, sizes = mlflow.MlflowClient.log_batch, []

    def counted(client, run_id, metrics=(), *rest):
        sizes.append(len(metrics))
        return log_batch(client, run_id, metrics, *rest)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", counted)
    run_stage("train", points=1801)
    assert sum(sizes) > 2 * 1801 and max(sizes) <= 1000 and len(sizes) <= 8  # two runs have it
    stage = stages_of(only_pipeline())["train"]
    assert curve_of(stage, "loss") == [(step, 1 / (step + 1)) for step in range(1801)]
    assert stage.data.params == {"noise.latent": "0.1", "noise.channels": "[8,16]"}
    assert stage.data.metrics["r2"] == 0.5
    assert stage.data.metrics["duration_s"] > 0
    assert stage.data.metrics["peak_memory_mb"] > 10
    assert stage.data.metrics["steps_per_s"] > 1801 / stage.data.metrics["duration_s"]
    assert stage.info.status == "FINISHED"


def test_the_experiment_shows_all_parameters_while_it_runs(project):
    run_stage("train")
    pipeline = only_pipeline()
    sha = params_sha(toy().model_dump())
    assert pipeline.data.params.keys() == {"name", "noise.latent", "noise.channels"}
    assert pipeline.info.run_name == f"repro-{sha[:8]}"
    assert pipeline.info.status == "RUNNING"
    assert pipeline.data.tags["pdiff.params_sha"] == sha
    assert pipeline.data.tags["pdiff.host"] == socket.gethostname()


def test_a_short_stage_leaves_it_to_the_last_one_to_tell_mlflow(project, monkeypatch):
    monkeypatch.setattr(tracking, "PATIENCE_S", 3600.0)
    run_stage("train")
    assert all_runs() == {}
    run_report()
    assert stages_of(only_pipeline()).keys() == {"train", REPORT_STAGE}
    assert "dvc.cached" not in stages_of(only_pipeline())["train"].data.tags


def test_a_failing_stage_is_marked(project, monkeypatch):
    run_stage("prepare")
    monkeypatch.setattr(tracking, "PATIENCE_S", 3600.0)  # a failure is told at once
    fail("train")
    for _ in range(2):
        pipeline = only_pipeline()
        assert pipeline.info.status == "FAILED"
        stages = stages_of(pipeline)
        assert [stages[name].info.status for name in ("prepare", "train")] == ["FINISHED", "FAILED"]
        assert stages["train"].data.tags["pdiff.error"] == "ValueError: first line\nsecond"
        sync()


def test_a_second_run_of_a_stage_replaces_the_first(project):
    run_stage("train", points=5)
    run_stage("train", points=2)
    stage = stages_of(only_pipeline())["train"]
    assert len(curve_of(stage, "loss")) == 2


def test_the_same_name_with_other_parameters_starts_anew(project, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "fixed")
    run_stage("prepare", latent=0.1)
    run_stage("train", latent=0.1)
    run_stage("train", latent=0.2)
    pipeline = all_runs()["fixed"]
    assert pipeline.data.params["noise.latent"] == "0.2"
    assert stages_of(pipeline).keys() == {"train"}
    assert [path.name for path in (project / ".work/runs/fixed").glob("*")] == ["train.json"]
    assert sync() == NOTHING
    assert all_runs()["fixed"].info.run_id == pipeline.info.run_id


def test_another_machine_may_use_the_same_name(project, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "fixed")
    run_stage("train", latent=0.1)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    run_stage("train", latent=0.2)
    with open_store() as store:
        runs = store.runs(key="fixed", role="pipeline")
    assert {run.data.params["noise.latent"] for run in runs} == {"0.1", "0.2"}


def test_tracking_can_be_switched_off(bare_project, monkeypatch, capfd):
    monkeypatch.setenv("PDIFF_TRACKING", "off")
    run_stage("train")
    run_report()
    assert not (bare_project / "mlflow.db").exists()
    (record,) = bare_project.glob(".work/runs/*/train.json")
    assert [p[0] for p in json.loads(record.read_text())["points"]][:4] == [*["loss"] * 3, "r2"]
    assert tracking.records() == [*bare_project.glob(".work/runs/*/results")] == []
    assert capfd.readouterr().err == ""


def test_records_can_wait_for_sync(project, monkeypatch):
    monkeypatch.setenv("PDIFF_TRACKING", "later")
    run_stage("train")
    run_report()
    assert all_runs() == {}
    assert sync() == "1 added"
    assert stages_of(only_pipeline()).keys() == {"train", "audit"}


# MLflow in trouble


def without_mlflow(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)


def a_broken_store(monkeypatch) -> None:
    Path("mlflow.db").write_text("this is no database" * 1000)


def a_moved_store(monkeypatch) -> None:
    run_stage("prepare")
    with contextlib.closing(sqlite3.connect("mlflow.db")) as database:
        database.execute("UPDATE experiments SET artifact_location = 'file:///old/mlruns'")
        database.commit()


def a_locked_store(monkeypatch) -> sqlite3.Connection:
    other = sqlite3.connect("mlflow.db")
    other.execute("BEGIN EXCLUSIVE")
    return other


def a_silent_server(monkeypatch) -> socket.socket:
    server = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
    return server


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (without_mlflow, "import of mlflow halted"),
        (a_broken_store, "not a database"),
        (a_moved_store, "delete mlflow.db and mlruns"),
        (a_locked_store, "database is locked"),
        (a_silent_server, "no MLflow server"),
    ],
)
def test_trouble_with_mlflow_costs_a_stage_one_warning(
    project, monkeypatch, capfd, trouble, message
):
    cause, started = trouble(monkeypatch), time.monotonic()
    run_stage("train")
    assert time.monotonic() - started < 20
    if cause:
        cause.close()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: tracking: train was not logged: ") and message in line
    assert list(project.glob(".work/runs/*/train.json"))


def a_folder(monkeypatch) -> None:
    Path("mlflow.db").unlink()
    Path("mlflow.db").mkdir()


def a_truncated_store(monkeypatch) -> None:
    os.truncate("mlflow.db", 20_000)


def a_newer_store(monkeypatch) -> None:
    with contextlib.closing(sqlite3.connect("mlflow.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = 'abc'")
        database.commit()


def a_full_disk(monkeypatch) -> None:
    def full(*arguments) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Store, "_create", full)


def an_unknown_scheme(monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "gopher://localhost")


def databricks(monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")


DELETE = "mlflow.db: sync rebuilds it"


@pytest.mark.parametrize("command", ["sync", "compare", "ui"])
@pytest.mark.parametrize(
    ("trouble", "messages"),
    [
        (without_mlflow, ["import of mlflow halted"]),
        (a_broken_store, ["not a database", DELETE]),
        (a_folder, ["unable to open database file", DELETE]),
        (a_truncated_store, ["malformed", DELETE]),
        (a_newer_store, [DELETE]),
        (a_locked_store, ["database is locked"]),
        (a_full_disk, ["error: database or disk is full\n"]),
        (an_unknown_scheme, ["gopher"]),
        (databricks, [""]),
    ],
)
def test_a_command_says_in_one_line_what_is_wrong_with_the_store(
    project, monkeypatch, capfd, trouble, messages, command
):
    monkeypatch.setattr(tracking, "PATIENCE_S", 3600.0)
    run_stage("train")
    cause = trouble(monkeypatch)
    code = main([command])
    if cause:
        cause.close()
    (line,) = capfd.readouterr().err.splitlines(keepends=True)
    assert code == 1 and line.startswith("error: ")
    assert all(message in line for message in messages)
    assert ("rebuilds it" in line) == (DELETE in messages)


def test_a_deleted_store_is_rebuilt_from_the_records(project, monkeypatch, capfd):
    monkeypatch.setattr(tracking, "PATIENCE_S", 3600.0)
    run_stage("train")
    a_broken_store(monkeypatch)
    assert main(["sync"]) == 1
    Path("mlflow.db").unlink()
    assert main(["sync"]) == 0
    assert capfd.readouterr().out == "sync: 1 added\n"


@pytest.fixture
def serve(monkeypatch):
    """`serve(status, wait_s)`: MLflow's server is one whose every answer but that on /health has
    this status, after a while; the list of the paths that it is asked for."""
    servers = []

    def start(status: int = 500, wait_s: float = 0.0) -> list[str]:
        asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                healthy = self.path == "/health"
                time.sleep(0 if healthy else wait_s)
                with contextlib.suppress(OSError):
                    self.send_response(200 if healthy else status)
                    self.end_headers()
                    self.wfile.write(b"<html>")

            do_POST = do_GET

            def log_message(self, *arguments) -> None:
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[0].serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{servers[0].server_port}")
        return asked

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    yield start
    servers[0].shutdown()
    servers[0].server_close()


@pytest.mark.parametrize("status", [200, 401, 429, 500])
def test_a_server_that_answers_anything_else_is_one_line(project, capfd, serve, status):
    serve(status)
    for command in ("sync", "compare", "ui"):
        assert main([command]) == 1
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("error: ") and "rebuilds" not in line


def test_a_server_that_hangs_is_asked_by_one_stage_of_a_pipeline(
    project, monkeypatch, capfd, serve
):
    monkeypatch.setattr(tracking, "SLOW_S", 0.5)
    paths = serve(wait_s=2.0)
    run_stage("prepare")
    asked = len(paths)
    run_stage("train")
    run_report()
    assert len(paths) == asked > 1
    assert main(["sync"]) == 1  # asks again
    assert len(paths) > asked
    lines = capfd.readouterr().err.splitlines()
    assert [line.startswith("warning: tracking: ") for line in lines] == [True] * 3 + [False]
    assert ["did not answer an earlier" in line for line in lines] == [False, True, True, False]

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert sync() == "1 added"
    assert not tracking.silent_server().exists()


def test_the_loopback_is_reached_past_a_proxy(project, monkeypatch, capfd, serve):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{closed.getsockname()[1]}")
        asked = serve()
        assert main(["sync"]) == 1
    assert asked[0] == "/health" and asked[1].startswith("/api/")
    assert capfd.readouterr().err.count("\n") == 1
    monkeypatch.setenv("no_proxy", "intranet")
    with contextlib.suppress(Exception), open_store():
        pass
    assert os.environ["no_proxy"] == "intranet,localhost,127.0.0.1,::1,[::1]"


@pytest.mark.parametrize("damage", ["{", "[1]", "{}", "\0"])
def test_a_damaged_record_is_named_and_the_others_are_logged(project, capfd, damage):
    run_stage("prepare")
    (path,) = project.glob(".work/runs/*/prepare.json")
    path.write_text(damage)
    run_stage("train")
    assert sync() == NOTHING  # the stage itself has told MLflow
    assert stages_of(only_pipeline()).keys() == {"prepare", "train"}
    (line,) = set(capfd.readouterr().err.splitlines())
    assert line.startswith(f"warning: tracking: {path} is damaged and left aside: ")
    run_stage("prepare")  # names it once more, and writes it anew
    capfd.readouterr()
    assert sync() == NOTHING and capfd.readouterr().err == ""


def test_results_that_cannot_be_copied_whole_leave_nothing(project, monkeypatch, capfd):
    def full(*arguments) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tracking.files, "copy", full)
    run_report()
    assert "No space left on device" in capfd.readouterr().err
    assert [path.name for path in project.glob(".work/runs/*/*")] == [f"{REPORT_STAGE}.json"]


def test_a_server_that_is_down_costs_a_warning_each_and_no_result(project, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    for latent in (0.1, 0.2):
        run_stage("train", latent)
        run_report(latent)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 4 and all(line.startswith("warning: tracking: ") for line in lines)
    shutil.rmtree("metrics")
    shutil.rmtree("report")  # the workspace moves on

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert sync() == "2 added"
    pipelines = all_runs()
    assert {run.info.status for run in pipelines.values()} == {"FINISHED"}
    values = {run.data.metrics["accuracy.generated_best"] for run in pipelines.values()}
    assert values == {0.1, 0.2}
    for pipeline in pipelines.values():
        stage = stages_of(pipeline)["train"]
        assert len(curve_of(stage, "loss")) == 3 and stage.data.metrics["duration_s"] > 0
        assert "dvc.cached" not in stage.data.tags
    assert sync() == NOTHING


# Several processes


@pytest.mark.slow
def test_processes_may_make_the_store_and_log_at_the_same_time(bare_project):
    code = "import sys; from tests.toys.tracked import run_stage, tracking as t;"
    code += "t.PATIENCE_S = 0.0; run_stage(sys.argv[1], points=1200)"
    jobs = [("one", "train"), ("same", "prepare"), ("same", "train")]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, stage],
            env={**os.environ, "PYTHONPATH": str(ROOT), "DVC_EXP_NAME": name},
            text=True,
            stderr=subprocess.PIPE,
        )
        for name, stage in jobs
    ]
    assert [process.communicate(timeout=300)[1] for process in started] == [""] * len(jobs)
    pipelines = all_runs()
    assert pipelines.keys() == {"one", "same"}
    for name, stage in jobs:
        assert len(curve_of(stages_of(pipelines[name])[stage], "loss")) == 1200


# A whole experiment


def test_the_last_stage_completes_the_experiment(project):
    run_report(0.25)
    pipeline = only_pipeline()
    assert pipeline.info.status == "FINISHED"
    last = {"loss": 1.5}  # the last point of a curve
    assert pipeline.data.metrics == {"accuracy.generated_best": 0.25, "train.r2": 0.7, **last}


def test_the_experiment_shows_tables_and_figures(project):
    run_report()
    pipeline = only_pipeline()
    tables = json.loads(pipeline.data.tags["mlflow.loggedArtifacts"])
    assert [table["path"] for table in tables] == ["summary.json", "other.json"]
    with open_store() as store:
        folder = Path(store.client.download_artifacts(pipeline.info.run_id, ""))
        shown = store.client.load_table(store.experiment_id, "summary.json")
    assert list(shown["group"]) == ["original", "generated"]
    assert list(shown["accuracy"]) == [0.75, 0.5]
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        *("summary.json", "other.json", "params.yaml"),
        *("report/summary.csv", "report/other.csv", "report/figure.png"),
    }
    assert (folder / "report/figure.png").read_bytes() == PNG


def test_a_restored_stage_gets_its_run_from_files(project):
    run_report()
    stages = stages_of(only_pipeline())
    assert stages["train"].data.tags["dvc.cached"] == "true"
    assert curve_of(stages["train"], "loss") == [(0, 2.0), (10, 1.5)]
    assert curve_of(stages["train"], "r2") == [(10, 0.25), (10, 0.7)]  # the curve, the final value
    assert stages["train"].data.metrics["r2"] == 0.7
    assert "dvc.cached" not in stages[REPORT_STAGE].data.tags


def test_a_failure_after_a_success_leaves_the_numbers_and_their_status(project):
    run_stage("train", points=7)
    run_report()
    for _ in range(2):
        fail("train")
        pipeline = only_pipeline()
        assert pipeline.info.status == "FINISHED"
        with open_store() as store:
            tries = store.runs(parent=pipeline.info.run_id, stage="train")
        assert [run.info.status for run in tries].count("FINISHED") == 1
        assert tries[0].info.status == "FAILED"
        assert sync() == NOTHING
    run_stage("train", points=8)  # takes the place of all of them
    assert len(curve_of(stages_of(only_pipeline())["train"], "loss")) == 8


def test_what_was_deleted_in_mlflow_stays_deleted(project):
    run_stage("train")
    run_report()
    with open_store() as store:
        for run in store.runs():
            store.client.delete_run(run.info.run_id)
    assert sync() == NOTHING
    assert all_runs() == {}


def test_results_of_a_run_that_was_replaced_can_come_back(project, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "fixed")
    results = project / ".work/runs/fixed/results"
    run_report(0.1)
    shutil.copytree(results, project / "first")
    run_report(0.2)
    shutil.rmtree(results)
    shutil.move(project / "first", results)
    assert sync() == "1 updated"
    with open_store() as store:
        runs = store.runs(key="fixed", role="pipeline")
    assert "0.1" in {run.data.params["noise.latent"] for run in runs}


LOCK = {
    "train": {
        "params": {"params.yaml": {"noise": {"latent": 0.1}}},
        "outs": [{"path": "train.out", "md5": "1"}],
    },
    REPORT_STAGE: {
        "deps": [{"path": "train.out", "md5": "1"}, {"path": "room", "md5": "elsewhere"}],
        "params": {"params.yaml": {"noise.latent": 0.1}},
        "outs": [{"path": "metrics/audit.json", "md5": hashlib.md5(b"{}").hexdigest()}],
    },
}
RECORD = {"path": FILE.format("train")}


@pytest.mark.parametrize(
    ("stage", "part", "complete"),
    [
        ("train", {}, True),
        ("train", {"params": {"params.yaml": {"noise": {"latent": 0.2}}}}, False),
        (REPORT_STAGE, {"params": {"params.yaml": {"noise.latent": 0.2}}}, False),
        ("train", {"outs": [{"path": "train.out", "md5": "2"}]}, False),  # only train was run again
        (REPORT_STAGE, {"outs": [{"path": "metrics/audit.json", "md5": "other"}]}, False),
        ("train", {"outs": [*LOCK["train"]["outs"], {**RECORD, "md5": "forged"}]}, False),
        (REPORT_STAGE, None, False),  # it has not run
    ],
)
def test_results_belong_to_the_lock_or_are_not_complete(tmp_path, stage, part, complete):
    stages = LOCK | {stage: LOCK[stage] | part} if part is not None else {"train": LOCK["train"]}
    files = {"params.yaml": "noise: {latent: 1e-1, more: 1}", "metrics/audit.json": "{}"}
    write({**files, "dvc.lock": yaml.safe_dump({"stages": stages})}, tmp_path)
    assert Source("key", Folder(tmp_path), 0.0).is_complete() == complete


# The last commit


@pytest.fixture
def committed(project) -> Path:
    """A clone: results of the default in Git, and neither records nor a run of them."""
    default = toy().model_dump(mode="json")
    outs = {"metrics/audit.json": b'{"half": 1}', "metrics/novelty.json": b"{}"}
    lock = {**LOCK["train"], "outs": []}
    stages = {"train": lock, REPORT_STAGE: {**LOCK[REPORT_STAGE], "deps": []}}
    stages[REPORT_STAGE]["outs"] = [
        {"path": path, "md5": hashlib.md5(content).hexdigest()} for path, content in outs.items()
    ]
    files = {"params.yaml": yaml.safe_dump(default), "dvc.lock": yaml.safe_dump({"stages": stages})}
    files |= {"dvc.yaml": yaml.safe_dump({"stages": {name: {} for name in stages}})}
    write(files | {path: content.decode() for path, content in outs.items()})
    made = Project(project, {"PYTHONPATH": str(ROOT)})
    made.run("git", "init", "-q")
    made.run("git", "add", "params.yaml", "dvc.lock", "dvc.yaml", "metrics")
    made.run("git", *GIT, "commit", "-qm", "results")
    return project


def test_the_default_has_its_numbers_although_an_ablation_came_first(committed, monkeypatch):
    run_stage("train")  # a clone's `dvc repro` trains, and skips the audit, whose files Git has
    write({"params.yaml": yaml.safe_dump(toy(0.2).model_dump(mode="json"))})
    monkeypatch.setenv("DVC_EXP_NAME", "glued-coof")
    run_report(0.2)
    shutil.rmtree("metrics")  # the workspace has moved on
    assert all_runs()["default"].info.status == "RUNNING"
    assert sync() == "1 updated"
    assert sync() == NOTHING
    found = all_runs()
    assert found.keys() == {"default", "noise.latent=0.2"}
    assert found["default"].info.status == "FINISHED"
    assert found["default"].data.metrics["audit.half"] == 1
    assert found["noise.latent=0.2"].data.tags["changed"] == "noise.latent=0.2"
    assert found["noise.latent=0.2"].data.metrics["accuracy.generated_best"] == 0.2


def test_the_last_commit_hides_no_failure_and_replaces_no_numbers(committed, monkeypatch):
    shutil.rmtree("metrics")
    fail("train")
    assert sync() == NOTHING
    assert only_pipeline().info.status == "FAILED"
    run_report()  # with other numbers than those of the commit
    own = only_pipeline().data.metrics["accuracy.generated_best"]
    shutil.rmtree(".work")
    assert sync() == NOTHING
    assert only_pipeline().data.metrics["accuracy.generated_best"] == own


# What an experiment's run holds


def test_models_and_data_of_an_experiment_are_listed_once(project):
    rows = "".join(f"generated,{i},{0.9 + i / 1000},{0.5 + i / 100}\n" for i in range(30))
    table = f"group,model,accuracy,max_similarity\noriginal,0,0.95,0.4\n{rows}"
    lock = {"train": {"outs": [{"path": "data/images.safetensors", "md5": "1" * 32}]}}
    write({"data/models.csv": table, "dvc.lock": yaml.safe_dump({"stages": lock})})
    for latent in (0.1, 0.2):
        run_report(latent)
    run_report(0.2)  # once more
    where = "metrics.accuracy > 0.925 and metrics.max_similarity < 0.78"
    with open_store() as store:
        found = store.client.search_logged_models([store.experiment_id], where)
        everything = store.client.search_logged_models([store.experiment_id], max_results=100)
        first = store.runs(role="pipeline")[-1].info.run_id
        one = store.client.get_run(first)
    names = ["generated_26", "generated_27", "original_0"]
    assert sorted(model.name for model in found) == sorted(2 * names)
    assert {model.status for model in everything} == {"READY"} and len(everything) == 2 * 21
    assert {model.source_run_id for model in found} >= {one.info.run_id}
    assert len(one.outputs.model_outputs) == 21
    assert "max_similarity" not in one.data.metrics
    (data,) = one.inputs.dataset_inputs
    assert (data.dataset.digest, data.tags[0].value) == ("1" * 32, "data")


# The comparison


def test_a_table_replaces_the_last_of_its_name(project):
    for value in (1, None):
        table = pd.DataFrame({"row": ["a"], "x": [value]})
        tracking.log_table("table 3c", table, [Path("mlflow.db")])
    assert by_name(role="table").keys() == {"table 3c"}
    with open_store() as store:
        shown = store.client.load_table(store.experiment_id, "table.json")
    assert list(shown["row"]) == ["a"] and shown["x"].isna().all()


def test_a_port_in_use_is_one_clear_line(bare_project, capfd):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["ui", "--port", str(port)]) == 1
    assert capfd.readouterr().err == f"error: port {port} is in use; choose with --port\n"


@pytest.mark.parametrize("port", ["99999", "-1", "0"])
def test_a_port_that_does_not_exist_is_one_clear_line(bare_project, capfd, port):
    assert main(["ui", f"--port={port}"]) == 1
    assert capfd.readouterr().err == f"error: --port: {port} is not between 1 and 65535\n"


def get(url: str) -> bytes:
    """The answer of a server that perhaps has yet to start."""
    for _ in range(240):
        with contextlib.suppress(ConnectionError, URLError):
            return urllib.request.urlopen(url, timeout=10).read()
        time.sleep(0.5)
    raise TimeoutError(url)


@pytest.fixture
def served(project):
    """The port at which `make ui` serves a finished experiment, and the lines that it printed."""
    run_report()
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "pdiff.tracking", "ui", "--port", str(port)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield port, [process.stdout.readline() for _ in range(2)]
    finally:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in errors
    ui.check_port(port)


@pytest.mark.slow
def test_the_ui_serves_the_view_and_ends_with_ctrl_c(served, monkeypatch, capfd):
    port, lines = served
    address = f"http://127.0.0.1:{port}"
    assert f": http://pdiff.localhost:{port}/#/experiments/1/runs?view" in lines[0]
    assert lines[0].endswith("&workflowType=machine_learning\n")
    assert "http" not in lines[1]  # one address
    run_id = only_pipeline().info.run_id
    assert get(f"{address}/get-artifact?path=report%2Ffigure.png&run_uuid={run_id}") == PNG
    experiment = get(f"{address}/api/2.0/mlflow/experiments/get?experiment_id=1")
    tags = {t["key"]: t["value"] for t in json.loads(experiment)["experiment"]["tags"]}
    view = json.loads(tags["mlflow.sharedViewState.pdiff"])
    assert [name.split("`")[1] for name in view["selectedColumns"]] == [*COLUMNS[1:]]

    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)  # as a team's server
    write({"data/models.csv": "group,model,accuracy,max_similarity\ngenerated,0,0.9,0.5\n"})
    run_stage("train", latent=0.3, points=1100)
    run_report(0.3)
    pipeline = next(r for r in all_runs().values() if r.data.params["noise.latent"] == "0.3")
    assert pipeline.info.status == "FINISHED"
    assert len(curve_of(stages_of(pipeline)["train"], "loss")) == 1100
    with open_store() as store:
        (model,) = store.client.search_logged_models(["1"], "metrics.accuracy > 0.8")
    assert {metric.key: metric.value for metric in model.metrics}["max_similarity"] == 0.5
    assert main(["ui"]) == 0  # its sync finds nothing to do, no server is started
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith(f"{address}/#/experiments/1/runs?")


# With DVC


@pytest.fixture
def dvc_project(project) -> Project:
    """A toy project of three stages under DVC, committed, its default not yet run."""
    made = Project(project, {"PYTHONPATH": str(ROOT)})
    made.run("git", "init", "-q")
    made.dvc("init", "-q")
    shutil.copy(ROOT / ".dvcignore", project / ".dvcignore")
    write_dvc_project(project)
    commit(made)
    return made


@pytest.mark.slow
def test_the_workspace_is_logged_once_and_only_while_it_is_up_to_date(
    dvc_project, monkeypatch, empty_store
):
    dvc_project.dvc("repro")
    pipeline = only_pipeline()
    assert pipeline.info.status == "FINISHED"
    assert stages_of(pipeline).keys() == {"prepare", "train", REPORT_STAGE}
    assert sync() == NOTHING
    for dep in dvc_project.lock()["prepare"]["deps"]:
        assert md5_of(Folder(dvc_project.path), dep["path"]) == dep["md5"]

    dvc_project.set_param("noise.latent", 0.7)
    assert sync() == NOTHING
    assert all_runs().keys() == {pipeline.info.run_name}
    dvc_project.set_param("noise.latent", 0.1)

    # as in a fresh clone after `dvc pull`; MLflow itself remembers the databases it has opened
    shutil.rmtree(dvc_project.path / ".work")
    shutil.copy(empty_store, dvc_project.path / "second.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///second.db")
    metrics, code = dvc_project.path / f"metrics/{REPORT_STAGE}.json", dvc_project.path / "stage.py"
    for path in (metrics, code):
        content = path.read_text()
        path.write_text(content + "\n")
        assert "added" not in sync(), path
        path.write_text(content)
    assert sync().startswith("1 added")
    pipeline = only_pipeline()
    assert pipeline.info.status == "FINISHED"
    assert pipeline.data.metrics[f"{REPORT_STAGE}.half"] == 0.05
    assert len(curve_of(stages_of(pipeline)["train"], "loss")) == 20
    assert stages_of(pipeline)["train"].data.params["noise.latent"] == "0.1"
    assert "added" not in sync()


@pytest.mark.nightly
def test_every_experiment_of_a_queue_is_there_once(dvc_project):
    dvc_project.dvc("repro")
    commit(dvc_project)
    for name, latent in [("low", "1e-5"), ("same", "0.1"), ("high", "10"), ("bad", "666")]:
        dvc_project.dvc("exp", "run", "--queue", "-n", name, "-S", f"noise.latent={latent}")
    dvc_project.dvc("exp", "run", "--run-all", "-j", "2")

    live = all_runs()
    assert {"low", "high", "bad"} <= live.keys()
    assert live["bad"].info.status == "FAILED"
    assert "same" not in live  # wholly from cache: no stage ran
    assert sync() == "1 added, 2 updated"
    assert sync() == NOTHING

    found = all_runs()
    assert len(found) == 5  # with the workspace's own
    means = {n: r.data.metrics.get(f"{REPORT_STAGE}.half") for n, r in found.items()}
    assert (means["low"], means["same"], means["high"]) == (5e-6, 0.05, 5)
    assert found["low"].data.params["noise.latent"] == "1e-05"
    assert found["bad"].info.status == "FAILED" and means["bad"] is None
    for name in ("low", "same", "high"):
        assert found[name].info.status == "FINISHED"
        stages = stages_of(found[name])
        assert stages.keys() == {"prepare", "train", REPORT_STAGE}
        assert len(curve_of(stages["train"], "loss")) == 20
        assert stages["prepare"].data.tags["dvc.cached"] == "true"
        assert len(found[name].data.tags["dvc.exp_rev"]) == 40


@pytest.mark.nightly
def test_an_experiment_in_the_workspace_is_there_once(dvc_project):
    dvc_project.dvc("exp", "run", "-n", "here", "-S", "noise.latent=0.5")
    assert sync() == "1 updated"
    assert sync() == NOTHING
    assert all_runs().keys() == {"here"}

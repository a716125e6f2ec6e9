"""Curves in MLflow while a stage trains, with real stores and processes."""

import contextlib
import io
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time

import pytest

from pdiff import tracking
from pdiff.tracking import live, show
from pdiff.tracking.store import open_store
from pdiff.tracking.sync import sync
from tests.conftest import ROOT
from tests.toys.tracked import run_report, toy


def about(stage: str = "train", name: str = "a") -> dict:
    """What a stage says of itself when it starts."""
    params = toy().model_dump(mode="json")
    known = {"id": name, "key": "key", "stage": stage, "started": 1000.0, "params": {}}
    return {**known, "all_params": params, "tags": {}}


def points(*steps: int, name: str = "ddpm_loss") -> list:
    return [[name, 1 / (1 + step), 1_000_000 + step, step] for step in steps]


def tell(monkeypatch, *messages: dict) -> bool:
    """What the process that logs says to this input."""
    text = "".join(f"{json.dumps(message)}\n" for message in messages)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return show.main()


def runs() -> dict:
    """Status and steps of the loss, by role."""
    with open_store() as store:
        found = {}
        for run in store.runs():
            history = store.client.get_metric_history(run.info.run_id, "ddpm_loss")
            steps = sorted(point.step for point in history)
            assert run.data.tags["pdiff.role"] not in found, "one stands twice"
            found[run.data.tags["pdiff.role"]] = (run.info.status, steps)
    return found


def test_points_are_there_before_the_stage_ends(project, monkeypatch):
    shown = show.Shown(about())
    for steps in ((0, 1), (2,)):
        shown.unsent += points(*steps)
        shown.log(None)
    assert runs() == {"pipeline": ("RUNNING", [0, 1, 2]), "stage": ("RUNNING", [0, 1, 2])}


def test_the_record_completes_what_was_shown_and_gives_each_point_once(project, monkeypatch):
    end = {"points": points(3), "status": "FINISHED"}
    assert not tell(monkeypatch, about(), {"points": points(0, 1)}, end)
    assert runs()["stage"] == ("FINISHED", [0, 1, 3])
    ended = {"status": "FINISHED", "ended": 2000.0, "timing": {}, "error": None, "tracked": True}
    for _ in range(2):
        tracking.save_record({**about(), **ended, "points": points(*range(5))})
        sync()
        assert runs() == {
            "pipeline": ("RUNNING", [0, 1, 2, 3, 4]),
            "stage": ("FINISHED", [0, 1, 2, 3, 4]),
        }


def test_a_stage_that_is_killed_is_marked_and_the_next_one_takes_its_place(project, monkeypatch):
    tell(monkeypatch, about(), {"points": points(0, 1)})
    assert runs() == {"pipeline": ("KILLED", [0, 1]), "stage": ("KILLED", [0, 1])}
    # a resumed training logs its first points again, at another time
    later = [[name, value, when + 9000, step] for name, value, when, step in points(0, 1, 2)]
    tell(monkeypatch, about(name="b"), {"points": later, "status": "FINISHED"})
    assert runs() == {"pipeline": ("RUNNING", [0, 1, 2]), "stage": ("FINISHED", [0, 1, 2])}


def test_a_stage_that_is_killed_leaves_a_finished_experiment_as_it_is(project, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "key")
    run_report()
    tell(monkeypatch, about(stage="again"), {"points": points(0)})
    with open_store() as store:
        (pipeline,) = store.runs(role="pipeline")
    assert pipeline.info.status == "FINISHED"


def test_only_losses_are_curves_of_the_experiment(project, monkeypatch):
    tell(monkeypatch, about(), {"points": [*points(0), *points(0, name="ddpm_lr")]})
    with open_store() as store:
        (pipeline,) = store.runs(role="pipeline")
    assert pipeline.data.metrics.keys() == {"ddpm_loss"}


def test_trouble_is_told_once_and_tried_again(project, monkeypatch, capfd):
    monkeypatch.setattr(show, "PAUSE_S", 1e-9)
    log, tries = show.Shown.log, []

    def down_at_first(self, status):
        tries.append(len(self.unsent))
        if len(tries) < 4:
            raise ConnectionError("no server")
        log(self, status)

    monkeypatch.setattr(show.Shown, "log", down_at_first)
    messages = [{"points": points(step)} for step in range(4)]
    assert not tell(monkeypatch, about(), *messages, {"points": [], "status": "FINISHED"})
    assert tries == [1, 2, 3, 4, 0]
    assert runs()["stage"] == ("FINISHED", [0, 1, 2, 3])
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: tracking: train is not shown while it runs: no server; `py")


def test_a_short_stage_and_one_without_a_curve_start_no_process(project, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail("started"))
    log = tracking.files.Log()
    log({"loss": 1.0}, 0)
    assert live.Live(about(), log).end("FINISHED")
    monkeypatch.setattr(live, "AFTER_S", 0.0)
    without = live.Live(about(), tracking.files.Log())
    time.sleep(0.2)
    assert without.end("FINISHED")


def refused() -> contextlib.AbstractContextManager:
    return contextlib.nullcontext("http://127.0.0.1:9")


@contextlib.contextmanager
def hanging():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("server", [refused, hanging])
def test_a_server_that_is_down_or_hangs_costs_one_warning_and_no_time(
    project, monkeypatch, capfd, server
):
    monkeypatch.setattr(live, "AFTER_S", 0.0)
    monkeypatch.setattr(live, "EVERY_S", 0.1)
    with server() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with tracking.run("train", toy()) as log:
            log({"ddpm_loss": 1.0}, 0)
            error = ""
            for _ in range(1200):
                time.sleep(0.1)
                error += capfd.readouterr().err
                if error:
                    break
            log({"ddpm_loss": 0.5}, 1)
            ended = time.monotonic()
        assert time.monotonic() - ended < live.GRACE_S + 1
    error += capfd.readouterr().err
    (line,) = error.splitlines()
    assert "train is not shown while it runs: no MLflow server" in line
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert sync() == "1 added"
    assert runs() == {"pipeline": ("RUNNING", [0, 1]), "stage": ("FINISHED", [0, 1])}


STAGE = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
from pdiff import tracking
from pdiff.tracking import live
from tests.toys.tracked import toy
live.AFTER_S, live.EVERY_S = 0.0, 0.2
with tracking.run("train", toy()) as log:
    for step in range(10_000):
        log({"ddpm_loss": 1 / (1 + step)}, step)
        time.sleep(0.05)
"""


def wait_for(wanted: set[tuple[str, str]]) -> None:
    """Until these roles and statuses, and a loss of each, are in the database; others may write."""
    query = """SELECT DISTINCT tags.value, runs.status FROM runs JOIN tags USING (run_uuid)
        JOIN metrics USING (run_uuid) WHERE tags.key = 'pdiff.role'"""
    found: set[tuple[str, str]] = set()
    for _ in range(600):
        with contextlib.closing(sqlite3.connect("file:mlflow.db?mode=ro", uri=True)) as database:
            found = {*database.execute(query)}
        if found == wanted:
            return
        time.sleep(0.5)
    raise AssertionError(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, "FAILED"), (signal.SIGKILL, "KILLED")]
)
def test_a_stage_is_seen_while_it_trains_and_so_is_its_end(project, number, status):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    stage = subprocess.Popen([sys.executable, "-c", STAGE], env=environment)
    try:
        wait_for({("pipeline", "RUNNING"), ("stage", "RUNNING")})
    finally:
        stage.send_signal(number)
        stage.wait(60)
    wait_for({("pipeline", status), ("stage", status)})
    sync()
    found = runs()
    assert found["stage"] == found["pipeline"] == (status, [*range(len(found["stage"][1]))])

"""Run experiments through DVC's queue.

A stage whose parameters, inputs and code have run before is not run again.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pdiff.paper.experiments import Experiment
from pdiff.system.paths import root

POLL_S = 3
ENDED = {"Success", "Failed"}


def run_with_dvc(experiments: Sequence[Experiment], jobs: int) -> dict[str, str]:
    """Queue the experiments, run the queue, wait; returns why some failed, by their sha.

    What the queue holds already is run too. Interrupted, DVC goes on in the background, and the
    next call finds what it has done.
    """
    failures: dict[str, str] = {}
    queued: dict[str, Experiment] = {}
    for experiment in experiments:
        if _status().get(experiment.name) in ENDED:
            _dvc("queue", "remove", experiment.name)
        arguments = [x for override in experiment.overrides for x in ("-S", override)]
        done = _dvc("exp", "run", "--queue", "--name", experiment.name, *arguments)
        if done.returncode == 0 or experiment.name in _status():
            queued[experiment.name] = experiment
        else:
            failures[experiment.sha] = last_error(done.stderr + done.stdout)
    if queued:
        _say(f"DVC runs {len(queued)} experiments, {jobs} at a time; `dvc queue status` shows them")
        _dvc("queue", "start", "--jobs", str(jobs))
    for name in _as_they_end(queued):
        if _status().get(name) != "Success":
            log = _dvc("queue", "logs", name)
            failures[queued[name].sha] = last_error(log.stdout + log.stderr)
    return failures


def _as_they_end(queued: dict[str, Experiment]) -> Iterator[str]:
    """Names of the experiments, each once it has ended or its worker is gone."""
    waiting, idle = set(queued), 0
    while waiting:
        status = _status()
        running = {name for name in waiting if status.get(name) in {"Running", "Queued"}}
        for name in sorted(waiting - running):
            _say(f"{name}: {status.get(name, 'gone from the queue').lower()}")
            yield name
        waiting = running
        active = any(status[name] == "Running" for name in running)
        idle = 0 if active else idle + 1
        if waiting and idle > 20:  # a worker that died leaves its tasks queued
            _dvc("queue", "start")
            idle = 0
        if waiting:
            time.sleep(POLL_S)


def _status() -> dict[str, str]:
    """Name and state of every task that DVC's queue knows."""
    lines = _dvc("queue", "status").stdout.splitlines()
    found = {}
    for line in lines:
        match = re.match(r"^[0-9a-f]{7}\s+(\S+)\s.*\b(Queued|Running|Success|Failed)\s*$", line)
        if match:
            found.setdefault(match[1], match[2])
    return found


def _dvc(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root(),
        env=os.environ | {"PATH": path},
        text=True,
        capture_output=True,
        check=False,
    )


def last_error(text: str) -> str:
    """The line that says what went wrong, or the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error: ")]
    own = [line for line in errors if "failed to run" not in line and "failed to repro" not in line]
    chosen = (own or errors or lines or ["no output"])[-1]
    return re.sub(r"^error: ", "", chosen, flags=re.IGNORECASE)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

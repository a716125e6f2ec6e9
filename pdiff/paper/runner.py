"""Complete a set of experiments: say what would run, run what is missing.

Here that is DVC's queue, on other machines `pdiff.paper.launch`.

A stage whose parameters, inputs and code have run before is not run again.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from pdiff import tracking
from pdiff.paper.experiments import Experiment, pipeline
from pdiff.paper.launch import launch, say
from pdiff.paper.results import Library, Measured
from pdiff.system.errors import InputError
from pdiff.system.paths import root
from pdiff.tracking.process import git_commit
from pdiff.tracking.sync import sync

POLL_S, MOST_S = 10, 60
"""Seconds between two looks at the queue, at first and in the end; each takes DVC some seconds."""
STATUS = re.compile(
    r"^([0-9a-f]{7})\s+(\S+)\s.*\b(Queued|Running|Success|Failed)\s*$", re.MULTILINE
)
"""A task's line in `dvc queue status`: its id, name and state."""


def complete(
    name: str, asked: Sequence[Measured], rows: Sequence[Measured], options: argparse.Namespace
) -> bool:
    """Run what the asked rows lack; then all rows have their results, and why some failed.

    False after a dry run, which only says what would run.

    Raises:
        InputError: experiments are missing and there is no DVC to run them.
    """
    find = partial(Library, any_code=options.any_code, folders=options.results)
    library, failures = find(), {}
    unique = {experiment.sha: experiment for row in asked for experiment in row.experiments}
    todo = [experiment for experiment in unique.values() if library.find(experiment) is None]
    if asked:
        print(f"{name}: {len(unique)} experiments, {len(todo)} to run", flush=True)
    if options.dry_run:
        print_plan(todo)
        return False
    if todo and not options.no_run:
        if not has_dvc():
            raise InputError(
                f"{len(todo)} experiments have no result, and without DVC and its repository none "
                "can run: --no-run makes the table of what is there"
            )
        if options.launcher == "local":
            failures = run_with_dvc(todo, options.jobs or 1)
        else:
            failures = run_elsewhere(todo, options)
        library = find()
    for row in rows:
        row.results, row.failures = [library.find(e) for e in row.experiments], failures
    return True


def print_plan(todo: Sequence[Experiment]) -> None:
    """The commands of the experiments, and how long each stage took when it last ran here."""
    for experiment in todo:
        print(f"  {experiment.name}: {experiment.command}")
    if todo:
        print("\nDVC runs the stages whose inputs differ; each took, when it last ran here:")
        ended = [r for r in tracking.kept_records() if r["status"] == "FINISHED"]
        done = [r for r in ended if "duration_s" in r["timing"]]
        last = {r["stage"]: r for r in sorted(done, key=lambda record: record["started"])}
        times = {s: f"{r['timing']['duration_s']:8.1f} s in {r['key']}" for s, r in last.items()}
        for stage in pipeline():
            print(f"  {stage:20} {times.get(stage, 'not yet timed')}")


def has_dvc() -> bool:
    """Whether experiments can run through DVC: it is installed, and this is its repository."""
    return (root() / ".dvc").is_dir() and bool(git_commit(root()) and find_spec("dvc"))


def run_elsewhere(todo: Sequence[Experiment], options: argparse.Namespace) -> dict[str, str]:
    """Run the experiments with Ray or SLURM; returns why some failed, by their sha."""
    printed = launch(todo, options)
    if tracking.tracking_is_on():
        with tracking.warns("the experiments were not logged", tracking.HINT):
            sync()
    return {sha: last_error(text) for sha, text in printed.items()}


def run_with_dvc(experiments: Sequence[Experiment], jobs: int) -> dict[str, str]:
    """Queue the experiments, run the queue, wait; returns why some failed, by their sha.

    What the queue holds already is run too. Interrupted, DVC goes on in the background, and the
    next call finds what it has done.
    """
    known, refused = _status(), {}
    for experiment in experiments:
        for task, (name, state) in known.items():
            if name == experiment.name and state in ("Success", "Failed"):
                _dvc("queue", "remove", task)
        done = _dvc("exp", "run", "--queue", "--name", experiment.name, *experiment.arguments)
        if done.returncode:
            refused[experiment.name] = last_error(done.stderr + done.stdout)
    # a task whose worker was killed stays "Running", so one of the same name is not yet ours
    tasks = {n: t for t, (n, _) in _status().items() if t not in known or n in refused}
    queued = {tasks[e.name]: e for e in experiments if e.name in tasks}
    if queued:
        say(f"DVC runs {len(queued)} experiments, {jobs} at a time; `dvc queue status` shows them")
        _dvc("queue", "start", "--jobs", str(jobs), listen=False)
        _wait({task: experiment.name for task, experiment in queued.items()}, jobs)
    failures = {
        e.sha: refused.get(e.name, "not queued") for e in experiments if e.name not in tasks
    }
    status = _status()
    for task, experiment in queued.items():
        if status.get(task) != (experiment.name, "Success"):
            log = _dvc("queue", "logs", task)
            failures[experiment.sha] = last_error(log.stdout + log.stderr)
    return failures


def _wait(names: Mapping[str, str], jobs: int) -> None:
    """Until every task has ended or is gone from the queue."""
    waiting, short, pause = set(names), 0, POLL_S
    while waiting:
        time.sleep(pause)
        pause = min(1.1 * pause, MOST_S)
        states = {task: state for task, (_, state) in _status().items() if task in waiting}
        for task in sorted(waiting, key=names.get):
            if (state := states.get(task, "Gone from the queue")) not in ("Running", "Queued"):
                say(f"{names[task]}: {state.lower()}")
                waiting.remove(task)
        running = [*states.values()].count("Running")
        short = short + 1 if running < min(jobs, len(waiting)) else 0
        if waiting and short > 3:  # of two workers that take a task at once one may die
            _dvc("queue", "start", "--jobs", str(jobs), listen=False)
            short = 0


def _status() -> dict[str, tuple[str, str]]:
    """Name and state of every task that DVC's queue knows, by the task's id."""
    return {t: (n, state) for t, n, state in STATUS.findall(_dvc("queue", "status").stdout)}


def _dvc(*arguments: str, listen: bool = True) -> subprocess.CompletedProcess[str]:
    """`listen` waits for the end of everyone who can write, workers left behind included."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "dvc", *arguments]
    output = subprocess.PIPE if listen else subprocess.DEVNULL
    settings = {"cwd": root(), "env": os.environ | {"PATH": path}, "stdout": output}
    return subprocess.run(command, **settings, stderr=output, text=True, check=False)


def last_error(text: str) -> str:
    """The line that says what went wrong, or the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error: ")]
    own = [line for line in errors if "failed to run" not in line and "failed to repro" not in line]
    chosen = (own or errors or lines or ["no output"])[-1]
    return re.sub(r"^error: ", "", chosen, flags=re.IGNORECASE)

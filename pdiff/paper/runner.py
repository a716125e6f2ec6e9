"""Run experiments: through DVC's queue, or stage by stage where there is no DVC.

Either way a stage whose parameters, inputs and code have run before is not run again.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from pdiff.core.files import write_text
from pdiff.paper.experiments import PLAIN, Experiment
from pdiff.paper.pipeline import outputs, stage_keys
from pdiff.system.paths import root
from pdiff.tracking.process import git_commit

POLL_S = 3
STAGES = ".work/plain/stages"
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
            failures[experiment.sha] = _last_error(done.stderr + done.stdout)
    if queued:
        _say(f"DVC runs {len(queued)} experiments, {jobs} at a time; `dvc queue status` shows them")
        _dvc("queue", "start", "--jobs", str(jobs))
    for name in _as_they_end(queued):
        if _status().get(name) != "Success":
            log = _dvc("queue", "logs", name)
            failures[queued[name].sha] = _last_error(log.stdout + log.stderr)
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


def run_plain(experiments: Sequence[Experiment]) -> dict[str, str]:
    """Run the stages of each experiment one after the other; returns why some failed, by sha.

    Each gets a folder of its own, with the files that its stages would leave in the workspace. A
    stage that another experiment has run with the same parameters and inputs is linked from there.
    """
    failures: dict[str, str] = {}
    failed: dict[str, str] = {}  # by the key of the stage
    for count, experiment in enumerate(experiments, start=1):
        _say(f"{experiment.name} ({count} of {len(experiments)})")
        folder = root() / PLAIN / experiment.name
        folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(experiment.params, sort_keys=False)
        write_text(folder / "params.yaml", text)
        for stage, key in stage_keys(experiment.params).items():
            reason = failed.get(key) or _run_stage(stage, key, folder, experiment.name)
            if reason:
                failed[key] = reason
                failures[experiment.sha] = f"{stage}: {reason}"
                break
        else:
            done = {"commit": git_commit(root()), "stages": stage_keys(experiment.params)}
            write_text(folder / "done.json", json.dumps(done))
    return failures


def _run_stage(stage: str, key: str, folder: Path, name: str) -> str:
    """Run or link one stage; the reason if it failed, else an empty string."""
    kept, outs = root() / STAGES / f"{stage}-{key}", outputs(stage)
    if (kept / "done").exists():
        _link(kept, folder, outs)
        return ""
    for out in outs:
        _remove(folder / out)
    paths = [str(root()), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "DVC_ROOT": str(root())}
    environment |= {"DVC_EXP_NAME": name}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=folder,
        env=os.environ | environment,
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        print(done.stdout + done.stderr, file=sys.stderr, flush=True)
        return _last_error(done.stderr or done.stdout)
    _say(f"  {stage}: {time.monotonic() - started:.0f} s")
    shutil.rmtree(kept, ignore_errors=True)
    _link(folder, kept, outs)
    (kept / "done").touch()
    return ""


def _link(source: Path, target: Path, outs: Sequence[str]) -> None:
    """Hard links, which cost no space; stages replace files and never write into them."""
    for out in outs:
        _remove(target / out)
        (target / out).parent.mkdir(parents=True, exist_ok=True)
        if (source / out).is_dir():
            shutil.copytree(source / out, target / out, copy_function=_link_file)
        else:
            _link_file(source / out, target / out)


def _link_file(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _last_error(text: str) -> str:
    """The line that says what went wrong, or the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error: ")]
    own = [line for line in errors if "failed to run" not in line and "failed to repro" not in line]
    chosen = (own or errors or lines or ["no output"])[-1]
    return re.sub(r"^error: ", "", chosen, flags=re.IGNORECASE)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

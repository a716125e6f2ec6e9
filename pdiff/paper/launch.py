"""Run a list of experiments on many machines, one job and one GPU each: with Ray or SLURM.

All machines see the project's folder, its Python included, at the same path. Jobs, what they print,
and their clones while they run, lie in `.work/launch`.
"""

import argparse
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pdiff.paper.experiments import Experiment, pipeline
from pdiff.paper.worker import is_home
from pdiff.system.errors import InputError, reason
from pdiff.system.paths import root
from pdiff.tracking.changed import RESULTS
from pdiff.tracking.files import cache_folder, git, params_sha
from pdiff.tracking.made_by import params_of
from pdiff.tracking.process import git_commit

THREADS = 2
"""Cores that a job asks for: a stage's threads, as `pdiff.system.portable` sets them."""
UNREAD = (*RESULTS, "results")
"""What may differ from the last commit: no experiment reads it."""
FORWARDED = ("PDIFF_", "OMP_NUM_THREADS", "MLFLOW_TRACKING_URI")
"""How the variables begin that a job has from whoever asked for it."""


def launch(experiments: Sequence[Experiment], options: argparse.Namespace) -> dict[str, str]:
    """Run the experiments and wait; returns what those printed that failed, by their sha.

    Raises:
        InputError: code is not committed, or there is no such engine here.
    """
    commit, keys = committed(), {e.name: stage_keys(e.params) for e in experiments}
    times = Counter(key for own in keys.values() for key in own.values())
    refs = {e.name: f"refs/exps/{commit[:2]}/{commit[2:]}/{e.name}" for e in experiments}
    _file("").mkdir(parents=True, exist_ok=True)
    for e in experiments:
        git("update-ref", "-d", refs[e.name], folder=root())  # one of some stages only
        job = {
            "name": e.name,
            "params": yaml.safe_dump(e.params, sort_keys=False),
            "shared": [(stage, key) for stage, key in keys[e.name].items() if times[key] > 1],
            "root": str(root()),
            "cache": str(cache_folder()),
            "commit": commit,
            "ref": refs[e.name],
            "environment": {k: v for k, v in os.environ.items() if k.startswith(FORWARDED)},
        }
        _file(f"{e.name}.json").write_text(json.dumps(job, indent=1))
    printed = LAUNCHERS[options.launcher](list(refs), options)
    return {e.sha: printed[e.name] for e in experiments if not is_home(root(), refs[e.name])}


def committed() -> str:
    """The commit that is checked out; `InputError` if files that Git knows differ from it."""
    where = (".", *(f":^{path}" for path in UNREAD))
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *where, folder=root())
    if changed:
        first = changed.decode().splitlines()[0].split()[-1]
        raise InputError(f"--launcher: {first} differs from the last commit, which machines clone")
    return git_commit(root())


def stage_keys(params: Mapping[str, Any]) -> dict[str, str]:
    """A hash for each stage of the parameters that it and the stages before it read.

    Two experiments of one commit with the same key run the same stage. A stage that reads the whole
    of params.yaml has none.
    """
    keys, made = {}, {}
    for name, stage in pipeline().items():
        if all(isinstance(part, str) for part in stage.get("params", [])):
            used = params_of(stage, params)
            above = [keys[made[path]] for path in stage["deps"] if path in made]
            keys[name] = params_sha({"stage": name, "params": used, "above": above})[:16]
            made |= {path: name for path in stage["outs"] if isinstance(path, str)}
    return keys


def _file(name: str) -> Path:
    return root() / ".work" / "launch" / name


def with_ray(names: Sequence[str], options: argparse.Namespace) -> dict[str, str]:
    """Each is a task of the Ray cluster that runs; Ray starts one again whose node is lost."""
    try:
        import ray
    except ImportError:
        raise InputError("--launcher ray: Ray is not installed: pip install 'ray>=2.60'") from None
    try:
        if ":" in (address := os.environ.get("RAY_ADDRESS", "")):
            host, _, port = address.rpartition("/")[2].rpartition(":")
            socket.create_connection((host, int(port)), timeout=5).close()  # Ray tries for minutes
        ray.init(address="auto", logging_level="error", log_to_driver=False)
    except (OSError, ValueError):
        text = "--launcher ray: no cluster: start one (`ray start --head`) or set RAY_ADDRESS"
        raise InputError(text) from None
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    run = ray.remote(num_cpus=THREADS, num_gpus=gpus)(subprocess.run)
    waiting, running, printed = list(names), {}, {}
    say(f"Ray runs {len(names)} experiments; {_file('NAME.log')} is what each prints")
    while waiting or running:
        while waiting and len(running) < (options.jobs or len(names)):
            name = waiting.pop(0)
            job, log = (shlex.quote(str(_file(f"{name}.{end}"))) for end in ("json", "log"))
            _file(f"{name}.log").write_text("")
            command = f"{shlex.quote(sys.executable)} -m pdiff.paper.worker {job} >> {log} 2>&1"
            running[run.remote(command, shell=True, cwd=str(root()))] = name
        (task,), _ = ray.wait(list(running))
        name = running.pop(task)
        try:
            ray.get(task)
            printed[name] = _file(f"{name}.log").read_text()
        except ray.exceptions.RayError as error:
            printed[name] = f"error: Ray: {reason(error)}"
        say(f"{name}: ended")
    ray.shutdown()
    return printed


def with_slurm(names: Sequence[str], options: argparse.Namespace) -> dict[str, str]:
    """They are one job array; SLURM starts one again whose node is lost."""
    if not shutil.which("sbatch"):
        raise InputError("--launcher slurm: there is no `sbatch` on this machine")
    found = subprocess.run(["sinfo", "-h", "-o", "%G"], capture_output=True, text=True, check=False)
    script = _file("array.sh")
    script.write_text(array_script(names, options.jobs, has_gpus="gpu" in found.stdout))
    say(f"SLURM runs {len(names)} experiments, {script}; `squeue --name pdiff` shows them")
    command = ["sbatch", "--parsable", "--wait", *shlex.split(options.sbatch), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    job = done.stdout.strip().partition(";")[0]
    if not job:
        raise InputError(f"--launcher slurm: {done.stderr.strip().splitlines()[0]}")
    logs = {name: _file(f"{job}_{index}.log") for index, name in enumerate(names)}
    return {name: log.read_text() if log.exists() else "" for name, log in logs.items()}


def array_script(names: Sequence[str], jobs: int | None, *, has_gpus: bool) -> str:
    """What `sbatch` is given; options on its command line win over those in the script."""
    settings = {
        "job-name": "pdiff",
        "array": f"0-{len(names) - 1}" + (f"%{jobs}" if jobs else ""),
        "cpus-per-task": THREADS,
        **({"gres": "gpu:1"} if has_gpus else {}),
        "chdir": root(),
        "output": _file("%A_%a.log"),
    }
    return "\n".join(
        [
            "#!/bin/sh",
            *(f"#SBATCH --{name}={shlex.quote(str(value))}" for name, value in settings.items()),
            "#SBATCH --requeue --open-mode=append",
            f"set -- {shlex.join(str(_file(f'{name}.json')) for name in names)}",
            'shift "$SLURM_ARRAY_TASK_ID"',
            f'exec {shlex.quote(sys.executable)} -m pdiff.paper.worker "$1"',
            "",
        ]
    )


def say(text: str) -> None:
    """A line on stderr, at once."""
    print(text, file=sys.stderr, flush=True)


LAUNCHERS: dict[str, Callable[[Sequence[str], argparse.Namespace], dict[str, str]]] = {
    "ray": with_ray,
    "slurm": with_slurm,
}
"""Each runs the jobs of these names, waits for all, and returns what each printed."""

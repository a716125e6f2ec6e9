"""A DVC project of quick stages, and Ray or SLURM of two nodes on this machine to run it.

python -m tests.toys.launch ENGINE FOLDER

Four experiments run: the first two share a stage, the third fails, and the second node is killed
while it trains one of them. Then all run again. Prints what became of each as JSON. The processes
of the engines end with this one if it has a PID namespace of its own; TMPDIR has their files.
"""

import contextlib
import getpass
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from pdiff.paper.cli import parser
from pdiff.paper.definitions import Row
from pdiff.paper.experiments import Experiment
from pdiff.paper.results import Measured
from pdiff.paper.runner import complete
from tests.toys.tracked import write

DEVIL = 666
LATENTS = {"first": 0.1, "sharing": 0.2, "failing": DEVIL, "other": 0.4}
STAGE = f"""
import os, sys, time
from pathlib import Path

import yaml

name, folder = sys.argv[1], Path(os.environ["DVC_ROOT"], ".work")
latent = yaml.safe_load(Path("params.yaml").read_text())["noise"]["latent"]
gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
with (folder / "ran").open("a") as file:
    file.write(f"{{name}} {{latent}} {{gpu}}\\n")
if name == "train":
    if latent == {DEVIL}:
        sys.exit("error: the devil's noise")
    (folder / f"{{os.getpid()}}.training").touch()
    deadline = time.monotonic() + 300
    while not (folder / "killed").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
Path(f"{{name}}.out").write_bytes(os.urandom(8) if name == "prepare" else b"0")  # as GPUs differ
Path(f"{{name}}.json").write_text('{{"latent": %s}}' % latent)
"""


def experiments() -> dict[str, Experiment]:
    """By label; the two first have one `seed.base`."""
    found = {}
    for model, (label, latent) in enumerate(LATENTS.items()):
        base = max(model, 1)
        params = {"seed": {"base": base, "model": model}, "noise": {"latent": latent}}
        overrides = (f"seed.base={base}", f"seed.model={model}", f"noise.latent={latent}")
        found[label] = Experiment(overrides, params)
    return found


def write_project(folder: Path) -> None:
    """Four stages in a row; `prepare` gives other bytes each time that it runs."""
    read = {"check": [{"params.yaml": None}], "prepare": ["seed.base"]}
    read |= {"train": ["seed.model", "noise"], "audit": ["seed"]}
    stages, before = {}, []
    for name, params in read.items():
        stages[name] = {
            "cmd": f"python stages/toy.py {name}",
            "deps": ["stages/toy.py", *before],
            "params": params,
            "outs": [f"{name}.out"],
            "metrics": [{f"{name}.json": {"cache": False}}],
        }
        before = [f"{name}.out"]
    files = {
        "stages/toy.py": STAGE,
        "dvc.yaml": yaml.safe_dump({"stages": stages}, sort_keys=False),
        "params.yaml": yaml.safe_dump({"seed": {"base": 0, "model": 0}, "noise": {"latent": 0}}),
        ".dvc/config": "[core]\n    autostage = true\n    analytics = false\n",
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        ".gitignore": "/*.out\n/.work/\n/mlflow.db*\n/mlruns/\n/.mlflow.lock\n",
    }
    write(files, folder)
    (folder / ".work").mkdir()


def run_all(*options: str) -> dict[str, str]:
    """Run those that have no result; the status of each."""
    rows = [Measured(Row(label), [experiment]) for label, experiment in experiments().items()]
    complete("toy", rows, rows, parser().parse_args(["toy", *options]))
    return {row.row.label: row.status for row in rows}


@contextlib.contextmanager
def ray_cluster() -> Iterator[int]:
    """A head and a second node, each with a GPU that is none; the process of the second."""
    os.environ["RAY_TMPDIR"] = tempfile.gettempdir()
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "num_gpus": 1, "node_ip_address": "127.0.0.1"}
    head = node | {"include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        second = cluster.add_node(**node)
        os.environ["RAY_ADDRESS"] = cluster.address
        yield second.all_processes["raylet"][0].process.pid
    finally:
        cluster.shutdown()


SLURM = """
ClusterName=toy
SlurmctldHost=localhost(127.0.0.1)
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdTimeout=10
ReturnToService=2
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17011 CPUs=2
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17012 CPUs=2
PartitionName=toy Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def slurm_cluster() -> Iterator[int]:
    """A controller and two nodes; the process of the second node's daemon."""
    folder = Path(tempfile.gettempdir())
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir()
    config = folder / "slurm.conf"
    config.write_text(SLURM.format(folder=folder, user=getpass.getuser(), port=17010))
    os.environ["SLURM_CONF"] = str(config)
    daemons = []
    try:
        for command in (
            ["slurmctld", "-D", "-f", str(config)],
            ["slurmd", "-D", "-f", str(config), "-N", "n1"],
            ["slurmd", "-D", "-f", str(config), "-N", "n2"],
        ):
            with (folder / f"{len(daemons)}.out").open("w") as out:
                daemons.append(subprocess.Popen(command, stdout=out, stderr=out))
        deadline = time.monotonic() + 60
        while _idle_nodes() < 2:
            assert time.monotonic() < deadline, "".join(p.read_text() for p in folder.glob("*.out"))
            time.sleep(1)
        yield daemons[2].pid
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()


def _idle_nodes() -> int:
    done = subprocess.run(["sinfo", "-hN", "-t", "idle"], capture_output=True, check=False)
    return len(done.stdout.splitlines())


def kill_while_training(folder: Path, node: int) -> None:
    """Wait for a training on the node, kill the node with all that it runs, let others go on."""
    doomed: list[psutil.Process] = []
    while not doomed:
        time.sleep(0.1)
        for path in (folder / ".work").glob("*.training"):
            with contextlib.suppress(psutil.NoSuchProcess):
                doomed += _node_of(psutil.Process(int(path.stem)), node)
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    print("killed", len(doomed), "processes of the second node", file=sys.stderr, flush=True)
    (folder / ".work/killed").touch()


def _node_of(training: psutil.Process, node: int) -> list[psutil.Process]:
    """The node and all its processes, parents first, if the training runs there; else none."""
    above = training.parents()
    if training.environ().get("SLURMD_NODENAME") == "n2":  # the daemon is not above its jobs
        roots = [psutil.Process(node), *(p for p in above if p.name() == "slurmstepd")]
    else:
        roots = [parent for parent in above if parent.pid == node]
    return [*roots, *(child for root in roots for child in root.children(recursive=True))]


def main() -> None:
    engine, folder = sys.argv[1], Path(sys.argv[2])
    result: dict[str, Any] = {}
    with {"ray": ray_cluster, "slurm": slurm_cluster}[engine]() as node:
        threading.Thread(target=kill_while_training, args=(folder, node), daemon=True).start()
        result["first"] = run_all("--launcher", engine)
        result["again"] = run_all("--launcher", engine)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""Experiments on other machines: what a job is told, and Ray and SLURM for real on this machine."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from pdiff.paper import cli, experiments, launch, worker
from pdiff.paper.launch import array_script, stage_keys
from pdiff.paper.results import Library
from pdiff.system.errors import InputError
from tests.conftest import ROOT, change
from tests.toys import launch as toy
from tests.toys.project import Project, commit, make_project

LOOPBACK = (
    *("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("sh", "-c", 'ip link set lo up && ip address add 10.0.0.1/32 dev lo && exec "$@"', "sh"),
)
"""Processes of their own, with a network that leads nowhere; SLURM wants a second address."""
if os.getuid():
    LOOPBACK = (LOOPBACK[0], "--map-root-user", *LOOPBACK[1:])


# what a job is told


@pytest.mark.parametrize(
    ("changed", "own"),
    [
        (("noise.latent", 3.0), "train_autoencoder train_ddpm generate evaluate_generated novelty"),
        (("generate.steps", 7), "generate evaluate_generated novelty"),
        (("seed.base", 9), "prepare_data train_base finetune finetune_again evaluate_originals"),
    ],
)
def test_experiments_share_the_stages_whose_parameters_and_inputs_are_equal(raw, changed, own):
    one, other = stage_keys(raw), stage_keys(change(raw, **dict([changed])))
    differing = {stage for stage in one if one[stage] != other[stage]}
    assert differing >= {*own.split(), "audit"}
    if changed[0] != "seed.base":  # of which all else is made
        assert differing == {*own.split(), "audit"}
    assert one.keys() == experiments.pipeline().keys() - {"check_params"}


@pytest.mark.parametrize(("index", "job"), [(0, "one"), (1, "two"), (2, "three")])
def test_an_element_of_the_array_runs_its_own_job(tmp_path, monkeypatch, index, job):
    folder = tmp_path / "a folder"
    folder.mkdir()
    python = folder / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.setattr(sys, "executable", str(python))
    script = array_script(["one", "two", "three"], None, has_gpus=False)
    own = {"SLURM_ARRAY_TASK_ID": str(index)}
    said = subprocess.check_output(["sh", "-c", script], env=own, text=True)
    assert said == f"-m pdiff.paper.worker {folder}/.work/launch/{job}.json\n"


def test_the_array_asks_for_a_gpu_each_where_there_are_any_and_for_no_more_jobs_than_wanted():
    with_gpus = array_script(["a", "b"], 1, has_gpus=True).splitlines()
    assert "#SBATCH --gres=gpu:1" in with_gpus and "#SBATCH --array=0-1%1" in with_gpus
    without = array_script(["a", "b"], None, has_gpus=False)
    assert "gres" not in without and "#SBATCH --array=0-1\n" in without


def test_a_job_has_the_users_threads_and_server_and_not_those_of_the_engine(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as Ray sets it
    job = {"root": "/project", "name": "a", "commit": "abc", "environment": {}}
    own = worker.environment(job, Path("/clone"))
    assert "OMP_NUM_THREADS" not in own and own["DVC_ROOT"] == "/project"
    users = {"OMP_NUM_THREADS": "16", "MLFLOW_TRACKING_URI": "http://server"}
    own = worker.environment(job | {"environment": users}, Path("/clone"))
    assert own["OMP_NUM_THREADS"] == "16"


def test_only_a_server_is_told_of_stages_by_other_machines(monkeypatch):
    monkeypatch.delenv("PDIFF_TRACKING", raising=False)
    job = {"root": "/project", "name": "a", "commit": "abc"}
    for uri, tracking in (("", "later"), ("sqlite:///a.db", "later"), ("https://server", None)):
        own = worker.environment(job | {"environment": {"MLFLOW_TRACKING_URI": uri}}, Path("/c"))
        assert own.get("PDIFF_TRACKING") == tracking


# the command line


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    """Quick stages, committed; this process works on them."""
    found = Project(tmp_path / "project", {"PYTHONPATH": str(ROOT)})
    toy.write_project(found.path)
    found.run("git", "init", "-q")
    commit(found)
    monkeypatch.setenv("DVC_ROOT", str(found.path))
    experiments.code_hashes.cache_clear()
    yield found
    experiments.code_hashes.cache_clear()


def test_an_engine_that_is_not_here_is_one_line(project, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "ray", None)
    for engine, line in (("slurm", "there is no `sbatch`"), ("ray", "Ray is not installed")):
        with pytest.raises(InputError, match=f"--launcher {engine}: {line}"):
            toy.run_all("--launcher", engine)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:port"])
def test_a_cluster_that_does_not_answer_is_one_line(project, monkeypatch, address):
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match="--launcher ray: no cluster: start one"):
        toy.run_all("--launcher", "ray")


def test_code_that_is_not_committed_is_named_and_results_are_not_asked_for(project, monkeypatch):
    monkeypatch.setitem(launch.LAUNCHERS, "slurm", lambda names, options: dict.fromkeys(names, ""))
    project.set_param("noise.latent", 3)
    assert toy.run_all("--launcher", "slurm")["first"] == "failed: no output"
    with (project.path / "stages/toy.py").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(InputError, match=r"--launcher: stages/toy\.py differs from the last"):
        toy.run_all("--launcher", "slurm")


def test_a_wrong_launcher_is_named(capsys):
    with pytest.raises(SystemExit):
        cli.main(["3c", "--launcher", "pbs"])
    assert "invalid choice: 'pbs'" in capsys.readouterr().err


# for real


def in_turn(names: list[str], options: object) -> dict[str, str]:
    """A launcher that runs the jobs one after the other, here."""
    command = [sys.executable, "-m", "pdiff.paper.worker"]
    printed = {}
    for name in names:
        job = launch._file(f"{name}.json")
        done = subprocess.run([*command, job], capture_output=True, text=True, check=False)
        printed[name] = done.stdout + done.stderr
    return printed


def stages_run(project: Project) -> list[str]:
    """`train 0.1`, in the order in which they ran."""
    lines = (project.path / ".work/ran").read_text().splitlines()
    return [line.rpartition(" ")[0] for line in lines]


def prepared(label: str) -> str:
    """The md5 of what `prepare` gave to an experiment."""
    found = Library().find(toy.experiments()[label])
    lock = yaml.safe_load(found.tree.read("dvc.lock"))
    return lock["stages"]["prepare"]["outs"][0]["md5"]


@pytest.mark.slow
def test_experiments_run_in_clones_and_come_home_and_done_ones_do_not_run_again(
    project, monkeypatch
):
    monkeypatch.setitem(launch.LAUNCHERS, "slurm", in_turn)
    for name, value in project.env({"PDIFF_TRACKING": "on"}).items():
        monkeypatch.setenv(name, value)
    (project.path / ".work/killed").touch()
    expected = {"first": "run", "sharing": "run", "other": "run"}
    expected["failing"] = "failed: the devil's noise"
    assert toy.run_all("--launcher", "slurm") == expected
    assert prepared("first") == prepared("sharing") != prepared("other")
    assert {key: run["status"] for key, run in project.runs().items()} == {
        e.name: "FINISHED" for label, e in toy.experiments().items() if label != "failing"
    }
    assert project.run("git", "status", "--porcelain") == ""
    assert not [path for path in (project.path / ".work/launch").iterdir() if path.is_dir()]
    before = stages_run(project)
    assert [line for line in before if line.startswith("prepare")] == [
        f"prepare {toy.LATENTS[label]}" for label in ("first", "failing", "other")
    ]
    assert toy.run_all("--launcher", "slurm") == expected
    assert stages_run(project) == [*before, f"train {toy.DEVIL}"]


SBATCH = """
import os, re, subprocess, sys

script = open(sys.argv[-1]).read()
log, folder = (re.search(f"--{name}=(.*)", script)[1] for name in ("output", "chdir"))
for index in range(int(re.search(r"--array=0-(\\d+)", script)[1]) + 1):
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(index)}
    with open(log.replace("%A_%a", f"1_{index}"), "w") as out:
        command = ["sh", sys.argv[-1]]
        subprocess.run(command, cwd=folder, env=environment, stdout=out, stderr=out)
print(1)
"""
"""An array's elements one after the other, here."""


@pytest.mark.nightly
def test_a_table_of_an_array_has_the_same_bytes_as_that_of_the_queue(tmp_path):
    for name, code in (("sbatch", SBATCH), ("sinfo", "")):
        (tmp_path / name).write_text(f"#!{sys.executable}\n{code}")
        (tmp_path / name).chmod(0o755)
    command = (sys.executable, "-m", "pdiff.paper", "3c", "--recipe", "tiny", "--data", "digits")
    command += ("--net", "tiny", "--rows", "0.1;x10", "--launcher")
    project = make_project(tmp_path / "project")
    hashes = []
    for launcher in ("local", "slurm"):
        copy = project.copy(tmp_path / launcher)
        path = f"{tmp_path}{os.pathsep}{copy.env()['PATH']}"
        copy.run(*command, launcher, PATH=path)
        refs = copy.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/tiny*")
        own = {}
        for ref in refs.split():
            lock = yaml.safe_load(copy.run("git", "show", f"{ref}:dvc.lock"))["stages"]
            own |= {(ref, o["path"]): o["md5"] for stage in lock.values() for o in stage["outs"]}
        hashes.append(own)
        assert {run["status"] for run in copy.runs().values()} == {"FINISHED"}
    assert hashes[0] == hashes[1] and len({ref for ref, _ in hashes[0]}) == 2


ENGINES = {"ray": find_spec("ray"), "slurm": shutil.which("slurmctld", path="/usr/sbin:/sbin")}


@pytest.mark.nightly
@pytest.mark.parametrize("engine", ENGINES)
def test_a_node_that_is_killed_costs_no_experiment(project, engine):
    """Two nodes, four experiments: one fails, two share a stage; then all once more."""
    if not ENGINES[engine]:
        pytest.skip(f"{engine} is not installed")
    if subprocess.run([*LOOPBACK, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace that has the loopback alone can be made here")
    command = (*LOOPBACK, sys.executable, "-m", "tests.toys.launch", engine, str(project.path))
    own = {"DVC_ROOT": str(project.path), "PDIFF_TRACKING": "off"}
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # paths of sockets have a limit
        output = project.run(*command, TMPDIR=short, **own)
    assert "processes of the second node" in output
    found = json.loads(output.splitlines()[-1])
    expected = {"first": "run", "sharing": "run", "other": "run"}
    expected["failing"] = "failed: the devil's noise"
    assert found == {"first": expected, "again": expected}
    assert prepared("first") == prepared("sharing")
    ran = stages_run(project)
    trained = [line for line in ran if line.startswith("train")]
    assert len(trained) == 4 + 1 + 1  # that of the killed node, and the failing one, once more
    assert len([line for line in ran if line.startswith("prepare")]) == 3  # two share one
    gpus = {line.split()[-1] for line in (project.path / ".work/ran").read_text().splitlines()}
    assert gpus == ({"0"} if engine == "ray" else {"None"})

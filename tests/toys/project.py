"""A copy of this repository in a temporary folder, made tiny, for tests that run DVC for real."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from pdiff.tracking.store import SETTINGS, open_store
from tests.conftest import ROOT, TINY, change, composed

GIT = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")


@dataclass
class Project:
    """A working copy; `environment` is added to that of every command."""

    path: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *command: str, check: bool = True, **environment: str) -> str:
        """Run a command here; its output and errors, after checking that it went well."""
        done = subprocess.run(
            command,
            cwd=self.path,
            env=self.env(environment),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=2700,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout
        self.code = done.returncode
        return done.stdout

    def dvc(self, *arguments: str, check: bool = True, **environment: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments, check=check, **environment)

    def stage(self, name: str, **environment: str) -> str:
        return self.run(sys.executable, "-m", f"stages.{name}", **environment)

    def states(self, stage: str) -> list[Path]:
        """What a training that has not ended has saved."""
        return list((self.path / ".work" / stage).glob("*/state.pt"))

    def kill(self, stage: str, *module: str, saved: bool = True) -> None:
        """Start a module and kill it, with what it started, once the stage has saved its state, or
        a moment after it has begun."""
        log = self.path.with_suffix(".log")
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", *module],
                cwd=self.path,
                env=self.env({"PDIFF_SAVE_EVERY_S": "0.2", "PYTHONUNBUFFERED": "1"}),
                start_new_session=True,
                stdout=file,
                stderr=file,
            )
        deadline = time.monotonic() + 900
        while not (self.states(stage) if saved else f": {stage}\n" in log.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, "it ended by itself"
            time.sleep(0.05)
        time.sleep(0 if saved else 0.3)
        assert process.poll() is None, "it ended by itself"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def undo(self) -> None:
        """Leave an experiment: the workspace is as it was committed."""
        self.run("git", "checkout", "-q", ".")
        self.dvc("checkout")

    def set_param(self, name: str, value: Any) -> None:
        path = self.path / "params.yaml"
        params = change(yaml.safe_load(path.read_text()), **{name: value})
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def copy(self, path: Path) -> "Project":
        """Everything, with data, cache and MLflow's files."""
        shutil.copytree(self.path, path, symlinks=True)
        return Project(path, dict(self.environment))

    def env(self, more: Mapping[str, str] = {}) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        own |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        own |= {"PDIFF_TRACKING": "on", "PDIFF_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
        own |= SETTINGS
        return own | self.environment | more

    def lock(self) -> dict[str, Any]:
        return yaml.safe_load((self.path / "dvc.lock").read_text())["stages"]

    def output_hashes(self) -> dict[str, str]:
        return {out["path"]: out["md5"] for stage in self.lock().values() for out in stage["outs"]}

    def metrics(self) -> dict[str, Any]:
        return json.loads((self.path / "metrics/novelty.json").read_text())

    def runs(self) -> dict[str, Any]:
        """The pipeline runs in MLflow by key: their status, tags, params and metrics."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DVC_ROOT", str(self.path))
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            with open_store() as store:
                runs = store.runs(role="pipeline")
        found = {run.data.tags["pdiff.key"]: run for run in runs}
        assert len(found) == len(runs), "one stands twice"
        return {k: {"status": r.info.status, **r.data.to_dictionary()} for k, r in found.items()}


def stages_run(output: str) -> set[str]:
    """The stages that DVC really ran."""
    return set(re.findall(r"Running stage '(\w+)'", output))


def make_project(path: Path, **changes: Any) -> Project:
    """Copy the repository's files to `path`, with a tiny recipe as default, and commit them."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    kept = ("pdiff/", "stages/", "examples/", ".dvc/", "dvc.yaml", ".dvcignore", ".gitignore")
    kept += ("requirements",)
    for name in names:
        if name.startswith(kept) and (ROOT / name).is_file():
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    recipe = yaml.safe_load((ROOT / "pdiff/conf/recipe/quick.yaml").read_text())
    recipe = change(recipe, **TINY | changes)
    net = yaml.safe_dump({"base": {"net": recipe["base"].pop("net")}})
    (path / "pdiff/conf/net/tiny.yaml").write_text(f"# @package _global_\n{net}")
    text = "# @package _global_\n" + yaml.safe_dump(recipe)
    (path / "pdiff/conf/recipe/tiny.yaml").write_text(text)
    config = path / "pdiff/conf/config.yaml"
    for old, new in (("recipe: quick", "recipe: tiny"), ("net: resnet18", "net: tiny")):
        config.write_text(config.read_text().replace(old, new))
    params = composed(presets=path / "pdiff/conf")
    (path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    project = Project(path)
    project.run("git", "init", "-q")
    commit(project)
    return project


def commit(project: Project) -> None:
    project.run("git", "add", "-A")
    project.run("git", *GIT, "commit", "-qm", "state")


def clone(project: Project, path: Path) -> Project:
    project.run("git", "clone", "-q", str(project.path), str(path))
    return Project(path, dict(project.environment))

"""The parameters of an experiment, and where its results lie.

Results are found by their parameters, whatever the experiment is called: among DVC's experiments,
in the last commit, and in the workspace.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pdiff.config import parse_params
from pdiff.system.errors import InputError
from pdiff.system.paths import root
from pdiff.tracking.files import (
    Folder,
    Tree,
    clean_name,
    git,
    md5_of,
    params_sha,
    read_json,
    read_yaml,
)
from pdiff.tracking.process import git_commit
from pdiff.tracking.sync import Commit, Source, experiments, workspace

REPORT = "metrics/novelty.json"
GENERATED = "data/generated.safetensors"
CODE = ("pdiff/", "stages/")
LONGEST_NAME = 100
"""Characters of a file's name; Linux allows 255 bytes, and endings and prefixes come on top."""


@dataclass(frozen=True)
class Experiment:
    """A set of overrides, as they follow `-S`, and the parameters that they compose."""

    overrides: tuple[str, ...]
    params: dict[str, Any]

    @cached_property
    def sha(self) -> str:
        return params_sha(self.params)

    @property
    def name(self) -> str:
        """Readable, and different where parameters or code are."""
        words = [o.split("=", 1)[1] for o in self.overrides if o.split("=")[0] in _NAMING]
        seed = self.params["seed"]
        words.append(f"s{seed['model']}" + (f"b{seed['base']}" if seed["base"] else ""))
        text = self.sha + json.dumps(code_hashes())
        words.append(hashlib.sha256(text.encode()).hexdigest()[:6])
        return "-".join(words).replace("_", "-")

    @property
    def command(self) -> str:
        """What runs it, typed in a shell."""
        return " ".join(["dvc exp run", *(f"-S {_quoted(o)}" for o in self.overrides)])

    @property
    def shared_command(self) -> str:
        """The command for other machines."""
        return replace(self, overrides=tuple(map(shareable, self.overrides))).command


_NAMING = ("recipe", "data", "net", "ablation")


def make_experiment(overrides: Iterable[str]) -> Experiment:
    """Compose and check the parameters; `InputError` for an unknown preset or a wrong value."""
    overrides = tuple(overrides)
    try:
        with initialize_config_dir(str(root() / "pdiff/conf"), version_base=None):
            composed = compose("config", overrides=list(overrides))
            params = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"{' '.join(overrides)}: {_one_line(error)}") from None
    parse_params(params, " ".join(overrides))
    return Experiment(overrides, params)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text.partition(" Config search path")[0].partition(" Set the env variable")[0]


def shareable(text: str) -> str:
    """An argument as it may stand in a committed file: a path of this machine by its last name.

    What follows a file's colon stays, as in `base.net=/home/me/my_net.py:MyNet`.
    """
    key, _, value = text.partition("=")
    path, colon, rest = value.partition(":")
    local = path.startswith("/") and Path(path).exists()
    return f"{key}=/path/to/{Path(path).name}{colon}{rest}" if local else text


def _quoted(override: str) -> str:
    return f"'{override}'" if set(override) & set("[]*? ,") else override


def short_name(*parts: str) -> str:
    """The parts joined to the name of a file; a long one ends in a hash of the whole."""
    name = "_".join(clean_name(part) for part in parts if part)
    if len(name.encode()) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME // 2]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Result:
    """What one finished experiment left."""

    tree: Tree
    commit: str
    """Short hash of the commit that its code came from, or `unknown`."""
    name: str

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return read_json(self.tree, REPORT)

    @cached_property
    def _stages(self) -> list[dict[str, Any]]:
        """What dvc.lock says of each stage; empty where there is no dvc.lock."""
        return list(read_yaml(self.tree, "dvc.lock").get("stages", {}).values())

    @cached_property
    def _outputs(self) -> dict[str, str]:
        """md5 of each output."""
        return {out["path"]: out["md5"] for stage in self._stages for out in stage.get("outs", [])}

    @property
    def lock(self) -> str:
        """Eight letters of the generated models' md5: two results that agree here are the same."""
        return self._outputs.get(GENERATED, "unknown")[:8]

    def file(self, path: str) -> Path | None:
        """An output on this machine: in the folder, or in DVC's cache; None if it is not here."""
        if isinstance(self.tree, Folder):
            here = self.tree.path / path
            return here if here.exists() else None
        md5 = self._outputs.get(path)
        cached = cache_folder() / "files" / "md5" / md5[:2] / md5[2:] if md5 else None
        return cached if cached is not None and cached.exists() else None

    def frame(self, path: str) -> pd.DataFrame | None:
        """A CSV that is an output in Git or in the cache; None if it is not on this machine."""
        if (text := self.tree.read(path)) is not None:
            return pd.read_csv(io.BytesIO(text))
        found = self.file(path)
        return None if found is None else pd.read_csv(found)

    @cached_property
    def is_current(self) -> bool:
        """Whether every room and script that its stages depended on is the same here and now."""
        deps = [dep for stage in self._stages for dep in stage.get("deps", [])]
        code = {dep["path"]: dep.get("md5") for dep in deps if dep["path"].startswith(CODE)}
        return bool(code) and all(code_hashes().get(path) == md5 for path, md5 in code.items())


class Library:
    """All results on this machine, by the hash of their parameters."""

    def __init__(self, *, any_code: bool = False) -> None:
        """`any_code` also takes results of other versions of the code."""
        self._any_code = any_code
        self._found: dict[str, Result | None] = {}
        here = root()
        self._sources: dict[str, list[Source]] = {}
        head = Commit(here, "HEAD")
        found = [*experiments(here), *workspace(here)]
        if git_commit(here) and head.results():
            found.append(Source("HEAD", head, 0.0, {"mlflow.source.git.commit": git_commit(here)}))
        for source in found:
            self._sources.setdefault(source.marks["pdiff.params_sha"], []).append(source)

    def find(self, experiment: Experiment) -> Result | None:
        """The newest whole result of these parameters, of the code that is here unless any."""
        if experiment.sha not in self._found:
            self._found[experiment.sha] = self._look_up(experiment.sha)
        return self._found[experiment.sha]

    def _look_up(self, sha: str) -> Result | None:
        for source in self._sources.get(sha, []):
            commit = source.tags.get("mlflow.source.git.commit", "")[:7] or "unknown"
            result = Result(source.tree, commit, source.key)
            if (self._any_code or result.is_current) and source.is_complete():
                return result
        return None


@cache
def code_hashes() -> dict[str, str]:
    """md5 of every room and script that dvc.yaml names, as DVC writes it to dvc.lock."""
    entries = pipeline().values()
    deps = {dep for entry in entries for dep in entry["deps"] if dep.startswith(CODE)}
    return {dep: md5_of(Folder(root()), dep) or "" for dep in sorted(deps)}


def pipeline() -> dict[str, Any]:
    """The stages of dvc.yaml, in their order."""
    return yaml.safe_load((root() / "dvc.yaml").read_text())["stages"]


@cache
def cache_folder() -> Path:
    """DVC's cache: the project's own, or one that `dvc cache dir` names."""
    for name in (".dvc/config.local", ".dvc/config"):
        if configured := git("config", "-f", name, "cache.dir", folder=root()):
            return (root() / ".dvc" / configured.decode().strip()).resolve()
    return root() / ".dvc" / "cache"


def has_dvc() -> bool:
    """Whether experiments can run through DVC: it is installed, and this is its repository."""
    return (root() / ".dvc").is_dir() and bool(git_commit(root()) and find_spec("dvc"))


def missing(library: Library, wanted: Sequence[Experiment]) -> list[Experiment]:
    """Those of the experiments that have no result yet, each once."""
    unique = {experiment.sha: experiment for experiment in wanted}
    return [experiment for experiment in unique.values() if library.find(experiment) is None]

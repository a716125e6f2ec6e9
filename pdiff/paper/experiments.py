"""The parameters of an experiment, its name, its command, and the code that it runs."""

import hashlib
import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pdiff.config import parse_params
from pdiff.system.errors import InputError
from pdiff.system.paths import root
from pdiff.tracking.files import Folder, clean_name, md5_of, params_sha

CODE = ("pdiff/", "stages/")
TASK = "pdiff/tasks/${task.name}.py"
"""The part of a task in dvc.yaml; which one it is stands in each experiment's parameters."""
NAMING = ("recipe", "data", "net", "ablation")
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
        words = [o.split("=", 1)[1] for o in self.overrides if o.split("=")[0] in NAMING]
        seed = self.params["seed"]
        words.append(f"s{seed['model']}" + (f"b{seed['base']}" if seed["base"] else ""))
        text = self.sha + json.dumps(code_hashes())
        words.append(hashlib.sha256(text.encode()).hexdigest()[:6])
        return "-".join(words).replace("_", "-")

    @property
    def arguments(self) -> list[str]:
        """`-S` before every override."""
        return [part for override in self.overrides for part in ("-S", override)]

    @property
    def command(self) -> str:
        """What runs it, typed in a shell."""
        return shlex.join(["dvc", "exp", "run", *self.arguments])

    @property
    def shared_command(self) -> str:
        """The command for other machines."""
        return shlex.join(["dvc", "exp", "run", *map(shareable, self.arguments)])


@dataclass(frozen=True)
class Setting:
    """What the experiments of a table share, where a row does not say otherwise."""

    recipe: str
    data: str
    net: str
    overrides: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        parts = (self.data, self.net, f"recipe {self.recipe}", *self._telling)
        return ", ".join(filter(None, parts))

    @property
    def name(self) -> str:
        """In the names of files and folders; a long one ends in a hash of the whole."""
        parts = filter(None, (self.recipe, self.data, self.net, *self._telling))
        name = "_".join(map(clean_name, parts))
        if len(name.encode()) <= LONGEST_NAME:
            return name
        return f"{name[: LONGEST_NAME // 2]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"

    @property
    def _telling(self) -> list[str]:
        """The overrides that tell settings apart: where images and other files lie does not."""
        parts = [o.partition("=") for o in self.overrides if not o.startswith("data.root=")]
        return [f"{k}={Path(v).name if v.startswith('/') else v}" for k, _, v in parts]

    def experiment(self, row: Iterable[str], *seeds: str) -> Experiment:
        """The experiment with a row's own presets and with seeds such as `seed.model=1`."""
        presets = {"recipe": self.recipe, "data": self.data, "net": self.net}
        presets |= dict(override.split("=") for override in row)
        chosen = (f"{group}={name}" for group, name in presets.items())
        return make_experiment([*chosen, *self.overrides, *seeds])


def make_experiment(overrides: Iterable[str]) -> Experiment:
    """Compose and check the parameters; `InputError` for an unknown preset or a wrong value."""
    overrides = tuple(overrides)
    try:
        with initialize_config_dir(str(root() / "pdiff/conf"), version_base=None):
            composed = compose("config", overrides=list(overrides))
            params = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        text = " ".join(str(error).split())
        text = text.partition(" Config search path")[0].partition(" Set the env variable")[0]
        raise InputError(f"{' '.join(overrides)}: {text}") from None
    parse_params(params, " ".join(overrides))
    return Experiment(overrides, params)


def shareable(text: str) -> str:
    """An argument as it may stand in a committed file: a path of this machine by its last name.

    What follows a file's colon stays, as in `base.net=/home/me/my_net.py:MyNet`.
    """
    key, equals, value = text.partition("=") if "=" in text else ("", "", text)
    path, colon, rest = value.partition(":")
    local = path.startswith("/") and Path(path).exists()
    return f"{key}{equals}/path/to/{Path(path).name}{colon}{rest}" if local else text


@cache
def code_hashes() -> dict[str, str]:
    """md5 of every room, task and script that dvc.yaml names, as DVC writes it to dvc.lock."""
    deps = {dep for stage in pipeline().values() for dep in stage["deps"] if dep.startswith(CODE)}
    deps -= {TASK}
    deps |= {f"pdiff/tasks/{path.name}" for path in (root() / "pdiff/tasks").glob("[a-z]*.py")}
    return {dep: md5_of(Folder(root()), dep) or "" for dep in sorted(deps)}


def pipeline() -> dict[str, Any]:
    """The stages of dvc.yaml, in their order."""
    return yaml.safe_load((root() / "dvc.yaml").read_text())["stages"]

"""The stages of `dvc.yaml`, and what each one's outputs depend on."""

import hashlib
import json
import re
from contextlib import suppress
from functools import cache
from typing import Any

import yaml

from pdiff.system.paths import root
from pdiff.tracking.files import Folder, canonical, md5_of

CODE = ("pdiff/", "stages/")
ORDER_ONLY = "data/params_checked.txt"
"""An output that never changes: it only keeps later stages waiting."""


@cache
def pipeline() -> dict[str, Any]:
    """The stages of dvc.yaml, in their order."""
    return yaml.safe_load((root() / "dvc.yaml").read_text())["stages"]


def outputs(stage: str) -> list[str]:
    """Every file that a stage writes."""
    entry = pipeline()[stage]
    listed = [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])]
    return [next(iter(out)) if isinstance(out, dict) else out for out in listed]


@cache
def code_hashes() -> dict[str, str]:
    """md5 of every room and stage script, as DVC has them in dvc.lock."""
    tree = Folder(root())
    deps = {dep for entry in pipeline().values() for dep in entry["deps"]}
    return {dep: md5_of(tree, dep) or "" for dep in sorted(deps) if dep.startswith(CODE)}


def stage_keys(params: dict[str, Any]) -> dict[str, str]:
    """What each stage's outputs depend on, as a hash: parameters, code and the stages before it."""
    keys: dict[str, str] = {}
    made_by = {out: stage for stage in pipeline() for out in outputs(stage)}
    hashes = code_hashes()
    values = canonical(params)
    for stage, entry in pipeline().items():
        parts: list[Any] = [stage, [_value(values, name) for name in entry.get("params", [])]]
        for dep in entry.get("deps", []):
            dep = re.sub(r"\$\{(.+?)\}", lambda found: _look_up(params, found[1]), dep)
            known = keys.get(made_by.get(dep, "")) or hashes.get(dep)
            if dep != ORDER_ONLY:
                parts.append([dep, known or _content(dep)])
        keys[stage] = hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]
    return keys


def _look_up(params: dict[str, Any], name: str) -> str:
    section, _, key = name.partition(".")
    return str(params[section][key])


def _value(params: Any, name: Any) -> Any:
    """The parameters that an entry of a stage's `params` names; all of them for a file."""
    if isinstance(name, dict):
        return params
    for part in name.split("."):
        params = params[part]
    return params


@cache
def _content(dep: str) -> str:
    """A file's hash, or names, sizes and times of a folder's files."""
    path = root() / dep
    if path.is_file():
        return hashlib.md5(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for found in sorted(path.rglob("*")):
        with suppress(OSError):
            status = found.stat()
            line = f"{found.relative_to(path)} {status.st_size} {status.st_mtime_ns}"
            digest.update(line.encode())
    return digest.hexdigest()

"""What made a stage's outputs, said by the stage itself; dvc.lock must say the same.

`dvc commit` records whatever parameters, code and outputs lie there, whether or not they belong
together. So each stage leaves `data/made_by/STAGE.txt`: one hash over the parameters, code and
inputs that it began with and the outputs that it ended with, each as DVC hashes it. To DVC it is
one more output, which no stage depends on. Its md5 stands in dvc.lock beside all that it is made
of, so a lock alone tells whether it was forged.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

from pdiff.config import load_params
from pdiff.system.paths import replacing
from pdiff.tracking.files import Folder, canonical, md5_of, read_yaml

FILE = "data/made_by/{}.txt"
"""Of one stage."""


def pipeline() -> dict[str, Any]:
    """The stages of dvc.yaml in their order; empty where there is none."""
    return read_yaml(Folder(Path.cwd()), "dvc.yaml").get("stages", {})


@contextmanager
def recorded(stage: str, entry: Mapping[str, Any]) -> Iterator[None]:
    """Write the record of a stage, which dvc.yaml calls `entry`, when the block has ended well."""
    tree = Folder(Path.cwd())
    values = load_params().model_dump(mode="json")
    began = params_of(entry, values), _hashes(tree, _filled(entry["deps"], values, tree.path))
    yield
    with replacing(tree.path / FILE.format(stage)) as partial:
        partial.write_text(_record(*began, _hashes(tree, outputs_of(entry))))


def forged(lock: Mapping[str, Any]) -> list[str]:
    """Stages of a dvc.lock whose outputs were made by something else than it says.

    Stages of earlier versions, which have no record, are not among them.
    """
    found = []
    for stage, entry in lock.get("stages", {}).items():
        deps, outs = (
            {part["path"]: part.get("md5") for part in entry.get(kind, [])}
            for kind in ("deps", "outs")
        )
        record = outs.pop(FILE.format(stage), None)
        text = _record(entry.get("params", {}).get("params.yaml") or {}, deps, outs)
        if record not in (None, md5(text.encode()).hexdigest()):
            found.append(stage)
    return found


def _record(
    params: Mapping[str, Any], deps: Mapping[str, str | None], outs: Mapping[str, str | None]
) -> str:
    text = json.dumps(canonical({"params": params, "deps": deps, "outs": outs}), sort_keys=True)
    return sha256(text.encode()).hexdigest() + "\n"


def params_of(entry: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that dvc.yaml names for a stage, as dvc.lock has them."""
    names = entry.get("params", [])
    if any(isinstance(name, dict) for name in names):  # `params.yaml:`, all of it
        return dict(values)
    return {name: _value(values, name) for name in names}


def outputs_of(entry: Mapping[str, Any]) -> list[str]:
    """What dvc.yaml says that a stage writes, without its record."""
    outs = [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])]
    paths = [out if isinstance(out, str) else next(iter(out)) for out in outs]
    return [path for path in paths if Path(path).parent != Path(FILE).parent]


def _value(values: Mapping[str, Any], name: str) -> Any:
    return reduce(lambda part, key: part[key], name.split("."), values)


def _filled(deps: Iterable[str], values: Mapping[str, Any], root: Path) -> list[str]:
    """dvc.yaml's paths as DVC locks them: `${data.watch}` replaced, absolute only outside."""
    texts = [re.sub(r"\$\{(.+?)\}", lambda m: str(_value(values, m[1])), dep) for dep in deps]
    paths = [(text, Path(os.path.normpath(text))) for text in texts]
    inside = [(text, path, path.is_relative_to(root)) for text, path in paths]
    return [str(path.relative_to(root)) if within else text for text, path, within in inside]


def _hashes(tree: Folder, paths: Iterable[str]) -> dict[str, str | None]:
    return {path: md5_of(tree, path) for path in paths}

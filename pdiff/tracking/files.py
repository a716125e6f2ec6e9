"""The small files an experiment leaves: metrics, plots, tables and figures, and their flat forms.

    metrics/<stage>.json   final values, perhaps nested
    plots/<stage>.csv      curves; the first column is the step
    report/*.csv, *.png    tables and figures
    report/audit/*         those of the audit, and its report

They are read from a folder or from a commit alike (`Tree`). Nothing here knows MLflow.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import yaml

if TYPE_CHECKING:
    import pandas

REPORT_STAGE = "audit"
"""The last stage: an experiment is complete when it has ended."""
HEADLINE_STAGE = "novelty"
"""The stage whose metrics compare experiments; in MLflow their names have no prefix."""
RESULT_FOLDERS = ("metrics", "plots", "report")
RESULT_SUFFIXES = {".json", ".csv", ".png", ".svg", ".md", ".html"}
HEADLINE_TABLE = "summary.json"
COLUMNS = {  # what the comparison shows of an experiment, and the heading that fits there
    "fit.r2": "AE R2",
    "fit.variance_first": "var first",
    "fit.variance_least": "var least",
    "fit.variance_most": "var most",
    "fit.outside": "outside",
    "fit.loss_held_out": "held-out",
    "fit.loss_gaussian": "Gaussian",
    "accuracy.original_best": "orig best",
    "accuracy.original_mean": "orig mean",
    "accuracy.ensemble": "ensemble",
    "accuracy.generated_best": "gen best",
    "accuracy.generated_mean": "gen mean",
    "accuracy.original_best_of_n": "orig of n",
    "accuracy.generated_best_of_n": "gen of n",
    "similarity.generated_max_mean": "gen sim",
    "similarity.original_max_mean": "orig sim",
    "similarity.generated_within": "within sim",
}
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")

Curve = list[list[int | float]]
"""Points [step, milliseconds since 1970 or 0 if unknown, value]."""


def clean_name(name: str) -> str:
    """A name that is safe as a folder, in an MLflow filter and as a metric."""
    return re.sub(r"[^\w.+-]", "_", name)


def canonical(value: Any) -> Any:
    """One form for what YAML, pydantic and DVC write differently: 1 and 1.0, 1e-3 and "1e-3"."""
    if isinstance(value, Mapping):
        return {str(name): canonical(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if isinstance(value, str) and NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def params_sha(params: Mapping[str, Any]) -> str:
    """Hash of all parameters, independent of order and notation."""
    text = json.dumps(canonical(params), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def flat_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Parameters as MLflow shows them: "noise.latent": "0.1", lists without spaces."""
    texts = {}
    for name, value in flatten(canonical(params)).items():
        texts[name] = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return texts


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numeric leaves of nested values, flattened."""
    found = {}
    for name, value in flatten(values).items():
        with contextlib.suppress(TypeError, ValueError):
            if not isinstance(value, str):
                found[name] = float(value)
    return found


def git(*arguments: str, folder: Path | None = None) -> bytes | None:
    """Output of a git command, or None without git, without a repository or on failure."""
    with contextlib.suppress(OSError):
        command = ["git", "-C", str(folder or Path.cwd()), *arguments]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode == 0:
            return done.stdout
    return None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there completely or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


def is_result(path: str) -> bool:
    """Whether a path is one of an experiment's small result files."""
    folder, _, name = path.rpartition("/")
    return folder in (*RESULT_FOLDERS, "report/audit") and Path(name).suffix in RESULT_SUFFIXES


@runtime_checkable
class Tree(Protocol):
    """The files of one experiment, in a folder or in a commit."""

    def results(self) -> dict[str, str]:
        """Git's blob ids of metrics, plots and report files, by path."""

    def read(self, path: str) -> bytes | None:
        """The content of any file, None if there is none."""

    def paths(self, folder: str) -> list[str]:
        """Every file below a folder, in order; [] if there is none."""


class Folder:
    """A `Tree` of the files in a directory: the workspace or a saved copy."""

    def __init__(self, path: Path):
        self.path = path

    def results(self) -> dict[str, str]:
        found = {}
        for path in filter(is_result, [p for name in RESULT_FOLDERS for p in self.paths(name)]):
            data = (self.path / path).read_bytes()
            found[path] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return found

    def read(self, path: str) -> bytes | None:
        try:
            return (self.path / path).read_bytes()
        except OSError:
            return None

    def paths(self, folder: str) -> list[str]:
        found = (p for p in (self.path / folder).rglob("*") if p.is_file())
        return sorted(p.relative_to(self.path).as_posix() for p in found)


def md5_of(tree: Tree, path: str) -> str | None:
    """A file's md5 or a folder's, as DVC has them in dvc.lock; None if there is neither.

    Of a folder only what `.dvcignore` keeps out everywhere, bytecode, does not count.
    """
    if (data := tree.read(path)) is not None:
        return hashlib.md5(data).hexdigest()
    names = [n for n in tree.paths(path) if "__pycache__" not in n and not n.endswith(".pyc")]
    hashes = [hashlib.md5(tree.read(name) or b"").hexdigest() for name in names]
    relative = [name.removeprefix(f"{path}/") for name in names]
    entries = [{"md5": h, "relpath": name} for h, name in zip(hashes, relative, strict=True)]
    if not entries:
        return None
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def results_sha(tree: Tree) -> str:
    """Hash of all result files."""
    return hashlib.sha256(json.dumps(sorted(tree.results().items())).encode()).hexdigest()


def read_yaml(tree: Tree, path: str) -> dict[str, Any]:
    """A YAML file as a dict, {} if there is none."""
    content = yaml.safe_load(tree.read(path) or b"")
    return content if isinstance(content, dict) else {}


def read_json(tree: Tree, path: str) -> dict[str, Any]:
    """A JSON file as a dict, {} if there is none."""
    content = json.loads(tree.read(path) or b"{}")
    return content if isinstance(content, dict) else {}


def read_table(tree: Tree, path: str) -> "pandas.DataFrame":
    """A CSV file, an empty frame if there is none."""
    import pandas  # half a second, for those who need it

    return pandas.read_csv(io.BytesIO(tree.read(path) or b"none\n"))


def headline(tree: Tree) -> dict[str, float]:
    """All final metrics: those of HEADLINE_STAGE by their names, others after their stage."""
    found: dict[str, float] = {}
    for path in tree.results():
        stage = Path(path).stem
        if path.startswith("metrics/") and path.endswith(".json"):
            prefix = "" if stage == HEADLINE_STAGE else f"{stage}."
            values = numbers(read_json(tree, path))
            found |= {f"{prefix}{name}": value for name, value in values.items()}
    return found


def read_curves(tree: Tree, stage: str) -> dict[str, Curve]:
    """The curves in plots/<stage>.csv; its first column is the step, cells may be empty."""
    table = read_table(tree, f"plots/{stage}.csv")
    steps, *names = table.columns
    table = table.set_index(steps)
    return {
        name: [[int(step), 0, float(value)] for step, value in table[name].dropna().items()]
        for name in names
    }


def restored_record(tree: Tree, stage: str, when: float) -> dict[str, Any]:
    """A record for a stage that DVC restored instead of running it."""
    locked = read_yaml(tree, "dvc.lock").get("stages", {}).get(stage, {})
    return {
        "stage": stage,
        "status": "FINISHED",
        "started": when,
        "ended": when,
        "params": locked.get("params", {}).get("params.yaml") or {},
        "timing": {},
        "summary": flatten(read_json(tree, f"metrics/{stage}.json")),
        "curves": read_curves(tree, stage),
        "tags": {"dvc.cached": "true"},
    }


def write_artifacts(tree: Tree, folder: Path) -> list[str]:
    """Lay out what the experiment's run shows as files; the names of the tables come back."""
    tables = []
    for path in [*tree.results(), "params.yaml", "dvc.lock"]:
        data = tree.read(path)
        if data is None or path.startswith(("metrics/", "plots/")):
            continue
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        if path.endswith(".csv"):
            tables.append(f"{Path(path).stem}.json")
            table = read_table(tree, path)
            table.to_json(folder / tables[-1], orient="split", index=False, double_precision=15)
    # MLflow compares the first table
    return sorted(tables, key=lambda name: (name != HEADLINE_TABLE, name))

"""The small files an experiment leaves: metrics, plots, tables and figures, and their flat forms.

    metrics/<stage>.json   final values, perhaps nested
    plots/<stage>.csv      curves; the first column is the step
    report/*.csv, *.png    tables and figures
    report/audit/*         those of the audit, and its report

They are read from a folder or from a commit alike (`Tree`). Nothing here knows MLflow.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import yaml

REPORT_STAGE = "novelty"
RESULT_FOLDERS = ("metrics", "plots", "report", "report/audit")
RESULT_SUFFIXES = {".json", ".csv", ".png", ".svg", ".md", ".html"}
HEADLINE_TABLE = "report/summary.csv"
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


def is_result(path: Path) -> bool:
    """Whether a path is one of an experiment's small result files."""
    return str(path.parent) in RESULT_FOLDERS and path.suffix in RESULT_SUFFIXES


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
    """Result files in a directory: the workspace or a saved copy."""

    def __init__(self, path: Path):
        self.path = path

    def results(self) -> dict[str, str]:
        """Git's blob ids of metrics, plots and report files, by path."""
        found = {}
        for folder in RESULT_FOLDERS:
            for path in sorted((self.path / folder).glob("*")):
                name = path.relative_to(self.path)
                if is_result(name) and path.is_file():
                    data = path.read_bytes()
                    blob = b"blob %d\0%b" % (len(data), data)
                    found[str(name)] = hashlib.sha1(blob).hexdigest()
        return found

    def read(self, path: str) -> bytes | None:
        """The content of any file, None if there is none."""
        try:
            return (self.path / path).read_bytes()
        except OSError:
            return None

    def paths(self, folder: str) -> list[str]:
        """Every file below a folder, in order; [] if there is none."""
        found = (p for p in (self.path / folder).rglob("*") if p.is_file())
        return sorted(p.relative_to(self.path).as_posix() for p in found)


def md5_of(tree: Tree, path: str) -> str | None:
    """A file's md5 or a folder's, as DVC has them in dvc.lock; None if there is neither.

    Of a folder only what `.dvcignore` keeps out everywhere, bytecode, does not count.
    """
    if (data := tree.read(path)) is not None:
        return hashlib.md5(data).hexdigest()
    entries = [
        {
            "md5": hashlib.md5(tree.read(found) or b"").hexdigest(),
            "relpath": found.removeprefix(f"{path}/"),
        }
        for found in tree.paths(path)
        if "__pycache__" not in found and not found.endswith(".pyc")
    ]
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


def read_csv(tree: Tree, path: str) -> list[list[str]]:
    """Rows of a CSV file, the header first; [] if there is none."""
    text = (tree.read(path) or b"").decode()
    return [row for row in csv.reader(io.StringIO(text)) if row]


def headline(tree: Tree) -> dict[str, float]:
    """All final metrics: those of the report stage by their names, others after their stage."""
    found: dict[str, float] = {}
    for path in tree.results():
        stage = Path(path).stem
        if path.startswith("metrics/") and path.endswith(".json"):
            prefix = "" if stage == REPORT_STAGE else f"{stage}."
            values = numbers(read_json(tree, path))
            found |= {f"{prefix}{name}": value for name, value in values.items()}
    return found


def read_curves(tree: Tree, stage: str) -> dict[str, Curve]:
    """The curves in plots/<stage>.csv; its first column is the step, cells may be empty."""
    rows = read_csv(tree, f"plots/{stage}.csv")
    names = rows[0][1:] if rows else []
    curves: dict[str, Curve] = {name: [] for name in names}
    for row in rows[1:]:
        for name, cell in zip(names, row[1:], strict=False):
            with contextlib.suppress(ValueError):
                curves[name].append([int(float(row[0])), 0, float(cell)])
    return curves


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


def _cell(text: str) -> str | float:
    return float(text) if NUMBER.fullmatch(text) else text


def write_artifacts(tree: Tree, folder: Path) -> list[str]:
    """Lay out what the experiment's run shows as files; the names of the tables come back."""
    results = tree.results()
    tables = sorted(path for path in results if path.startswith("report/") and ".csv" in path)
    tables.sort(key=lambda path: path != HEADLINE_TABLE)  # MLflow compares the first table
    for path in [*results, "params.yaml", "dvc.lock"]:
        data = tree.read(path)
        if data is not None and not path.startswith(("metrics/", "plots/")):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
    for path in tables:
        rows = read_csv(tree, path)
        table = {
            "columns": rows[0] if rows else [],
            "data": [list(map(_cell, r)) for r in rows[1:]],
        }
        (folder / f"{Path(path).stem}.json").write_text(json.dumps(table))
    return [f"{Path(path).stem}.json" for path in tables]

"""The small files an experiment leaves: metrics, plots, tables and figures, and their flat forms.

    metrics/<stage>.json   final values, perhaps nested
    plots/<stage>.csv      curves; the first column is the step
    report/*.csv, *.png    tables and figures
    report/audit/*         those of the audit, and its report

They are read from a folder or from a commit alike. Nothing here knows MLflow.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import file_digest, md5, sha1, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

import yaml

from pdiff.system.paths import root

if TYPE_CHECKING:
    import pandas

REPORT_STAGE = "audit"
"""The last stage: an experiment is complete when it has ended."""
HEADLINE_STAGE = "novelty"
"""The stage whose metrics compare experiments; in MLflow their names have no prefix."""
RESULT = re.compile(r"(metrics|plots|report)/.*\.(json|csv|png|pdf|svg|md|html)")
Point = tuple[str, float, int, int]
"""Name, value, milliseconds since 1970, step."""
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


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
    return sha256(text.encode()).hexdigest()


def key_of(params: Mapping[str, Any]) -> str:
    """The name of an experiment that DVC has not named."""
    return f"repro-{params_sha(params)[:8]}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def flat_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Parameters as MLflow shows them: "noise.latent": "0.1", lists without spaces."""
    compact = json.JSONEncoder(separators=(",", ":")).encode
    flat = {clean_name(name): value for name, value in flatten(canonical(params)).items()}
    return {name: v if isinstance(v, str) else compact(v) for name, v in flat.items()}


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numeric leaves of nested values, flattened, by names that MLflow accepts."""
    flat = flatten(values).items()
    return {clean_name(n): float(value) for n, value in flat if isinstance(value, SupportsFloat)}


class Log:
    """Collects what a stage reports; nothing here touches the network or MLflow."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def __call__(self, metrics: Mapping[str, Any], step: int) -> None:
        """Add one point to each named curve."""
        now = int(time.time() * 1000)
        self.points += [(name, value, now, int(step)) for name, value in numbers(metrics).items()]

    def summary(self, values: Mapping[str, Any]) -> None:
        """Add final values, possibly nested; one ends the curve of its name."""
        after, last = int(time.time() * 1000) + 1, {name: step for name, _, _, step in self.points}
        self.points += [(n, value, after, last.get(n, 0)) for n, value in numbers(values).items()]


def git(*arguments: str, folder: Path | None = None) -> bytes | None:
    """Output of a git command, or None without git, without a repository or on failure."""
    with contextlib.suppress(OSError):
        command = ["git", "-C", str(folder or Path.cwd()), *arguments]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode == 0:
            return done.stdout
    return None


@dataclass(frozen=True)
class Folder:
    """The files of one experiment: those of a folder, as they are or as a commit has them."""

    path: Path
    revision: str = ""

    def read(self, path: str) -> bytes | None:
        """The content of a file, None if there is none."""
        if self.revision:
            return git("cat-file", "blob", f"{self.revision}:./{path}", folder=self.path)
        file = self.path / path
        return file.read_bytes() if file.is_file() else None

    def results(self) -> dict[str, str]:
        """Git's ids of the contents of metrics, plots and report files, by path and in order."""
        folders = ("metrics/", "plots/", "report/")
        if self.revision:
            listed = git("ls-tree", "-rz", self.revision, "--", *folders, folder=self.path) or b""
            parts = [line.partition("\t") for line in listed.decode().split("\0") if line]
            found = {path: description.split()[2] for description, _, path in parts}
        else:
            files = (p for f in folders for p in (self.path / f).rglob("*") if p.is_file())
            data = {p.relative_to(self.path).as_posix(): p.read_bytes() for p in files}
            found = {p: sha1(b"blob %d\0" % len(d) + d).hexdigest() for p, d in data.items()}
        return {path: found[path] for path in sorted(found) if RESULT.fullmatch(path)}


def locked_outputs(tree: Folder) -> dict[str, str]:
    """The md5 of each output, by path, as dvc.lock has them."""
    stages = read_yaml(tree, "dvc.lock").get("stages", {}).values()
    return {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", [])}


def cache_folder() -> Path:
    """DVC's cache: the project's own, or the one in its, the user's or the machine's settings."""
    own, others = root() / ".dvc", []
    with contextlib.suppress(ImportError):  # without DVC the project's own settings say it
        from dvc.dirs import global_config_dir, system_config_dir

        others = [Path(folder) / "config" for folder in (global_config_dir(), system_config_dir())]
    for path in filter(Path.is_file, (own / "config.local", own / "config", *others)):
        if configured := git("config", "-f", str(path), "cache.dir", folder=root()):
            return (path.parent / configured.decode().strip()).resolve()
    return own / "cache"


def cached(digest: str) -> Path:
    """Where DVC's cache has a file of this md5, if it has it."""
    return cache_folder() / "files" / "md5" / digest[:2] / digest[2:]


def md5_of(tree: Folder, path: str) -> str | None:
    """A file's md5 or that of a folder on disk, as DVC has them in dvc.lock; None for neither.

    Links to folders and bytecode, which `.dvcignore` keeps out everywhere, do not count.
    """
    here = tree.path / path
    if tree.revision:
        data = tree.read(path)
        return None if data is None else md5(data).hexdigest()
    if here.is_file():
        with here.open("rb") as file:  # read piece by piece
            return file_digest(file, "md5").hexdigest()
    names = (Path(at, n).relative_to(here).as_posix() for at, _, ns in os.walk(here) for n in ns)
    entries = [
        {"md5": md5_of(tree, f"{path}/{name}"), "relpath": name}
        for name in sorted(names)
        if "__pycache__" not in name and not name.endswith(".pyc")
    ]
    text = json.dumps(entries, sort_keys=True).encode()
    return md5(text).hexdigest() + ".dir" if entries else None


def results_sha(tree: Folder) -> str:
    """Hash of all result files."""
    return sha256(json.dumps(sorted(tree.results().items())).encode()).hexdigest()


def read_yaml(tree: Folder, path: str) -> dict[str, Any]:
    """A YAML file as a dict, {} if there is none."""
    content = yaml.safe_load(tree.read(path) or b"")
    return content if isinstance(content, dict) else {}


def read_json(tree: Folder, path: str) -> dict[str, Any]:
    """A JSON file as a dict, {} if there is none."""
    content = json.loads(tree.read(path) or b"{}")
    return content if isinstance(content, dict) else {}


def read_table(tree: Folder, path: str) -> "pandas.DataFrame":
    """A CSV file, perhaps from DVC's cache on this machine; an empty frame if there is none."""
    import pandas  # half a second, for those who need it

    if (data := tree.read(path)) is None:
        file = cached(locked_outputs(tree).get(path, "missing"))
        data = file.read_bytes() if file.is_file() else None
    return pandas.read_csv(io.BytesIO(data or b"none\n"))


def headline(tree: Folder) -> dict[str, float]:
    """All final metrics: those of HEADLINE_STAGE by their names, others after their stage."""
    found: dict[str, float] = {}
    for path in filter(re.compile("metrics/.*json").fullmatch, tree.results()):
        prefix = f"{Path(path).stem}.".removeprefix(f"{HEADLINE_STAGE}.")
        found |= {f"{prefix}{n}": value for n, value in numbers(read_json(tree, path)).items()}
    return found


def restored_record(tree: Folder, stage: str, when: float) -> dict[str, Any]:
    """A record for a stage that DVC restored instead of running it."""
    log, table = Log(), read_table(tree, f"plots/{stage}.csv")
    for step, row in table.set_index(table.columns[0]).iterrows():
        log(row.dropna().to_dict(), step)
    log.summary(read_json(tree, f"metrics/{stage}.json"))
    locked = read_yaml(tree, "dvc.lock").get("stages", {}).get(stage, {})
    return {
        "stage": stage,
        "status": "FINISHED",
        "started": when,
        "ended": when,
        "params": locked.get("params", {}).get("params.yaml") or {},
        "points": log.points,
        "tags": {"dvc.cached": "true"},
    }


def copy(tree: Folder, paths: Iterable[str], folder: Path) -> None:
    """Write those of the files that there are into a folder."""
    for path in paths:
        if (data := tree.read(path)) is not None:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)


def write_artifacts(tree: Folder, folder: Path) -> list[str]:
    """Lay out what the experiment's run shows as files; the names of the tables come back."""
    shown = [path for path in tree.results() if path.startswith("report/")]
    copy(tree, [*shown, "params.yaml", "dvc.lock"], folder)
    paths = {f"{Path(path).stem}.json": path for path in shown if path.endswith(".csv")}
    for name, path in paths.items():
        table = read_table(tree, path)
        table.to_json(folder / name, orient="split", index=False, double_precision=15)
    return sorted(paths, key=lambda name: (name != "summary.json", name))  # the first is compared

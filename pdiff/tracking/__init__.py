"""What ran, when and how well: one MLflow run per experiment, one nested run per stage.

Files come first: a stage collects its curve in memory and leaves a record under `.work/runs`;
only then is the record sent to MLflow, in one batch. Whatever goes wrong with MLflow costs one
warning, never a result, and `python -m pdiff.tracking sync` brings in later what is missing.

    .work/runs/<key>/<stage>.json   the record: curves, summary, parameters, timings, versions
    .work/runs/<key>/<stage>.files  small files attached to it
    .work/runs/<key>/results        copy of metrics, plots and report of a finished pipeline

The key is DVC's name of the experiment, or `repro-<hash of params.yaml>` for plain runs.
"""

import contextlib
import fcntl
import http.client
import json
import logging
import os
import shutil
import sqlite3
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pdiff.system import speed
from pdiff.system.paths import root
from pdiff.tracking.files import (
    Curve,
    Folder,
    clean_name,
    flatten,
    numbers,
    params_sha,
    write_atomically,
)
from pdiff.tracking.process import peak_memory, process_tags
from pdiff.tracking.store import Store

EXPERIMENT = "pdiff"
SETTINGS = {  # of the MLflow client; the environment wins
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
SYNC_HINT = "; `python -m pdiff.tracking sync` logs it later"


class TrackingError(RuntimeError):
    """MLflow cannot be used, with a reason that fits on one line."""


def runs_folder(key: str = "") -> Path:
    """Where the records of one experiment, or of all, are kept."""
    return root() / ".work" / "runs" / key


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the SQLite file in `root()`; a relative SQLite path starts there."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path = uri.removeprefix("sqlite:///")
    return f"sqlite:///{root() / path}" if path != uri else uri


def experiment_key(params: Mapping[str, Any]) -> str:
    """DVC's name of the running experiment, else a name made from the parameters."""
    name = os.environ.get("DVC_EXP_NAME")
    return clean_name(name) if name else f"repro-{params_sha(params)[:8]}"


class Log:
    """Collects what a stage reports; nothing here touches the network or MLflow."""

    def __init__(self, stage: str, params: Mapping[str, Any], sections: tuple[str, ...]):
        self.stage = stage
        self.params = dict(params)
        self.sections = sections
        self.key = experiment_key(params)
        self.error: str | None = None
        self.finishes_pipeline = False
        self.started = time.time()
        self._curves: dict[str, Curve] = {}
        self._summary: dict[str, Any] = {}
        self._files: list[str] = []

    def __call__(self, metrics: Mapping[str, Any], step: int) -> None:
        """Add one point to each named curve."""
        now = int(time.time() * 1000)
        for name, value in numbers(metrics).items():
            self._curves.setdefault(name, []).append([int(step), now, value])

    def summary(self, values: Mapping[str, Any]) -> None:
        """Add final values, possibly nested."""
        self._summary |= flatten(values)

    def artifact(self, path: Path | str) -> None:
        """Attach a small file; it is copied now, so the original may go."""
        source, folder = Path(path), runs_folder(self.key) / f"{self.stage}.files"
        with _warns("a file was not attached"):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / source.name)
            self._files.append(source.name)

    def record(self) -> dict[str, Any]:
        """All that is known about the stage, as JSON."""
        ended = time.time()
        return {
            "id": uuid.uuid4().hex,
            "key": self.key,
            "stage": self.stage,
            "status": "FAILED" if self.error else "FINISHED",
            "error": self.error,
            "tracked": tracking_is_on(),
            "started": self.started,
            "ended": ended,
            "all_params": self.params,
            "params": {name: self.params[name] for name in self.sections},
            "timing": {"duration_s": ended - self.started, **peak_memory(), **speed.speeds()},
            "summary": self._summary,
            "curves": self._curves,
            "files": self._files,
            "tags": process_tags(),
        }


_current: Log | None = None


@contextlib.contextmanager
def run(stage: str, params: Any, *sections: str) -> Iterator[Log]:
    """Record a stage; `sections` names the parts of `params` that its MLflow run shows."""
    global _current
    log = Log(stage, params.model_dump(mode="json"), sections)
    _current = log
    speed.reset()
    try:
        yield log
    except BaseException as error:
        log.error = f"{type(error).__name__}: {error}"
        raise
    finally:
        _current = None
        _close(log)


def finish(params: Any) -> None:
    """Complete the experiment's run from metrics, plots and report in the working directory.

    Called by the report stage when its files are written; inside `with run(...)` it takes effect
    when the block ends.
    """
    if _current is not None:
        _current.finishes_pipeline = True
    elif tracking_is_on():
        values = params.model_dump(mode="json")
        key = experiment_key(values)
        with _warns(f"the results of {key} were not logged", SYNC_HINT):
            _save_results(key, values)
            with open_store() as store:
                store.publish(key, Folder(runs_folder(key) / "results"), process_tags())


def log_table(name: str, columns: list[str], rows: list[list[Any]], files: Iterable[Path]) -> None:
    """Log a comparison of experiments as a run of its own; the last one of that name stays."""
    if tracking_is_on():
        with _warns(f"{name} was not logged"), open_store() as store:
            store.add_table(name, {"columns": columns, "data": rows}, files, process_tags())


def tracking_is_on() -> bool:
    """False if PDIFF_TRACKING=off."""
    return os.environ.get("PDIFF_TRACKING", "on").lower() not in ("off", "0", "false")


def _close(log: Log) -> None:
    """Write the record, then send it."""
    done = log.finishes_pipeline and not log.error
    with _warns(f"no record of {log.stage} was kept"):
        record = log.record()
        save_record(record)
        if not tracking_is_on():
            return
        if done:
            _save_results(log.key, log.params)
        with _warns(f"{log.stage} was not logged", SYNC_HINT), open_store() as store:
            store.add_live(record)
            if done:
                store.publish(log.key, Folder(runs_folder(log.key) / "results"), record["tags"])


@contextlib.contextmanager
def _warns(what: str, hint: str = "") -> Iterator[None]:
    """Turn any exception into one line on stderr: tracking never fails a stage."""
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        line = f"warning: tracking: {what}: {lines[0][:200]}{hint}"
        print(line, file=sys.stderr, flush=True)


def save_record(record: Mapping[str, Any]) -> None:
    """Write a record by rename; the experiment's records for other parameters go."""
    folder = runs_folder(record["key"])
    folder.mkdir(parents=True, exist_ok=True)
    sha = params_sha(record["all_params"])
    for path in folder.glob("*.json"):
        if params_sha(json.loads(path.read_text())["all_params"]) != sha:
            path.unlink()
    shutil.rmtree(folder / "results", ignore_errors=True)  # the pipeline is under way again
    write_atomically(folder / f"{record['stage']}.json", json.dumps(record).encode())


def _save_results(key: str, params: Mapping[str, Any]) -> None:
    """Keep the small results, so that they can be logged even after the workspace has moved on."""
    here, target = Folder(Path.cwd()), runs_folder(key) / "results"
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".results"))
    for name in [*here.results(), "dvc.yaml", "dvc.lock"]:
        if (data := here.read(name)) is not None:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(data)
    (temporary / "params.yaml").write_text(yaml.safe_dump(dict(params), sort_keys=False))
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)


def _check_server(uri: str) -> None:
    """Raise within seconds if no server answers; MLflow itself would try for minutes."""
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=3).close()
    except urllib.error.HTTPError:
        return  # it answers, perhaps it wants a login
    except (OSError, http.client.HTTPException) as error:
        raise TrackingError(f"no MLflow server at {uri}") from error


def _check_database(path: Path) -> None:
    """Raise within seconds if the database is broken, or locked by something else."""
    if path.exists():
        with contextlib.closing(sqlite3.connect(path, timeout=3)) as database:
            database.execute("BEGIN IMMEDIATE")


@contextlib.contextmanager
def file_lock(path: Path, patience_s: float = 60) -> Iterator[None]:
    """Hold a lock between processes; `TrackingError` when others keep it too long."""
    with path.open("w") as handle:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise TrackingError(f"{path} is held by another process") from error
                time.sleep(0.05)
        yield


@contextlib.contextmanager
def open_store() -> Iterator[Store]:
    """The MLflow experiment, held alone: making a store, and a run by key, must not race."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    uri = tracking_uri()
    if uri.startswith("http"):
        _check_server(uri)
    try:
        import mlflow
    except ImportError as error:
        raise TrackingError(f"mlflow is not usable here: {error}") from error
    _silence()
    with file_lock(root() / ".mlflow.lock"):
        if uri.startswith("sqlite:///"):
            _check_database(Path(uri.removeprefix("sqlite:///")))
        client = mlflow.MlflowClient(uri)
        yield Store(mlflow.entities, client, _experiment_id(client, uri), runs_folder())


def _silence() -> None:
    """MLflow, Alembic and urllib3 announce every step and every retry; one warning is enough."""
    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _experiment_id(client: Any, uri: str) -> str:
    """The id of our experiment, made on first use with artifacts beside the database."""
    location = (root() / "mlruns").as_uri() if uri.startswith("sqlite:") else None
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return client.create_experiment(EXPERIMENT, artifact_location=location)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    if location and experiment.artifact_location != location:
        raise TrackingError(
            f"{uri} belongs to {experiment.artifact_location}: the folder was moved;"
            " delete mlflow.db and mlruns, sync rebuilds them"
        )
    return experiment.experiment_id

"""What ran, when and how well: one MLflow run per experiment, one nested run per stage.

Files come first: a stage collects its curve in memory and leaves a record under `.work/runs`.
Only then is MLflow, which takes seconds to import, told of all records that it does not have: by
a stage that took a minute, that failed, or that ends the pipeline. Whatever goes wrong with MLflow
costs one warning, never a result, and `python -m pdiff.tracking sync` brings in what is missing.

    .work/runs/<key>/<stage>.json   the record: curves, summary, parameters, timings, versions
    .work/runs/<key>/results        copy of metrics, plots and report of a finished pipeline

The key is DVC's name of the experiment, or `repro-<hash of params.yaml>` for plain runs.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pdiff.system import speed
from pdiff.system.paths import root
from pdiff.tracking import files
from pdiff.tracking.process import peak_memory, process_tags
from pdiff.tracking.store import open_store

PATIENCE_S = 60.0
"""A stage that took less leaves it to a later one, or to sync, to tell MLflow."""
SYNC_HINT = "; `python -m pdiff.tracking sync` logs it later"


def runs_folder(key: str = "") -> Path:
    """Where the records of one experiment, or of all, are kept."""
    return root() / ".work" / "runs" / key


def experiment_key(params: Mapping[str, Any]) -> str:
    """DVC's name of the running experiment, else a name made from the parameters."""
    name = os.environ.get("DVC_EXP_NAME")
    return files.clean_name(name) if name else f"repro-{files.params_sha(params)[:8]}"


class Log:
    """Collects what a stage reports; nothing here touches the network or MLflow."""

    def __init__(self) -> None:
        self.curves: dict[str, files.Curve] = {}
        self.values: dict[str, Any] = {}

    def __call__(self, metrics: Mapping[str, Any], step: int) -> None:
        """Add one point to each named curve."""
        now = int(time.time() * 1000)
        for name, value in files.numbers(metrics).items():
            self.curves.setdefault(name, []).append([int(step), now, value])

    def summary(self, values: Mapping[str, Any]) -> None:
        """Add final values, possibly nested."""
        self.values |= files.flatten(values)


@contextlib.contextmanager
def run(stage: str, params: Any, *sections: str) -> Iterator[Log]:
    """Record a stage; `sections` names the parts of `params` that its MLflow run shows.

    The end of REPORT_STAGE completes the experiment's run, with the metrics, plots and report that
    lie in the working directory then.
    """
    log, started, error = Log(), time.time(), None
    speed.reset()
    try:
        yield log
    except BaseException as raised:
        error = f"{type(raised).__name__}: {raised}"
        raise
    finally:
        with warns(f"no record of {stage} was kept"):
            ended, values = time.time(), params.model_dump(mode="json")
            record = {
                "id": uuid.uuid4().hex,
                "key": experiment_key(values),
                "stage": stage,
                "status": "FAILED" if error else "FINISHED",
                "error": error,
                "tracked": tracking_is_on(),
                "started": started,
                "ended": ended,
                "all_params": values,
                "params": {name: values[name] for name in sections},
                "timing": {"duration_s": ended - started, **peak_memory(), **speed.speeds()},
                "summary": log.values,
                "curves": log.curves,
                "tags": process_tags(),
            }
            save_record(record)
            if record["tracked"]:
                _send(record)


def _send(record: Mapping[str, Any]) -> None:
    """Tell MLflow what it does not know of the experiment, unless a later stage can do it."""
    key, failed = record["key"], record["status"] == "FAILED"
    done = record["stage"] == files.REPORT_STAGE and not failed
    if done:
        _save_results(key, record["all_params"])
    if done or failed or record["timing"]["duration_s"] >= PATIENCE_S:
        with warns(f"{record['stage']} was not logged", SYNC_HINT), open_store() as store:
            store.add_records(records(key))
            if done:
                store.publish(key, files.Folder(runs_folder(key) / "results"), record["tags"])


def log_table(name: str, columns: list[str], rows: list[list[Any]], paths: Iterable[Path]) -> None:
    """Log a comparison of experiments as a run of its own; the last one of that name stays."""
    if tracking_is_on():
        with warns(f"{name} was not logged"), open_store() as store:
            store.add_table(name, {"columns": columns, "data": rows}, paths, process_tags())


def tracking_is_on() -> bool:
    """False if PDIFF_TRACKING=off."""
    return os.environ.get("PDIFF_TRACKING", "on").lower() not in ("off", "0", "false")


@contextlib.contextmanager
def warns(what: str, hint: str = "") -> Iterator[None]:
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
    sha = files.params_sha(record["all_params"])
    for path in folder.glob("*.json"):
        if files.params_sha(json.loads(path.read_text())["all_params"]) != sha:
            path.unlink()
    shutil.rmtree(folder / "results", ignore_errors=True)  # the pipeline is under way again
    files.write_atomically(folder / f"{record['stage']}.json", json.dumps(record).encode())


def records(key: str = "*") -> list[dict[str, Any]]:
    """What stages of one experiment, or of all, recorded while tracking was on, oldest first."""
    found = [json.loads(path.read_text()) for path in runs_folder().glob(f"{key}/*.json")]
    return sorted((r for r in found if r["tracked"]), key=lambda record: record["started"])


def _save_results(key: str, params: Mapping[str, Any]) -> None:
    """Keep the small results, so that they can be logged even after the workspace has moved on."""
    here, target = files.Folder(Path.cwd()), runs_folder(key) / "results"
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".results"))
    for name in [*here.results(), "dvc.yaml", "dvc.lock"]:
        if (data := here.read(name)) is not None:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(data)
    (temporary / "params.yaml").write_text(yaml.safe_dump(dict(params), sort_keys=False))
    temporary.rename(target)

"""What ran, when and how well: one MLflow run per experiment, one nested run per stage.

A curve is shown while it grows (`live`), but files are what counts: a stage collects its points in
memory and leaves a record under `.work/runs`. Then MLflow, which takes seconds to import, is told
of all records that it does not have: by a stage that took two minutes, that failed, or that ends
the pipeline. Whatever goes wrong with MLflow costs one warning, never a result, and
`python -m pdiff.tracking sync` brings in what is missing.

    .work/runs/<key>/<stage>.json   the record: points, parameters, timings, versions
    .work/runs/<key>/results        copy of the results of a finished pipeline

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
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from pdiff import outputs
from pdiff.system import speed
from pdiff.system.errors import reason
from pdiff.system.paths import replacing, root
from pdiff.tracking import files
from pdiff.tracking.live import Live
from pdiff.tracking.process import peak_memory, process_tags
from pdiff.tracking.store import TrackingError, open_store, tracking_uri

PATIENCE_S = 120.0
"""A stage that took less leaves it to a later one, or to sync, to tell MLflow."""
SILENT_S, SLOW_S = 3600.0, 10.0
"""How long stages leave a server alone that failed after more than `SLOW_S`."""
HINT = "; `python -m pdiff.tracking sync` logs it later"
RECORD = {"key", "stage", "status", "tracked", "started", "all_params", "timing"}
"""What every record holds."""


def experiment() -> str:
    """DVC's name of the experiment that runs, "" outside of `dvc exp run`."""
    return os.environ.get("DVC_EXP_NAME", "")


def seconds_of(params: Any) -> float:
    """How long the stages took that ran for these parameters, all together."""
    found = kept_records(_key(params.model_dump(mode="json")))
    return sum((record["timing"].get("duration_s", 0.0) for record in found), 0.0)


def _key(values: Mapping[str, Any]) -> str:
    """The name of the folder that the records of these parameters are in."""
    return files.clean_name(experiment() or files.key_of(values))


def runs_folder(key: str = "") -> Path:
    """Where the records of one experiment, or of all, are kept."""
    return root() / ".work" / "runs" / key


@contextlib.contextmanager
def run(stage: str, params: Any, *sections: str) -> Iterator[files.Log]:
    """Record a stage; `sections` names the parts of `params` that its MLflow run shows.

    The end of REPORT_STAGE completes the experiment's run, with the metrics, plots and report that
    lie in the working directory then.
    """
    log, started, error = files.Log(), time.time(), None
    speed.reset()
    values = params.model_dump(mode="json")
    about = {
        "id": uuid.uuid4().hex,
        "key": _key(values),
        "stage": stage,
        "tracked": tracking_is_on(),
        "started": started,
        "all_params": values,
        "params": {name: values[name] for name in sections},
    }
    later = os.environ.get("PDIFF_TRACKING") == "later"
    live = Live(about, log) if about["tracked"] and not later else None
    try:
        yield log
    except BaseException as raised:
        error = f"{type(raised).__name__}: {raised}"
        raise
    finally:
        with warns(f"no record of {stage} was kept"):
            ended, status = time.time(), "FAILED" if error else "FINISHED"
            timing = {"duration_s": ended - started, **peak_memory(), **speed.speeds()}
            log.summary(timing)
            found = {"status": status, "ended": ended, "timing": timing, "points": log.points}
            record = {**about, **found, "tags": process_tags(), "error": error}
            save_record(record)
            if about["tracked"]:
                _tell(record, live is not None and live.end(status))


def _tell(record: Mapping[str, Any], works: bool) -> None:
    """Tell MLflow what it does not know of the experiment, unless a later stage can do it.

    If it does not work, as a warning has said, or is not wanted yet, that is left to sync.
    """
    results, failed = runs_folder(record["key"]) / "results", record["status"] == "FAILED"
    done = record["stage"] == files.REPORT_STAGE and not failed
    if done:  # a copy can be logged later, even if the workspace has moved on
        with tempfile.TemporaryDirectory(dir=results.parent) as folder:
            here, whole = files.Folder(Path.cwd()), Path(folder, "results")
            whole.mkdir()
            models = str(outputs.MODELS)
            files.copy(here, [*here.results(), "dvc.yaml", "dvc.lock", models], whole)
            text = yaml.safe_dump(record["all_params"], sort_keys=False)
            (whole / "params.yaml").write_text(text)
            whole.rename(results)
    if works and (done or failed or record["timing"]["duration_s"] >= PATIENCE_S):
        told = f"{record['stage']} was not logged"
        with warns(told, HINT), asked_once(), open_store() as store:
            store.add_records(records(record["key"]))
            if done:
                store.publish(record["key"], files.Folder(results), record["tags"], time.time())


@contextlib.contextmanager
def asked_once() -> Iterator[None]:
    """Spare the stages of an hour a server that made one of them wait in vain; sync asks again."""
    mark, begun, uri = silent_server(), time.time(), tracking_uri()
    own = sha256(uri.encode()).hexdigest()  # the address may hold a password
    if mark.is_file() and mark.read_text() == own and begun - mark.stat().st_mtime < SILENT_S:
        raise TrackingError("the server did not answer an earlier stage")
    try:
        yield
    except Exception:
        if uri.startswith("http") and time.time() - begun >= SLOW_S:
            mark.write_text(own)
        raise


def silent_server() -> Path:
    """The file that marks a server which did not answer."""
    return runs_folder() / "silent"


def log_table(name: str, table: Any, paths: Iterable[Path]) -> None:
    """Log a comparison of experiments as a run of its own; the last one of that name stays."""
    if tracking_is_on():
        with warns(f"{name} was not logged"), open_store() as store:
            store.add_table(name, table, paths, process_tags())


def tracking_is_on() -> bool:
    """False if PDIFF_TRACKING=off; `later` keeps records, of which only sync tells MLflow."""
    return os.environ.get("PDIFF_TRACKING", "on").lower() not in ("off", "0", "false")


@contextlib.contextmanager
def warns(what: str, hint: str = "") -> Iterator[None]:
    """Turn any exception into one line on stderr: tracking never fails a stage."""
    try:
        yield
    except Exception as error:
        why = reason(error)[:200]
        print(f"warning: tracking: {what}: {why}{hint}", file=sys.stderr, flush=True)


def save_record(record: Mapping[str, Any]) -> None:
    """Write a record by rename; the experiment's records for other parameters go."""
    path = runs_folder(record["key"]) / f"{record['stage']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    sha = files.params_sha(record["all_params"])
    for other in kept_records(record["key"]):
        if files.params_sha(other["all_params"]) != sha:
            path.with_name(f"{other['stage']}.json").unlink(missing_ok=True)
    shutil.rmtree(path.parent / "results", ignore_errors=True)  # the pipeline is under way again
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record))


def records(key: str = "*") -> list[dict[str, Any]]:
    """What stages of one experiment, or of all, recorded while tracking was on, oldest first.

    A record of an earlier form, which has no points, is left aside.
    """
    found = [r for r in kept_records(key) if r["tracked"] and "points" in r]
    return sorted(found, key=lambda record: record["started"])


def kept_records(key: str = "*") -> list[dict[str, Any]]:
    """All records of one experiment, or of all; one that is damaged is named and left aside."""
    found = []
    for path in sorted(runs_folder().glob(f"{key}/*.json")):
        with warns(f"{path} is damaged and left aside"):
            record = json.loads(path.read_text())
            if missing := RECORD - record.keys():
                raise ValueError(f"{', '.join(sorted(missing))} are missing")
            found.append(record)
    return found

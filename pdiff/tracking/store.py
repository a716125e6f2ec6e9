"""Experiments and stages as MLflow runs, written so that everything may be repeated."""

import contextlib
import http.client
import json
import logging
import os
import shutil
import sqlite3
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from pdiff.system.paths import root
from pdiff.tracking import files

EXPERIMENT = "pdiff"
LOGGED = "mlflow.loggedArtifacts"  # the tag by which MLflow finds a run's tables
PATIENCE_S = 60.0  # while another process writes
SETTINGS = {  # of the MLflow client; the environment wins
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class TrackingError(RuntimeError):
    """MLflow cannot be used, with a reason that fits on one line."""


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the SQLite file in `root()`; a relative SQLite path starts there."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path = uri.removeprefix("sqlite:///")
    return f"sqlite:///{root() / path}" if path != uri else uri


@contextlib.contextmanager
def open_store() -> Iterator["Store"]:
    """The MLflow experiment, held alone: making a store, and a run by key, must not race.

    A server that is down or a database that is locked raises within seconds.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    uri = tracking_uri()
    if uri.startswith("http"):
        _check_server(uri)
    try:
        import mlflow
    except ImportError as error:
        raise TrackingError(f"mlflow is not usable here: {error}") from error
    for name in ("mlflow", "alembic", "urllib3"):  # they announce every step and every retry
        logging.getLogger(name).setLevel(logging.ERROR)
    with FileLock(root() / ".mlflow.lock", timeout=PATIENCE_S):
        path = Path(uri.removeprefix("sqlite:///"))
        if uri.startswith("sqlite:///") and path.exists():
            with contextlib.closing(sqlite3.connect(path, timeout=3)) as database:
                database.execute("BEGIN IMMEDIATE")
        client = mlflow.MlflowClient(uri)
        yield Store(mlflow.entities, client, _experiment_id(client, uri))


def _check_server(uri: str) -> None:
    """Raise within seconds if no server answers; MLflow itself would try for minutes."""
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=3).close()
    except urllib.error.HTTPError:
        return  # it answers, perhaps it wants a login
    except (OSError, http.client.HTTPException) as error:
        raise TrackingError(f"no MLflow server at {uri}") from error


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


class Store:
    """Writes experiments and stages to MLflow; everything may be repeated without harm."""

    def __init__(self, entities: Any, client: Any, experiment_id: str):
        self.entities = entities  # mlflow.entities
        self.client = client
        self.experiment_id = experiment_id

    def runs(self, deleted: bool = False, **tags: str) -> list[Any]:
        """The runs that have these `pdiff.` tags, newest first; `parent` is an experiment's id."""
        names = {"parent": "mlflow.parentRunId"}
        where = [f"tags.`{names.get(n, f'pdiff.{n}')}` = '{value}'" for n, value in tags.items()]
        found, token, view = [], None, 3 if deleted else 1  # ViewType.ALL, ACTIVE_ONLY
        order = ["attributes.start_time DESC"]
        while True:
            page = self.client.search_runs(
                [self.experiment_id], " and ".join(where), view, 1000, order, token
            )
            found += page
            token = page.token
            if not token:
                return found

    def pipeline(self, key: str) -> Any | None:
        """The newest run of an experiment."""
        return next(iter(self.runs(key=key, role="pipeline")), None)

    def ensure_pipeline(
        self, key: str, params: Mapping[str, Any], started: float, tags: Mapping[str, str]
    ) -> Any:
        """An experiment's run, made if needed; one of ours with other parameters is retired.

        On a server that a team shares, another machine's run of the same name is left alone.
        """
        sha = files.params_sha(params)
        named = self.runs(key=key, role="pipeline")
        found = next((run for run in named if run.data.tags.get("pdiff.params_sha") == sha), None)
        for run in named if found is None else []:
            if run.data.tags.get("pdiff.host") == tags.get("pdiff.host"):
                self.retire(run)
        if found is None:
            names = {"pdiff.key": key, "pdiff.role": "pipeline", "pdiff.params_sha": sha}
            found = self.client.create_run(
                self.experiment_id, int(started * 1000), {**tags, **names}, key
            )
        values = files.flat_params(params).items()
        missing = {name: text for name, text in values if name not in found.data.params}
        self._log(found.info.run_id, params=missing)
        return found

    def retire(self, run: Any) -> None:
        """Delete (MLflow can restore) a run and those nested in it, since it was replaced."""
        for found in [*self.runs(parent=run.info.run_id), run]:
            self.client.set_tag(found.info.run_id, "pdiff.retired", "true")
            self.client.delete_run(found.info.run_id)

    def add_records(self, records: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
        """Log stages from their records, where MLflow does not have them or had them deleted.

        The keys of the experiments that changed come back, and whether each is new.
        """
        changed: dict[str, bool] = {}
        known: dict[str, set[str | None]] = {}
        for record in records:
            key, stage = record["key"], record["stage"]
            if key not in known:
                present = self.runs(deleted=True, key=key)
                known[key] = {run.data.tags.get("pdiff.record") for run in present}
            if record["id"] in known[key]:
                continue
            changed.setdefault(key, self.pipeline(key) is None)
            pipeline_id = self.ensure_pipeline(
                key, record["all_params"], record["started"], record["tags"]
            ).info.run_id
            old = self.runs(parent=pipeline_id, stage=stage)
            self._add_stage(pipeline_id, key, record)
            for run in old:
                self.retire(run)
            self._log(pipeline_id, tags={n: record["tags"][n] for n in ("pdiff.host", "pdiff.pid")})
            if record["status"] == "FAILED":
                self.client.set_terminated(pipeline_id, "FAILED", int(record["ended"] * 1000))
            else:
                self.client.update_run(pipeline_id, "RUNNING")
        return changed

    def _add_stage(self, pipeline_id: str, key: str, record: Mapping[str, Any]) -> None:
        stage = record["stage"]
        tags = {"pdiff.key": key, "pdiff.role": "stage", "pdiff.stage": stage, **record["tags"]}
        tags["mlflow.parentRunId"] = pipeline_id
        run_id = self.client.create_run(
            self.experiment_id, int(record["started"] * 1000), tags, stage
        ).info.run_id
        self._log(run_id, _points(record), files.flat_params(record["params"]), _notes(record))
        if "id" in record:  # the last, so that a run cut short is made again
            self.client.set_tag(run_id, "pdiff.record", record["id"])
        self.client.set_terminated(run_id, record["status"], int(record["ended"] * 1000))

    def publish(
        self, key: str, tree: files.Tree, tags: Mapping[str, str], when: float | None = None
    ) -> None:
        """Complete an experiment's run from its result files and mark it finished."""
        when = when or time.time()
        found = self.ensure_pipeline(key, files.read_yaml(tree, "params.yaml"), when, tags)
        pipeline_id, old = found.info.run_id, found.data
        values = {files.clean_name(name): value for name, value in files.headline(tree).items()}
        short = {column: values[name] for name, column in files.COLUMNS.items() if name in values}
        values |= {column: float(f"{value:.4g}") for column, value in short.items()}
        now = int(time.time() * 1000)
        changed = {name: value for name, value in values.items() if old.metrics.get(name) != value}
        with tempfile.TemporaryDirectory() as folder:
            tables = files.write_artifacts(tree, Path(folder))
            self.client.log_artifacts(pipeline_id, folder)
        notes = {**tags, "pdiff.results_sha": files.results_sha(tree), LOGGED: _logged(tables)}
        self._log(pipeline_id, [(n, v, now, 0) for n, v in changed.items()], tags=notes)
        if "pdiff.error" in old.tags:
            self.client.delete_tag(pipeline_id, "pdiff.error")
        stages = self.runs(parent=pipeline_id)
        present = {r.data.tags["pdiff.stage"] for r in stages if r.info.status == "FINISHED"}
        for stage in files.read_yaml(tree, "dvc.yaml").get("stages", {}):
            if stage not in present:
                self._add_stage(pipeline_id, key, files.restored_record(tree, stage, when))
        self.client.set_terminated(pipeline_id, "FINISHED", int(when * 1000))

    def add_table(
        self, name: str, table: Mapping[str, Any], paths: Iterable[Path], tags: Mapping[str, str]
    ) -> None:
        """Log a table of experiments with its files, in place of the last one of that name."""
        key, now = files.clean_name(name), int(time.time() * 1000)
        old = self.runs(key=key, role="table")
        notes = {"pdiff.key": key, "pdiff.role": "table", LOGGED: _logged(["table.json"])}
        new = self.client.create_run(self.experiment_id, now, {**tags, **notes}, name)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "table.json").write_text(json.dumps(table))
            for path in paths:
                shutil.copyfile(path, Path(folder) / path.name)
            self.client.log_artifacts(new.info.run_id, folder)
        self.client.set_terminated(new.info.run_id, "FINISHED", now)
        for found in old:
            self.retire(found)

    def _log(
        self,
        run_id: str,
        points: Iterable[tuple[str, float, int, int]] = (),
        params: Mapping[str, str] = {},
        tags: Mapping[str, str] = {},
    ) -> None:
        """Log points (name, value, milliseconds, step), parameters and tags in few requests."""
        metrics = [self.entities.Metric(*point) for point in points]
        values = [
            self.entities.Param(files.clean_name(n), value[:6000]) for n, value in params.items()
        ]
        notes = [self.entities.RunTag(name, value[:5000]) for name, value in tags.items()]
        while metrics or values or notes:
            self.client.log_batch(run_id, metrics[:800], values[:100], notes[:100])
            metrics, values, notes = metrics[800:], values[100:], notes[100:]


def _logged(tables: Iterable[str]) -> str:
    return json.dumps([{"path": name, "type": "table"} for name in tables])


def _points(record: Mapping[str, Any]) -> list[tuple[str, float, int, int]]:
    """All metrics of a record; a final value stands at the last step of the curve it ends."""
    started, ended = int(record["started"] * 1000), int(record["ended"] * 1000)
    points, last = [], {}
    for name, curve in record["curves"].items():
        points += [
            (files.clean_name(name), value, int(ms) or started, step) for step, ms, value in curve
        ]
        last[name] = max((step for step, _, _ in curve), default=0)
    for name, value in {**record["timing"], **files.numbers(record["summary"])}.items():
        points.append((files.clean_name(name), value, ended + 1, last.get(name, 0)))
    return points


def _notes(record: Mapping[str, Any]) -> dict[str, str]:
    """What a record says in words: texts of its summary, and why it failed."""
    notes = {f"summary.{n}": v for n, v in record["summary"].items() if isinstance(v, str) and v}
    return {**notes, "pdiff.error": record["error"]} if record.get("error") else notes

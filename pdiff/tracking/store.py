"""Experiments and stages as MLflow runs, written so that everything may be repeated."""

import contextlib
import http.client
import json
import logging
import os
import sqlite3
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from pdiff.system.paths import root
from pdiff.tracking import files

EXPERIMENT = "pdiff"
MOST_RUNS = 50_000  # MLflow's own limit to a search
PATIENCE_S = 60.0  # while another process writes
SETTINGS = {  # of the MLflow client; the environment wins
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


LOOPBACK = "localhost,127.0.0.1,::1,[::1]"
"""What no proxy can reach for us."""


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
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if direct != "*" and LOOPBACK not in direct:
        os.environ["no_proxy"] = f"{direct},{LOOPBACK}".strip(",")
    uri = tracking_uri()
    if uri.startswith("http"):
        try:  # MLflow itself would try for minutes
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=3).close()
        except urllib.error.HTTPError:
            pass  # it answers, perhaps it wants a login
        except (OSError, http.client.HTTPException) as error:
            raise TrackingError(f"no MLflow server at {uri}") from error
    import mlflow

    for name in ("mlflow", "alembic", "urllib3"):  # they announce every step and every retry
        logging.getLogger(name).setLevel(logging.ERROR)
    with FileLock(root() / ".mlflow.lock", timeout=PATIENCE_S):
        path = Path(uri.removeprefix("sqlite:///"))
        if uri.startswith("sqlite:///") and path.exists():
            with contextlib.closing(sqlite3.connect(path, timeout=3)) as database:
                database.execute("BEGIN IMMEDIATE")
        yield Store(mlflow.MlflowClient(uri), uri)


class Store:
    """Writes experiments and stages to MLflow; everything may be repeated without harm."""

    def __init__(self, client: Any, uri: str):
        """Find our MLflow experiment, or make it, with artifacts beside the database."""
        self.client = client
        location = (root() / "mlruns").as_uri() if uri.startswith("sqlite:") else None
        if client.get_experiment_by_name(EXPERIMENT) is None:
            client.create_experiment(EXPERIMENT, artifact_location=location)
        found = client.get_experiment_by_name(EXPERIMENT)
        self.experiment_id = found.experiment_id
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(self.experiment_id)
        if location and found.artifact_location != location:
            raise TrackingError(
                f"{uri} belongs to {found.artifact_location}: the folder was moved;"
                " delete mlflow.db and mlruns, sync rebuilds them"
            )

    def runs(self, deleted: bool = False, **tags: str) -> list[Any]:
        """The runs that have these `pdiff.` tags, newest first; `parent` is an experiment's id."""
        names = {"parent": "mlflow.parentRunId"}
        where = [f"tags.`{names.get(n, f'pdiff.{n}')}` = '{value}'" for n, value in tags.items()]
        query, view = " and ".join(where), 3 if deleted else 1  # ViewType.ALL, ACTIVE_ONLY
        order = ["attributes.start_time DESC"]
        return self.client.search_runs([self.experiment_id], query, view, MOST_RUNS, order)

    def ensure_pipeline(
        self, key: str, params: Mapping[str, Any], started: float, tags: Mapping[str, str]
    ) -> Any:
        """An experiment's run, made if needed; one of ours with other parameters is retired.

        On a server that a team shares, another machine's run of the same name is left alone.
        """
        sha = files.params_sha(params)
        named = self.runs(key=key, role="pipeline")
        found = next((run for run in named if run.data.tags.get("pdiff.params_sha") == sha), None)
        if found is None:
            for run in named:
                if run.data.tags.get("pdiff.host") == tags.get("pdiff.host"):
                    self.retire(run)
            names = {"pdiff.key": key, "pdiff.role": "pipeline", "pdiff.params_sha": sha}
            found = self._create(key, started, {**tags, **names})
        self._log(found.info.run_id, params=files.flat_params(params))
        return found

    def retire(self, run: Any) -> None:
        """Delete (MLflow can restore) a run and those nested in it, since it was replaced."""
        for found in [*self.runs(parent=run.info.run_id), run]:
            self.client.set_tag(found.info.run_id, "pdiff.retired", "true")
            self.client.delete_run(found.info.run_id)

    def add_records(self, records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Log stages from their records, where MLflow neither has them nor had them deleted.

        The keys of the experiments that changed come back, each with "added" or "updated".
        """
        changed: dict[str, str] = {}
        keys = {record["key"] for record in records}
        present = [run.data.tags for key in keys for run in self.runs(deleted=True, key=key)]
        known = {tags.get("pdiff.record") for tags in present}
        for record in (r for r in records if r["id"] not in known):
            key, tags = record["key"], record["tags"]
            here = self.runs(key=key, role="pipeline")
            changed.setdefault(key, "updated" if here else "added")
            found = self.ensure_pipeline(key, record["all_params"], record["started"], tags)
            pipeline_id = found.info.run_id
            old = self.runs(parent=pipeline_id, stage=record["stage"])
            self._add_stage(pipeline_id, key, record)
            for run in old:
                self.retire(run)
            if record["status"] == "FAILED":
                self.end(pipeline_id, "FAILED", record["ended"])
            else:
                self.client.update_run(pipeline_id, "RUNNING")
        return changed

    def _add_stage(self, pipeline_id: str, key: str, record: Mapping[str, Any]) -> None:
        stage = record["stage"]
        tags = {"pdiff.key": key, "pdiff.role": "stage", "pdiff.stage": stage}
        tags |= {"mlflow.parentRunId": pipeline_id, **record["tags"]}
        run_id = self._create(stage, record["started"], tags).info.run_id
        error = {"pdiff.error": record["error"]} if record.get("error") else {}
        self._log(run_id, record["points"], files.flat_params(record["params"]), error)
        if "id" in record:  # the last, so that a run cut short is made again
            self.client.set_tag(run_id, "pdiff.record", record["id"])
        self.end(run_id, record["status"], record["ended"])

    def publish(self, key: str, tree: files.Folder, tags: Mapping[str, str], when: float) -> None:
        """Complete an experiment's run from its result files and mark it finished."""
        found = self.ensure_pipeline(key, files.read_yaml(tree, "params.yaml"), when, tags)
        run_id, old, now = found.info.run_id, found.data, int(time.time() * 1000)
        values = files.headline(tree)
        short = {column: values[name] for name, column in files.COLUMNS.items() if name in values}
        values |= {column: float(f"{value:.4g}") for column, value in short.items()}
        new = [(n, value, now, 0) for n, value in values.items() if old.metrics.get(n) != value]
        with tempfile.TemporaryDirectory() as folder:
            tables = files.write_artifacts(tree, Path(folder))
            self.client.log_artifacts(run_id, folder)
        logged = json.dumps([{"path": name, "type": "table"} for name in tables])
        notes = {"pdiff.results_sha": files.results_sha(tree), "mlflow.loggedArtifacts": logged}
        self._log(run_id, new, tags={**tags, **notes})
        if "pdiff.error" in old.tags:
            self.client.delete_tag(run_id, "pdiff.error")
        stages = self.runs(parent=run_id)
        present = {r.data.tags["pdiff.stage"] for r in stages if r.info.status == "FINISHED"}
        for stage in files.read_yaml(tree, "dvc.yaml").get("stages", {}):
            if stage not in present:
                self._add_stage(run_id, key, files.restored_record(tree, stage, when))
        self.end(run_id, "FINISHED", when)

    def add_table(self, name: str, table: Any, paths: Iterable[Path], tags: dict[str, str]) -> None:
        """Log a data frame and its files, in place of the last table of that name."""
        key, now = files.clean_name(name), time.time()
        old = self.runs(key=key, role="table")
        new = self._create(name, now, {**tags, "pdiff.key": key, "pdiff.role": "table"})
        self.client.log_table(new.info.run_id, table, "table.json")
        for path in paths:
            self.client.log_artifact(new.info.run_id, str(path))
        self.end(new.info.run_id, "FINISHED", now)
        for found in old:
            self.retire(found)

    def end(self, run_id: str, status: str, when: float) -> None:
        """Set the final status of a run."""
        self.client.set_terminated(run_id, status, int(when * 1000))

    def _create(self, name: str, started: float, tags: Mapping[str, str]) -> Any:
        return self.client.create_run(self.experiment_id, int(started * 1000), tags, name)

    def _log(
        self, run_id: str, points: Iterable = (), params: Mapping = {}, tags: Mapping = {}
    ) -> None:
        """Log points (name, value, milliseconds, step), parameters and tags in few requests."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(*point) for point in points]
        values = [Param(name, value[:6000]) for name, value in params.items()]
        notes = [RunTag(name, value[:5000]) for name, value in tags.items()]
        while metrics or values or notes:
            self.client.log_batch(run_id, metrics[:800], values[:100], notes[:100])
            metrics, values, notes = metrics[800:], values[100:], notes[100:]

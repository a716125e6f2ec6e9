"""Experiments and stages as MLflow runs, written so that everything may be repeated."""

import contextlib
import http.client
import json
import logging
import math
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

from pdiff import outputs
from pdiff.system.paths import root
from pdiff.tracking import comparison, files

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
EXTERNAL = "mlflow.model.isExternal"
"""MLflow's tag of a model whose files lie elsewhere."""
LOOPBACK = "localhost,127.0.0.1,::1,[::1]"
"""What no proxy can reach for us."""
ANSWER_S = 3.0
"""How long a server or a locked database may take."""


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
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=ANSWER_S).close()
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
            with contextlib.closing(sqlite3.connect(path, timeout=ANSWER_S)) as database:
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
            committed = files.Folder(root(), tags.get("dvc.baseline_rev") or "HEAD")
            baseline = files.read_yaml(committed, "params.yaml")
            pair = (files.flat_params(values) for values in (params, baseline))
            if changed := comparison.changed(*pair):
                names["changed"] = changed[:5000]
            title = comparison.title(key, params, baseline)
            found = self._create(title, started, {**tags, **names})
        self.log(found.info.run_id, params=files.flat_params(params))
        return found

    def retire(self, run: Any) -> None:
        """Delete (MLflow can restore) a run and those nested in it, since it was replaced."""
        self._delete_models(run.info.run_id)
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
            whole, failed = "pdiff.results_sha" in found.data.tags, record["status"] == "FAILED"
            pipeline_id = found.info.run_id
            same = self.runs(parent=pipeline_id, stage=record["stage"])
            begun = [run for run in same if run.data.tags.get("pdiff.live") == record["id"]]
            self._add_stage(pipeline_id, key, record, *begun)
            for run in same:
                if run not in begun and not (whole and failed):
                    self.retire(run)
            if not whole:  # the numbers of a finished experiment stay, whatever is tried again
                self._set_status(pipeline_id, "FAILED" if failed else "RUNNING", record["ended"])
        return changed

    def begin_stage(self, record: Mapping[str, Any]) -> tuple[str, str]:
        """Runs for an experiment and for a stage that is under way, in place of one cut short."""
        key, tags, now = record["key"], record["tags"], record["started"]
        pipeline = self.ensure_pipeline(key, record["all_params"], now, tags)
        pipeline_id = pipeline.info.run_id
        for run in self.runs(parent=pipeline_id, stage=record["stage"]):
            if "pdiff.live" in run.data.tags and "pdiff.record" not in run.data.tags:
                self.retire(run)
        if "pdiff.results_sha" not in pipeline.data.tags:
            self._set_status(pipeline_id, "RUNNING", now)
        return pipeline_id, self._create_stage(pipeline_id, key, record)

    def add_curves(self, run_id: str, points: Iterable[Sequence]) -> None:
        """Add to an experiment's run those points of its losses that it does not have."""
        self.log(run_id, self._missing(run_id, [p for p in points if p[0].endswith("loss")]))

    def end_stage(self, pipeline_id: str, run_id: str, status: str) -> None:
        """Set the status of a stage that was shown, and perhaps left no record: it was killed."""
        now = time.time()
        self._set_status(run_id, status, now)
        if status == "KILLED" and self.client.get_run(pipeline_id).info.status == "RUNNING":
            self._set_status(pipeline_id, status, now)

    def _missing(self, run_id: str, points: Sequence[Sequence]) -> list[Sequence]:
        """The points that a run does not have; a resumed training logs its first ones again."""
        there = {
            (point.key, point.value, point.step)
            for name in {point[0] for point in points}
            for point in self.client.get_metric_history(run_id, name)
        }
        return [point for point in points if (point[0], point[1], point[3]) not in there]

    def _create_stage(self, pipeline_id: str, key: str, record: Mapping[str, Any]) -> str:
        tags = {"pdiff.key": key, "pdiff.role": "stage", "pdiff.stage": record["stage"]}
        tags |= {"mlflow.parentRunId": pipeline_id, **record["tags"]}
        if "id" in record:
            tags["pdiff.live"] = record["id"]
        run_id = self._create(record["stage"], record["started"], tags).info.run_id
        self.log(run_id, params=files.flat_params(record["params"]))
        return run_id

    def _add_stage(
        self, pipeline_id: str, key: str, record: Mapping[str, Any], begun: Any = None
    ) -> None:
        """A stage's run from its record, or the rest of one that was begun while it ran."""
        points = record["points"]
        if begun is None:
            run_id = self._create_stage(pipeline_id, key, record)
        else:
            run_id, points = begun.info.run_id, self._missing(begun.info.run_id, points)
        error = {"pdiff.error": record["error"]} if record.get("error") else {}
        self.log(run_id, points, tags=error)
        self.add_curves(pipeline_id, record["points"])
        if "id" in record:  # the last, so that a run cut short is made again
            self.client.set_tag(run_id, "pdiff.record", record["id"])
        self._set_status(run_id, record["status"], record["ended"])

    def publish(self, key: str, tree: files.Folder, tags: Mapping[str, str], when: float) -> None:
        """Complete an experiment's run from its result files and mark it finished."""
        found = self.ensure_pipeline(key, files.read_yaml(tree, "params.yaml"), when, tags)
        run_id, old, now = found.info.run_id, found.data, int(time.time() * 1000)
        values = files.headline(tree)
        values |= comparison.measures(values)
        new = [(n, value, now, 0) for n, value in values.items() if old.metrics.get(n) != value]
        with tempfile.TemporaryDirectory() as folder:
            tables = files.write_artifacts(tree, Path(folder))
            self.client.log_artifacts(run_id, folder)
        logged = json.dumps([{"path": name, "type": "table"} for name in tables])
        notes = {"mlflow.note.content": comparison.note(tree), "mlflow.loggedArtifacts": logged}
        self.log(run_id, new, tags={**tags, **comparison.texts(tree), **notes})
        if "pdiff.error" in old.tags:
            self.client.delete_tag(run_id, "pdiff.error")
        stages = {run.data.tags["pdiff.stage"]: run for run in self._finished(run_id)}
        for stage in files.read_yaml(tree, "dvc.yaml").get("stages", {}):
            if stage not in stages:
                self._add_stage(run_id, key, files.restored_record(tree, stage, when))
        self._add_inputs(run_id, tree)
        self._add_models(run_id, tree)
        took = math.fsum(r.data.metrics.get("duration_s", 0.0) for r in stages.values())
        # the last, so that a run cut short is completed by sync
        ends = {"time": comparison.duration(took), "pdiff.results_sha": files.results_sha(tree)}
        self.log(run_id, tags=ends)
        self._set_status(run_id, "FINISHED", when)

    def _finished(self, run_id: str) -> list[Any]:
        """The finished stages of an experiment."""
        return [run for run in self.runs(parent=run_id) if run.info.status == "FINISHED"]

    def _add_inputs(self, run_id: str, tree: files.Folder) -> None:
        """The image set and the checkpoints that were learned from, by the md5 of their files."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        params, digests = files.read_yaml(tree, "params.yaml"), files.locked_outputs(tree)
        flat, inputs = files.flat_params(params), []
        for path, section, name in (
            (outputs.IMAGES, "data", flat.get("data.name", "images")),
            (outputs.CHECKPOINTS, "finetune", f"checkpoints of {flat.get('base.net', 'a net')}"),
        ):
            if digest := digests.get(str(path)):
                source, facts = json.dumps({"uri": str(path)}), json.dumps(params.get(section, {}))
                data = Dataset(name[:500], digest, "local", source, profile=facts)
                inputs.append(DatasetInput(data, [InputTag("mlflow.data.context", section)]))
        if inputs:
            self.client.log_inputs(run_id, inputs)

    def _add_models(self, run_id: str, tree: files.Folder) -> None:
        """The Pareto front and the best generated models, in place of earlier ones.

        Their metrics are those of the stage that ends the pipeline, not of the experiment.
        """
        from mlflow.entities import LoggedModelOutput, Metric

        self._delete_models(run_id)
        ends = [r for r in self._finished(run_id) if r.info.run_name == files.REPORT_STAGE]
        models = comparison.best_models(tree)
        if models.empty or not ends:
            return
        points, listed, now = [], [], int(time.time() * 1000)
        for step, row in enumerate(models.to_dict("records")):
            facts = {name: str(row[name]) for name in ("group", "model", "on_front")}
            name = files.clean_name(f"{row['group']}_{row['model']}").replace(".", "_")
            made = self.client.create_logged_model(
                self.experiment_id, name, run_id, {EXTERNAL: "true"}, facts, row["group"]
            )
            listed.append(LoggedModelOutput(made.model_id, step))
            points += [
                Metric(measure, row[measure], now, step, model_id=made.model_id)
                for measure in ("accuracy", "max_similarity")
            ]
        self.client.log_batch(ends[0].info.run_id, points)
        self.client.log_outputs(run_id, listed)
        for output in listed:
            self.client.finalize_logged_model(output.model_id, "READY")

    def _delete_models(self, run_id: str) -> None:
        where, most = f"source_run_id = '{run_id}'", 2 * comparison.MOST_MODELS
        own = [self.experiment_id]
        for model in self.client.search_logged_models(own, where, max_results=most):
            self.client.delete_logged_model(model.model_id)

    def set_changes(self, runs: Iterable[Any], reference: Mapping[str, str]) -> None:
        """Say of each experiment how its parameters differ from a reference."""
        for run in runs:
            text = comparison.changed(run.data.params, reference)
            if run.data.tags.get("changed", "") != text:
                self.client.set_tag(run.info.run_id, "changed", text[:5000])

    def add_table(self, name: str, table: Any, paths: Iterable[Path], tags: dict[str, str]) -> None:
        """Log a data frame and its files, in place of the last table of that name."""
        key, now = files.clean_name(name), time.time()
        old = self.runs(key=key, role="table")
        new = self._create(name, now, {**tags, "pdiff.key": key, "pdiff.role": "table"})
        self.client.log_table(new.info.run_id, table, "table.json")
        for path in paths:
            self.client.log_artifact(new.info.run_id, str(path))
        self._set_status(new.info.run_id, "FINISHED", now)
        for found in old:
            self.retire(found)

    def _set_status(self, run_id: str, status: str, when: float) -> None:
        """RUNNING has no end."""
        if status == "RUNNING":
            self.client.update_run(run_id, status)
        else:
            self.client.set_terminated(run_id, status, int(when * 1000))

    def _create(self, name: str, started: float, tags: Mapping[str, str]) -> Any:
        return self.client.create_run(self.experiment_id, int(started * 1000), tags, name)

    def log(
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

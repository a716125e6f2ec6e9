"""Experiments and stages as MLflow runs, written so that everything may be repeated.

`pdiff.tracking` opens the store and hands it the mlflow module; a record (see there) is a dict.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pdiff.tracking.files import (
    COLUMNS,
    Tree,
    clean_name,
    flat_params,
    headline,
    numbers,
    params_sha,
    read_yaml,
    restored_record,
    results_sha,
    write_artifacts,
)


class Store:
    """Writes experiments and stages to MLflow; everything may be repeated without harm."""

    def __init__(self, entities: Any, client: Any, experiment_id: str, records: Path):
        self.entities = entities  # mlflow.entities
        self.client = client
        self.records = records  # folder of the records, where attached files are
        self.experiment_id = experiment_id

    def runs(self, where: str = "", deleted: bool = False) -> list[Any]:
        """The runs that match an MLflow filter, newest first."""
        found, token, view = [], None, 3 if deleted else 1  # ViewType.ALL, ACTIVE_ONLY
        while True:
            page = self.client.search_runs(
                [self.experiment_id], where, view, 1000, ["attributes.start_time DESC"], token
            )
            found += page
            token = page.token
            if not token:
                return found

    def pipelines(self, key: str) -> list[Any]:
        """The runs of experiments of this name, newest first; a shared server may have several."""
        return self.runs(f"tags.`pdiff.key` = '{key}' and tags.`pdiff.role` = 'pipeline'")

    def pipeline(self, key: str) -> Any | None:
        """The newest run of an experiment."""
        return next(iter(self.pipelines(key)), None)

    def stages(self, pipeline_id: str) -> list[Any]:
        """The runs nested in that of an experiment."""
        return self.runs(f"tags.`mlflow.parentRunId` = '{pipeline_id}'")

    def ensure_pipeline(
        self, key: str, params: Mapping[str, Any], started: float, tags: Mapping[str, str]
    ) -> Any:
        """An experiment's run, made if needed; one of ours with other parameters is retired.

        On a server that a team shares, another machine's run of the same name is left alone.
        """
        sha = params_sha(params)
        named = self.pipelines(key)
        found = next((run for run in named if run.data.tags.get("pdiff.params_sha") == sha), None)
        for run in named if found is None else []:
            if run.data.tags.get("pdiff.host") == tags.get("pdiff.host"):
                self.retire(run)
        if found is None:
            names = {"pdiff.key": key, "pdiff.role": "pipeline", "pdiff.params_sha": sha}
            found = self.client.create_run(
                self.experiment_id, int(started * 1000), {**tags, **names}, key
            )
        values = flat_params(params).items()
        missing = {name: text for name, text in values if name not in found.data.params}
        self._log(found.info.run_id, params=missing)
        return found

    def retire(self, pipeline: Any) -> None:
        """Delete (MLflow can restore) an experiment's run and its stages, since it was replaced."""
        for found in [*self.stages(pipeline.info.run_id), pipeline]:
            self.client.set_tag(found.info.run_id, "pdiff.retired", "true")
            self.client.delete_run(found.info.run_id)

    def add_live(self, record: Mapping[str, Any]) -> None:
        """Log the stage that has just ended, and what that means for its experiment."""
        pipeline_id = self.add_record(record)
        for name, value in record["tags"].items():
            if name.startswith("pdiff.pid") or name == "pdiff.host":
                self.client.set_tag(pipeline_id, name, value)
        if record["status"] != "FAILED":
            self.client.update_run(pipeline_id, "RUNNING")

    def add_record(self, record: Mapping[str, Any]) -> str:
        """Log a stage from its record; the id of the experiment's run comes back."""
        pipeline_id = self.ensure_pipeline(
            record["key"], record["all_params"], record["started"], record["tags"]
        ).info.run_id
        folder = self.records / record["key"] / f"{record['stage']}.files"
        self._add_stage(pipeline_id, record["key"], record, folder)
        if record["status"] == "FAILED":
            self.client.set_terminated(pipeline_id, "FAILED", int(record["ended"] * 1000))
        return pipeline_id

    def _add_stage(
        self, pipeline_id: str, key: str, record: Mapping[str, Any], files: Path | None = None
    ) -> None:
        """Add a stage's run, then delete the one it replaces."""
        stage = record["stage"]
        old = [r for r in self.stages(pipeline_id) if r.data.tags.get("pdiff.stage") == stage]
        tags = {"pdiff.key": key, "pdiff.role": "stage", "pdiff.stage": stage, **record["tags"]}
        tags["mlflow.parentRunId"] = pipeline_id
        run_id = self.client.create_run(
            self.experiment_id, int(record["started"] * 1000), tags, stage
        ).info.run_id
        self._log(run_id, _points(record), flat_params(record["params"]), _notes(record))
        for name in record.get("files", []):
            if files is not None and (files / name).exists():
                self.client.log_artifact(run_id, str(files / name))
        if "id" in record:
            self.client.set_tag(run_id, "pdiff.record", record["id"])
        self.client.set_terminated(run_id, record["status"], int(record["ended"] * 1000))
        for found in old:
            self.client.set_tag(found.info.run_id, "pdiff.retired", "true")
            self.client.delete_run(found.info.run_id)

    def publish(
        self, key: str, tree: Tree, tags: Mapping[str, str], when: float | None = None
    ) -> None:
        """Complete an experiment's run from its result files and mark it finished."""
        when = when or time.time()
        found = self.ensure_pipeline(key, read_yaml(tree, "params.yaml"), when, tags)
        pipeline_id, old = found.info.run_id, found.data
        values = {clean_name(name): value for name, value in headline(tree).items()}
        short = {COLUMNS[name]: value for name, value in values.items() if name in COLUMNS}
        values |= {name: float(f"{value:.4g}") for name, value in short.items()}
        points = [
            (name, value, int(time.time() * 1000), 0)
            for name, value in values.items()
            if old.metrics.get(name) != value
        ]
        with tempfile.TemporaryDirectory() as folder:
            tables = write_artifacts(tree, Path(folder))
            self.client.log_artifacts(pipeline_id, folder)
        logged = json.dumps([{"path": name, "type": "table"} for name in tables])
        notes = {"mlflow.loggedArtifacts": logged, "pdiff.results_sha": results_sha(tree)}
        self._log(pipeline_id, points, tags={**tags, **notes})
        if "pdiff.error" in old.tags:
            self.client.delete_tag(pipeline_id, "pdiff.error")
        self._add_restored_stages(pipeline_id, key, tree, when)
        self.client.set_terminated(pipeline_id, "FINISHED", int(when * 1000))

    def add_table(
        self,
        name: str,
        table: Mapping[str, Any],
        files: Iterable[Path],
        tags: Mapping[str, str],
    ) -> None:
        """Log a table of experiments with its files, in place of the last one of that name."""
        key = clean_name(name)
        old = self.runs(f"tags.`pdiff.key` = '{key}' and tags.`pdiff.role` = 'table'")
        logged = json.dumps([{"path": "table.json", "type": "table"}])
        notes = {"pdiff.key": key, "pdiff.role": "table", "mlflow.loggedArtifacts": logged}
        now = int(time.time() * 1000)
        run_id = self.client.create_run(
            self.experiment_id, now, {**tags, **notes}, name
        ).info.run_id
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "table.json").write_text(json.dumps(table))
            for path in files:
                shutil.copyfile(path, Path(folder) / path.name)
            self.client.log_artifacts(run_id, folder)
        self.client.set_terminated(run_id, "FINISHED", now)
        for found in old:
            self.retire(found)

    def _add_restored_stages(self, pipeline_id: str, key: str, tree: Tree, when: float) -> None:
        present = {
            found.data.tags.get("pdiff.stage")
            for found in self.stages(pipeline_id)
            if found.info.status == "FINISHED"
        }
        for stage in read_yaml(tree, "dvc.yaml").get("stages", {}):
            if stage not in present:
                self._add_stage(pipeline_id, key, restored_record(tree, stage, when))

    def _log(
        self,
        run_id: str,
        points: list[tuple[str, float, int, int]] | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log points (name, value, milliseconds, step), parameters and tags in few requests."""
        metrics = [self.entities.Metric(*point) for point in points or []]
        values = [
            self.entities.Param(clean_name(name), value[:6000])
            for name, value in (params or {}).items()
        ]
        notes = [self.entities.RunTag(name, value[:5000]) for name, value in (tags or {}).items()]
        while metrics or values or notes:
            self.client.log_batch(run_id, metrics[:800], values[:100], notes[:100])
            metrics, values, notes = metrics[800:], values[100:], notes[100:]


def _points(record: Mapping[str, Any]) -> list[tuple[str, float, int, int]]:
    """All metrics of a record; a final value stands at the last step of the curve it ends."""
    started, ended = int(record["started"] * 1000), int(record["ended"] * 1000)
    points, last = [], {}
    for name, curve in record["curves"].items():
        points += [(clean_name(name), value, int(ms) or started, step) for step, ms, value in curve]
        last[name] = max((step for step, _, _ in curve), default=0)
    for name, value in {**record["timing"], **numbers(record["summary"])}.items():
        points.append((clean_name(name), value, ended + 1, last.get(name, 0)))
    return points


def _notes(record: Mapping[str, Any]) -> dict[str, str]:
    """What a record says in words: texts of its summary, and why it failed."""
    notes = {f"summary.{n}": v for n, v in record["summary"].items() if isinstance(v, str) and v}
    return {**notes, "pdiff.error": record["error"]} if record.get("error") else notes

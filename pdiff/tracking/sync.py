"""Bring into MLflow whatever is not there: `python -m pdiff.tracking sync | ui | table`.

Missing are experiments that DVC restored from its cache, results that came by `dvc pull` or with
`refs/exps`, and everything that ran while MLflow was down. Sync may be repeated at any time.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pdiff import tracking
from pdiff.tracking import ui as comparison
from pdiff.tracking.files import (
    REPORT_STAGE,
    RESULT_FOLDERS,
    Folder,
    Tree,
    canonical,
    clean_name,
    git,
    is_result,
    md5_of,
    params_sha,
    read_yaml,
    results_sha,
)
from pdiff.tracking.process import git_commit, is_gone

EXPERIMENT_REF = "refs/exps/[0-9a-f][0-9a-f]/*/*"  # others are DVC's own: stash, queue, failed
LARGE = 10 * 2**20


class Commit:
    """The files of a commit."""

    def __init__(self, folder: Path, revision: str):
        self.folder = folder
        self.revision = revision

    def results(self) -> dict[str, str]:
        """Git's blob ids of metrics, plots and report files, by path."""
        listing = git("ls-tree", "-rz", self.revision, "--", *RESULT_FOLDERS, folder=self.folder)
        found = {}
        for line in (listing or b"").decode().split("\0"):
            description, _, path = line.partition("\t")
            if is_result(Path(path)):
                found[path] = description.split()[2]
        return found

    def read(self, path: str) -> bytes | None:
        """The content of any file, None if there is none."""
        listed = git("cat-file", "-t", f"{self.revision}:./{path}", folder=self.folder)
        if listed != b"blob\n":
            return None
        return git("show", f"{self.revision}:./{path}", folder=self.folder)

    def paths(self, folder: str) -> list[str]:
        """Every file below a folder, in order; [] if there is none."""
        command = ("ls-tree", "-rz", "--name-only", self.revision, "--", f"{folder}/")
        listing = git(*command, folder=self.folder) or b""
        return sorted(filter(None, listing.decode().split("\0")))


@dataclass
class Source:
    """Results that an experiment's run can be completed from."""

    key: str
    tree: Tree
    when: float
    tags: dict[str, str] = field(default_factory=dict)
    verified: bool = False
    """Put together by the report stage, and no stage has run since: complete and up to date."""

    def __post_init__(self) -> None:
        self.marks = {
            "pdiff.params_sha": params_sha(read_yaml(self.tree, "params.yaml")),
            "pdiff.results_sha": results_sha(self.tree),
        }

    def is_complete(self) -> bool:
        """Whether the results belong to the parameters beside them."""
        return self.verified or is_up_to_date(self.tree)


@dataclass
class Counts:
    """The experiments that a sync changed, by key."""

    added: set[str] = field(default_factory=set)
    updated: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        updated = len(self.updated - self.added)
        return f"{len(self.added)} added, {updated} updated, {len(self.failed)} marked as failed"


# Is what lies there what its parameters and code give?


def is_up_to_date(tree: Tree) -> bool:
    """Whether dvc.lock says that the results come from these parameters, inputs and modules.

    Large and missing files count as unchanged: a fresh clone has the results and no data.
    """
    declared = read_yaml(tree, "dvc.yaml").get("stages", {})
    locked = read_yaml(tree, "dvc.lock").get("stages", {})
    single = {name for name, stage in declared.items() if not {"matrix", "foreach"} & stage.keys()}
    stages = [stage for name, stage in locked.items() if name.split("@")[0] in declared]
    outs = {out["path"]: out for stage in stages for out in stage.get("outs", [])}
    params = canonical(read_yaml(tree, "params.yaml"))
    return (
        f"metrics/{REPORT_STAGE}.json" in outs
        and single <= locked.keys()
        and all(_params_agree(stage, params) for stage in stages)
        and all(_input_agrees(dep, outs, tree) for stage in stages for dep in stage.get("deps", []))
        and all(_result_agrees(out, tree) for out in outs.values())
    )


def _params_agree(stage: Mapping[str, Any], params: Mapping[str, Any]) -> bool:
    wanted = stage.get("params", {}).get("params.yaml") or {}
    return all(_look_up(params, name) == canonical(value) for name, value in wanted.items())


def _look_up(params: Any, name: str) -> Any:
    for part in name.split("."):
        params = params.get(part) if isinstance(params, Mapping) else None
    return params


def _input_agrees(dep: Mapping[str, Any], outs: Mapping[str, Any], tree: Tree) -> bool:
    if dep["path"] in outs:
        return dep.get("md5") == outs[dep["path"]].get("md5")
    return _has_md5(tree, dep) is not False


def _result_agrees(out: Mapping[str, Any], tree: Tree) -> bool:
    if not is_result(Path(out["path"])):
        return True
    return _has_md5(tree, out) is True


def _has_md5(tree: Tree, entry: Mapping[str, Any]) -> bool | None:
    """Whether a file or folder is as dvc.lock has it; None for a large or missing one."""
    if entry.get("hash") != "md5" or entry["size"] > LARGE:
        return None
    found = md5_of(tree, entry["path"])
    return None if found is None else found == entry["md5"]


# Where results can come from


def experiments(folder: Path) -> list[Source]:
    """DVC's experiments, newest first."""
    form = "%(refname) %(objectname) %(committerdate:unix)"
    listing = git(
        "for-each-ref", f"--format={form}", "--sort=-committerdate", EXPERIMENT_REF, folder=folder
    )
    found = []
    for line in (listing or b"").decode().splitlines():
        ref, revision, when = line.split(" ")
        _, _, start, rest, name = ref.split("/", 4)
        tags = {
            "dvc.exp_name": name,
            "dvc.exp_rev": revision,
            "dvc.baseline_rev": start + rest,
            "mlflow.source.git.commit": start + rest,
        }
        found.append(Source(clean_name(name), Commit(folder, revision), float(when), tags))
    return found


def workspace(folder: Path) -> list[Source]:
    """What lies in the working directory."""
    lock, params = folder / "dvc.lock", read_yaml(Folder(folder), "params.yaml")
    if not lock.exists() or not params:
        return []
    tags = {"mlflow.source.git.commit": git_commit(folder)}
    key = f"repro-{params_sha(params)[:8]}"
    return [Source(key, Folder(folder), lock.stat().st_mtime, tags)]


def saved_results() -> list[Source]:
    """What report stages put aside, perhaps because MLflow was down."""
    found = []
    for path in sorted(tracking.runs_folder().glob("*/results")):
        record = path.parent / f"{REPORT_STAGE}.json"
        when = (record if record.exists() else path).stat().st_mtime
        found.append(Source(path.parent.name, Folder(path), when, verified=True))
    return found


def records() -> list[dict[str, Any]]:
    """What stages recorded, oldest first."""
    found = [json.loads(path.read_text()) for path in tracking.runs_folder().glob("*/*.json")]
    return sorted((r for r in found if r["tracked"]), key=lambda record: record["started"])


# Sync


def sync() -> Counts:
    """Bring in what is missing; runs that someone deleted in MLflow stay deleted."""
    counts = Counts()
    with tracking.open_store() as store:
        known = store.runs(deleted=True)
    _sync_records(known, counts)
    with tracking.open_store() as store:
        known = store.runs(deleted=True)
    _sync_results(known, counts)
    _fail_abandoned(counts)
    return counts


def _sync_records(known: Iterable[Any], counts: Counts) -> None:
    present = {run.data.tags.get("pdiff.record") for run in known}
    for record in records():
        if record["id"] in present:
            continue
        with tracking.open_store() as store:
            if store.runs(f"tags.`pdiff.record` = '{record['id']}'", deleted=True):
                continue  # its stage was faster
            new = store.pipeline(record["key"]) is None
            store.add_record(record)
            (counts.added if new else counts.updated).add(record["key"])


def _sync_results(known: list[Any], counts: Counts) -> None:
    pipelines = [run for run in known if run.data.tags.get("pdiff.role") == "pipeline"]
    folder = tracking.root()
    found = experiments(folder)
    here = [s for s in workspace(folder) if not _stands_elsewhere(s, pipelines, found)]
    done: set[str] = set()
    for source in [*found, *here, *saved_results()]:
        if source.key not in done and _sync_source(source, pipelines, counts):
            done.add(source.key)


def _stands_elsewhere(
    source: Source, pipelines: Iterable[Any], experiments: Iterable[Source]
) -> bool:
    """Whether the workspace only holds what an experiment, by its own name, has left there."""
    others = [s.marks for s in experiments]
    others += [
        run.data.tags
        for run in pipelines
        if run.info.lifecycle_stage == "active" and run.data.tags["pdiff.key"] != source.key
    ]
    return any(source.marks.items() <= tags.items() for tags in others)


def _sync_source(source: Source, pipelines: Iterable[Any], counts: Counts) -> bool:
    """Complete one experiment's run if needed; False if it cannot be done from this source."""
    if any(_holds(run, source) for run in pipelines):
        return True
    if not source.is_complete():
        return False
    with tracking.open_store() as store:
        current = store.pipeline(source.key)
        if current is not None and _is_running(current) and not source.verified:
            return False
        store.publish(source.key, source.tree, source.tags, source.when)
    (counts.added if current is None else counts.updated).add(source.key)
    return True


def _holds(run: Any, source: Source) -> bool:
    """Whether a run has these results already, or had them and was deleted by someone."""
    tags = run.data.tags
    if not {**source.marks, "pdiff.key": source.key}.items() <= tags.items():
        return False
    if run.info.lifecycle_stage == "deleted":
        return "pdiff.retired" not in tags
    return run.info.status == "FINISHED" and source.tags.items() <= tags.items()


def _is_running(run: Any) -> bool:
    return run.info.status == "RUNNING" and not is_gone(run.data.tags)


def _fail_abandoned(counts: Counts) -> None:
    """Mark as failed what says it is running although its process has ended."""
    with tracking.open_store() as store:
        for run in store.runs("tags.`pdiff.role` = 'pipeline'"):
            if run.info.status == "RUNNING" and is_gone(run.data.tags):
                why = "its process ended before the report stage did"
                store.client.set_tag(run.info.run_id, "pdiff.error", why)
                store.client.set_terminated(run.info.run_id, "FAILED", int(time.time() * 1000))
                counts.failed.add(run.data.tags["pdiff.key"])


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pdiff.tracking", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sync", help="log what MLflow does not have yet")
    commands.add_parser("table", help="compare the experiments here, as Markdown")
    ui = commands.add_parser("ui", help="sync, then compare the experiments in the browser")
    ui.add_argument("--port", type=int, default=5000)
    ui.add_argument("--no-browser", action="store_true")
    options = parser.parse_args(arguments)
    try:
        return _run_command(options)
    except (tracking.TrackingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run_command(options: argparse.Namespace) -> int:
    if options.command == "table":
        with tracking.open_store() as store:
            print(comparison.table(store))
        return 0
    if options.command == "ui" and not tracking.tracking_uri().startswith("http"):
        comparison.check_port(options.port)
    print(f"sync: {sync()}", flush=True)
    if options.command == "ui":
        return comparison.show(options.port, browser=not options.no_browser)
    return 0

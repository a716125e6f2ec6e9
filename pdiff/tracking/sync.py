"""Bring into MLflow whatever is not there: `python -m pdiff.tracking sync | ui | table`.

Missing are experiments that DVC restored from its cache, results that came by `dvc pull` or with
`refs/exps`, and everything that ran while MLflow was down. Sync may be repeated at any time.
"""

import argparse
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pdiff import tracking
from pdiff.system.paths import root
from pdiff.tracking import files
from pdiff.tracking import ui as comparison
from pdiff.tracking.process import git_commit, is_gone
from pdiff.tracking.store import Store, TrackingError, open_store, tracking_uri

EXPERIMENT_REF = "refs/exps/[0-9a-f][0-9a-f]/*/*"  # others are DVC's own: stash, queue, failed


class Commit:
    """A `files.Tree` of the files of a commit."""

    def __init__(self, folder: Path, revision: str):
        self.folder = folder
        self.revision = revision

    def results(self) -> dict[str, str]:
        listing = files.git(
            "ls-tree", "-rz", self.revision, "--", *files.RESULT_FOLDERS, folder=self.folder
        )
        found = {}
        for line in (listing or b"").decode().split("\0"):
            description, _, path = line.partition("\t")
            if files.is_result(path):
                found[path] = description.split()[2]
        return found

    def read(self, path: str) -> bytes | None:
        return files.git("cat-file", "blob", f"{self.revision}:./{path}", folder=self.folder)

    def paths(self, folder: str) -> list[str]:
        command = ("ls-tree", "-rz", "--name-only", self.revision, "--", f"{folder}/")
        listing = files.git(*command, folder=self.folder) or b""
        return sorted(filter(None, listing.decode().split("\0")))


@dataclass
class Source:
    """Results that an experiment's run can be completed from."""

    key: str
    tree: files.Tree
    when: float
    tags: dict[str, str] = field(default_factory=dict)
    verified: bool = False
    """Put together by the report stage, and no stage has run since: complete and up to date."""

    def __post_init__(self) -> None:
        self.marks = {
            "pdiff.params_sha": files.params_sha(files.read_yaml(self.tree, "params.yaml")),
            "pdiff.results_sha": files.results_sha(self.tree),
        }

    @property
    def is_workspace(self) -> bool:
        return isinstance(self.tree, files.Folder) and not self.verified

    def wanted(self) -> dict[str, str]:
        """The tags of a run that holds these results; the workspace's may be any experiment's."""
        return (
            self.marks if self.is_workspace else {**self.marks, **self.tags, "pdiff.key": self.key}
        )

    def is_complete(self) -> bool:
        """Whether the results belong to the parameters beside them."""
        return self.verified or lock_agrees(self.tree)


def lock_agrees(tree: files.Tree) -> bool:
    """Whether dvc.lock says that the results come from these parameters and from each other.

    DVC also keeps experiments of which it was told to run some stages only.
    """
    locked = files.read_yaml(tree, "dvc.lock").get("stages", {})
    outs = {out["path"]: out["md5"] for stage in locked.values() for out in stage.get("outs", [])}
    deps = [dep for stage in locked.values() for dep in stage.get("deps", [])]
    used = [stage.get("params", {}).get("params.yaml") or {} for stage in locked.values()]
    here = files.flatten(files.canonical(files.read_yaml(tree, "params.yaml")))
    return (
        files.REPORT_STAGE in locked
        and all(files.flatten(files.canonical(part)).items() <= here.items() for part in used)
        and all(dep["md5"] == outs[dep["path"]] for dep in deps if dep["path"] in outs)
        and all(files.md5_of(tree, p) == md5 for p, md5 in outs.items() if files.is_result(p))
    )


def has_nothing_to_run(folder: Path) -> bool:
    """Whether DVC says so; files that are not here count as unchanged, as in a fresh clone."""
    command = [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode == 0 and "Running stage" not in done.stdout


def experiments(folder: Path) -> list[Source]:
    """DVC's experiments, newest first."""
    form = "%(refname) %(objectname) %(committerdate:unix)"
    listing = files.git(
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
        found.append(Source(files.clean_name(name), Commit(folder, revision), float(when), tags))
    return found


def workspace(folder: Path) -> list[Source]:
    """What lies in the working directory."""
    lock, params = folder / "dvc.lock", files.read_yaml(files.Folder(folder), "params.yaml")
    if not lock.exists() or not params:
        return []
    tags = {"mlflow.source.git.commit": git_commit(folder)}
    key = f"repro-{files.params_sha(params)[:8]}"
    return [Source(key, files.Folder(folder), lock.stat().st_mtime, tags)]


def saved_results() -> list[Source]:
    """What report stages put aside, perhaps because MLflow was down."""
    found = []
    for path in sorted(tracking.runs_folder().glob("*/results")):
        record = path.parent / f"{files.REPORT_STAGE}.json"
        when = (record if record.exists() else path).stat().st_mtime
        found.append(Source(path.parent.name, files.Folder(path), when, verified=True))
    return found


def sync() -> str:
    """Bring in what is missing, and say how much; what someone deleted in MLflow stays deleted."""
    with open_store() as store:
        new = store.add_records(tracking.records())
        changed = {key: "added" if is_new else "updated" for key, is_new in new.items()}
        runs = store.runs(deleted=True, role="pipeline")
        settled = [run.data.tags for run in runs if _is_settled(run)]
        done: set[str] = set()
        for source in [*experiments(root()), *saved_results(), *workspace(root())]:
            wanted = source.wanted()
            known = any(wanted.items() <= tags.items() for tags in settled)
            if source.key in done or not (known or _may_publish(store, source)):
                continue
            if not known:
                is_new = store.pipeline(source.key) is None
                store.publish(source.key, source.tree, source.tags, source.when)
                changed.setdefault(source.key, "added" if is_new else "updated")
            settled.append(wanted)
            done.add(source.key)
        for run in store.runs(role="pipeline"):
            if run.info.status == "RUNNING" and is_gone(run.data.tags):
                why = "its process ended before the report stage did"
                store.client.set_tag(run.info.run_id, "pdiff.error", why)
                store.client.set_terminated(run.info.run_id, "FAILED", int(time.time() * 1000))
                changed[run.data.tags["pdiff.key"]] = "marked as failed"
    count = Counter(changed.values())
    return ", ".join(f"{count[word]} {word}" for word in ("added", "updated", "marked as failed"))


def _is_settled(run: Any) -> bool:
    """Whether a run is complete, or was deleted by someone."""
    if run.info.lifecycle_stage == "deleted":
        return "pdiff.retired" not in run.data.tags
    return run.info.status == "FINISHED"


def _may_publish(store: Store, source: Source) -> bool:
    """Whether results are complete and nobody is making new ones."""
    if source.verified:
        return True
    run = store.pipeline(source.key)
    if run is not None and run.info.status == "RUNNING" and not is_gone(run.data.tags):
        return False
    return source.is_complete() and (not source.is_workspace or has_nothing_to_run(root()))


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pdiff.tracking", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sync", help="log what MLflow does not have yet")
    commands.add_parser("table", help="compare the experiments here, as Markdown")
    ui = commands.add_parser("ui", help="sync, then serve the comparison of the experiments")
    ui.add_argument("--port", type=int, default=5000)
    options = parser.parse_args(arguments)
    try:
        if options.command == "table":
            with open_store() as store:
                print(comparison.table(store))
            return 0
        if options.command == "ui" and not tracking_uri().startswith("http"):
            comparison.check_port(options.port)
        print(f"sync: {sync()}", flush=True)
        return comparison.serve(options.port) if options.command == "ui" else 0
    except (TrackingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1

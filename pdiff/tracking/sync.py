"""Bring into MLflow whatever is not there.

Missing are experiments that DVC restored from its cache, results that came by `dvc pull` or with
`refs/exps`, and everything that ran while MLflow was down. Sync may be repeated at any time.
"""

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pdiff import tracking
from pdiff.system.paths import root
from pdiff.tracking import files
from pdiff.tracking.made_by import forged
from pdiff.tracking.process import git_commit
from pdiff.tracking.store import open_store

EXPERIMENT_REF = "refs/exps/[0-9a-f][0-9a-f]/*/*"  # others are DVC's own: stash, queue, failed


@dataclass
class Source:
    """Results that an experiment's run can be completed from."""

    key: str
    tree: files.Folder
    when: float
    tags: dict[str, str] = field(default_factory=dict)
    verified: bool = False
    """Put together by the report stage, and no stage has run since: complete and up to date."""
    fallback: bool = False
    """Perhaps another machine's: taken only where this one neither finished nor failed."""

    def __post_init__(self) -> None:
        self.is_workspace = not (self.tree.revision or self.verified)
        self.marks = {
            "pdiff.params_sha": files.params_sha(files.read_yaml(self.tree, "params.yaml")),
            "pdiff.results_sha": files.results_sha(self.tree),
        }

    def is_complete(self, *, pictures: bool = True) -> bool:
        """Whether dvc.lock says that the results come from these parameters and from each other.

        DVC also keeps experiments of which it was told to run some stages only, and `dvc commit`
        records what no stage has made. Without `pictures`, these may be other ones or none.
        """
        tree, lock = self.tree, files.read_yaml(self.tree, "dvc.lock")
        locked = lock.get("stages", {})
        outs = files.locked_outputs(tree)
        deps = [(d["path"], d.get("md5")) for s in locked.values() for d in s.get("deps", [])]
        used = [stage.get("params", {}).get("params.yaml") or {} for stage in locked.values()]
        here = files.flatten(files.canonical(files.read_yaml(tree, "params.yaml"))).items()
        return self.verified or (
            files.REPORT_STAGE in locked
            and not forged(lock)
            and all(files.flatten(files.canonical(part)).items() <= here for part in used)
            and all(outs.get(path, md5) == md5 for path, md5 in deps)
            and all(
                files.md5_of(tree, p) == outs[p]
                for p in outs
                if files.RESULT.fullmatch(p) and (pictures or not p.endswith(".png"))
            )
        )


def experiments(folder: Path) -> list[Source]:
    """DVC's experiments, newest first."""
    form = "--format=%(refname) %(objectname) %(committerdate:unix)"
    command = ("for-each-ref", form, "--sort=-committerdate", EXPERIMENT_REF)
    found = []
    for line in (files.git(*command, folder=folder) or b"").decode().splitlines():
        ref, revision, when = line.split(" ")
        _, _, start, rest, name = ref.split("/", 4)
        tags = dict.fromkeys(("dvc.baseline_rev", "mlflow.source.git.commit"), start + rest)
        tags |= {"dvc.exp_name": name, "dvc.exp_rev": revision}
        tree = files.Folder(folder, revision)
        found.append(Source(files.clean_name(name), tree, float(when), tags))
    return found


def workspace(folder: Path) -> list[Source]:
    """What lies in the working directory."""
    lock, tree = folder / "dvc.lock", files.Folder(folder)
    params = files.read_yaml(tree, "params.yaml")
    if not lock.exists() or not params:
        return []
    tags = {"mlflow.source.git.commit": git_commit(folder)}
    return [Source(files.key_of(params), tree, lock.stat().st_mtime, tags)]


def head(folder: Path) -> list[Source]:
    """The results of the last commit, which DVC takes for its own in a fresh clone."""
    tree, commit = files.Folder(folder, "HEAD"), git_commit(folder)
    params = files.read_yaml(tree, "params.yaml")
    if not (params and tree.results()):
        return []
    when = files.git("log", "-1", "--format=%ct", folder=folder) or b"0"
    tags = {"mlflow.source.git.commit": commit, "dvc.baseline_rev": commit}
    return [Source(files.key_of(params), tree, float(when), tags, fallback=True)]


def sync() -> str:
    """Bring in what is missing and say how much; what someone deleted in MLflow stays deleted."""
    with open_store() as store:
        changed = store.add_records(tracking.records())
        runs = store.runs(deleted=True, role="pipeline")
        live = [run for run in runs if run.info.lifecycle_stage == "active"]
        here = {run.data.tags["pdiff.key"] for run in live}
        settled = [
            run.data.tags
            for run in runs
            if (run.info.status == "FINISHED" or run not in live)
            and "pdiff.retired" not in run.data.tags
        ]
        saved = [  # by last stages, perhaps because MLflow was down
            Source(path.parent.name, files.Folder(path), path.stat().st_mtime, verified=True)
            for path in sorted(tracking.runs_folder().glob("*/results"))
        ]
        done: set[str] = set()
        failed = [r.data.tags for r in live if r.info.status in ("FAILED", "KILLED")]
        for source in [*experiments(root()), *saved, *workspace(root()), *head(root())]:
            # the workspace's results may be any experiment's
            own = {} if source.is_workspace else {**source.tags, "pdiff.key": source.key}
            wanted = source.marks | own
            known = any(wanted.items() <= tags.items() for tags in settled)
            taken = {tags.get("pdiff.params_sha") for tags in [*settled, *failed]}
            if source.fallback and source.marks["pdiff.params_sha"] in taken:
                continue
            if source.key in done or not (known or _may_publish(source)):
                continue
            if not known:
                store.publish(source.key, source.tree, source.tags, source.when)
                changed.setdefault(source.key, "updated" if source.key in here else "added")
            settled.append(wanted)
            done.add(source.key)
        store.set_changes(store.runs(role="pipeline"), reference())
    tracking.silent_server().unlink(missing_ok=True)  # it answers
    count = Counter(changed.values())
    return ", ".join(f"{count[word]} {word}" for word in ("added", "updated") if count[word])


def reference() -> dict[str, str]:
    """The flat parameters of the last commit, from which experiments differ."""
    return files.flat_params(files.read_yaml(files.Folder(root(), "HEAD"), "params.yaml"))


def _may_publish(source: Source) -> bool:
    """Whether results are complete and, in the workspace, DVC would run no stage."""
    complete = source.is_complete()
    if not (complete and source.is_workspace):
        return complete
    # files that are not here count as unchanged, as in a fresh clone
    command = [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing"]
    done = subprocess.run(command, cwd=root(), capture_output=True, text=True, check=False)
    return done.returncode == 0 and "Running stage" not in done.stdout

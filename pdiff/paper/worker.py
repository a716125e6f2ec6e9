"""One experiment on the machine that this is: `python -m pdiff.paper.worker JOB`.

JOB is what `pdiff.paper.launch` wrote, `.work/launch/NAME.json`. The experiment runs in a clone
beside it with the project's cache of DVC, and comes home as a ref of the project's Git.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from pdiff.tracking.files import git


def main(path: Path) -> None:
    job, clone = json.loads(path.read_text()), path.with_suffix("")
    with FileLock(path.with_suffix(".lock")):  # an engine may start it twice
        if is_home(Path(job["root"]), job["ref"]):
            return
        shutil.rmtree(clone, ignore_errors=True)  # of one that was killed
        try:
            run(job, clone)
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)  # the command has said why
        finally:
            shutil.rmtree(clone, ignore_errors=True)


def is_home(root: Path, ref: str) -> bool:
    """Whether the project has the experiment."""
    return git("rev-parse", "--verify", "--quiet", ref, folder=root) is not None


def run(job: Mapping[str, Any], clone: Path) -> None:
    """Run the stages and push the experiment; `CalledProcessError` where a command fails.

    Stages that other experiments of the list have too come first, each under a lock: one experiment
    runs it, the others find it in DVC's run cache, with the same bytes even on GPUs.
    """
    root, ref, dvc = job["root"], job["ref"], (sys.executable, "-m", "dvc")
    settings: dict[str, Any] = {"env": environment(job, clone), "check": True}
    command = ("git", "clone", "--quiet", "--shared", "--no-checkout", root, str(clone))
    subprocess.run(command, **settings)
    settings["cwd"] = clone
    subprocess.run(("git", "checkout", "--quiet", "--detach", job["commit"]), **settings)
    own, local = Path(root, ".dvc/config.local"), clone / ".dvc/config.local"
    if own.exists():  # remotes, say
        shutil.copy(own, local)
    subprocess.run(("git", "config", "-f", local, "cache.dir", job["cache"]), **settings)
    (clone / "params.yaml").write_text(job["params"])
    for stage, key in job["shared"]:
        with FileLock(clone.with_name(f"{stage}-{key}.lock")):
            subprocess.run((*dvc, "repro", stage), **settings)
    subprocess.run((*dvc, "repro"), **settings)  # `dvc exp run` gives stages another DVC_ROOT
    subprocess.run(("git", "add", "--all"), **settings)  # new metrics, which `save` leaves out
    subprocess.run((*dvc, "exp", "save", "--force", "--name", job["name"]), **settings)
    subprocess.run(("git", "push", "--quiet", "--force", root, f"{ref}:{ref}"), **settings)


def environment(job: Mapping[str, Any], clone: Path) -> dict[str, str]:
    """This machine's, with what the user had set, and the project's folder for DVC's stages.

    The project's SQLite store is no place for several machines: sync fills it from the records.
    """
    own = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}  # Ray's, not the user's
    own |= job["environment"]
    if not own.get("MLFLOW_TRACKING_URI", "").startswith("http"):
        own.setdefault("PDIFF_TRACKING", "later")
    own |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    own |= {"DVC_ROOT": job["root"], "DVC_SITE_CACHE_DIR": str(clone / ".dvc/tmp/site")}
    return own | {"DVC_EXP_NAME": job["name"], "DVC_EXP_BASELINE_REV": job["commit"]}


if __name__ == "__main__":
    main(Path(sys.argv[1]))

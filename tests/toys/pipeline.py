"""All stages in a row, in this process."""

import hashlib
import importlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pdiff.audit import report
from pdiff.audit.analysis import analyses
from stages import stage

ROOT = Path(__file__).resolve().parents[2]
STAGES = tuple(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
"""In the order of the pipeline."""


def run_stages(folder: Path, raw: dict, names: Iterable[str] = STAGES) -> None:
    """Run stages with `folder` as working directory and project."""
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    before = Path.cwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        try:
            for name in names:
                stage(importlib.import_module(f"stages.{name}").main)
        finally:
            os.chdir(before)


@contextmanager
def without_figures() -> Iterator[None]:
    """No analysis draws a figure: for runs of which nobody looks at them."""
    shown = [replace(each, figures={}) for each in analyses()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "analyses", lambda: shown)
        yield


def go_on(start: Path, folder: Path, raw: dict, *names: str) -> Path:
    """`folder` becomes a copy of a run in which these stages ran again with other parameters."""
    shutil.copytree(start, folder)
    run_stages(folder, raw, names)
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """A digest of every file but the records and states of stages."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".work" not in path.parts
    }

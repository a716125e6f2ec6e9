"""What the tests of exports share."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(finished, tmp_path, monkeypatch) -> Path:
    """A copy of a finished pipeline, as working directory."""
    copy = tmp_path / "project"
    shutil.copytree(finished, copy)
    monkeypatch.chdir(copy)
    return copy

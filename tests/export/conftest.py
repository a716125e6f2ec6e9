"""What the tests of exports share."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.toys.exports import OWN, toy_project


@pytest.fixture
def folder(finished, tmp_path, monkeypatch) -> Path:
    """A copy of a finished pipeline, as working directory."""
    copy = tmp_path / "project"
    shutil.copytree(finished, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def toy(tiny_raw, tmp_path, monkeypatch) -> Callable[..., torch.Tensor]:
    """`toy_project` in a folder of its own, the working directory, which has `my_net.py` too."""
    monkeypatch.chdir(tmp_path)
    Path("my_net.py").write_text(OWN)
    return partial(toy_project, tiny_raw)

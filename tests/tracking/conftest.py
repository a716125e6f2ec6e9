"""Projects with a real store of their own."""

import os
import shutil

import pytest

from pdiff import tracking
from pdiff.tracking import store
from pdiff.tracking.store import SETTINGS


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A database with MLflow's tables: making them takes seconds."""
    os.environ.update(SETTINGS)
    import mlflow

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def bare_project(tmp_path, monkeypatch):
    """A project's folder without any store, as root and working directory."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "PDIFF_TRACKING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(tracking, "PATIENCE_S", 0.0)  # every stage tells MLflow
    monkeypatch.setattr(store, "ANSWER_S", 0.3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def project(bare_project, empty_store):
    shutil.copy(empty_store, bare_project / "mlflow.db")
    return bare_project

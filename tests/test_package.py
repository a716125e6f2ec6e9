"""The wheel, outside of the checkout; and the notebook, which uses it as a reader would."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples/your_checkpoints.ipynb"
SETTINGS = """[pytest]
addopts = --jaxtyping-packages=pdiff,beartype.beartype --strict-markers
markers =
    slow
pythonpath = .
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder outside of the checkout, with an environment in which the wheel is installed.

    Its other packages are those of this environment, which are gigabytes.
    """
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *options, "--wheel-dir", folder, ROOT], check=True)
    venv.create(folder / "env")
    (wheel,) = folder.glob("*.whl")
    place = next((folder / "env").glob("lib/python*/site-packages"))
    packages = (path for path in sys.path if path.endswith("site-packages"))
    (place / "others.pth").write_text("\n".join(packages))
    python = ["--python", folder / "env/bin/python"]
    subprocess.run([*pip, *python, "install", "--no-deps", "--no-index", wheel], check=True)
    return folder


def run(folder: Path, *words: str) -> str:
    """The output of a program of the environment, which finds nothing of this checkout."""
    surroundings = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DVC_ROOT")}
    command = [str(folder / "env/bin" / words[0]), *words[1:]]
    done = subprocess.run(
        command, cwd=folder, env=surroundings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_the_presets_and_templates(installed):
    code = "from importlib.resources import files\nfrom pdiff.config import library_params\n"
    code += "library_params({})\n"
    code += "print(*(p.name for p in files('pdiff').rglob('*') if p.suffix != '.py'))"
    wanted = {path.name for path in (ROOT / "pdiff").rglob("*") if path.is_file()}
    held = run(installed, "python", "-c", code).split()
    assert {name for name in wanted if not name.endswith((".py", ".pyc"))} <= {*held}


@pytest.mark.slow
def test_the_installed_package_is_imported_from_the_wheel_in_three_seconds(installed):
    code = "import pdiff, resource, sys\nassert 'torch' not in sys.modules\n"
    code += "used = resource.getrusage(resource.RUSAGE_SELF)\n"
    code += "print(pdiff.__file__, used.ru_utime + used.ru_stime)"
    place, seconds = run(installed, "python", "-c", code).split()
    assert Path(place).is_relative_to(installed) and float(seconds) < 3


@pytest.mark.slow
def test_the_installed_command_shows_its_help(installed):
    assert "verdict" in run(installed, "pdiff", "--help")


@pytest.mark.slow
def test_the_librarys_tests_pass_with_the_wheel(installed):
    (installed / "tests").mkdir()
    for name in ("conftest.py", "test_api.py"):
        shutil.copy(ROOT / "tests" / name, installed / "tests")
    shutil.copy(ROOT / "params.yaml", installed)
    (installed / "pytest.ini").write_text(SETTINGS)
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", "-k", "not pipeline")
    assert " passed" in run(installed, "python", *words)


@pytest.mark.slow
def test_the_notebook_runs_and_its_committed_outputs_are_small(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, 4)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert sum(cell.source.count('"steps": 400') for cell in notebook.cells) == 2
    assert NOTEBOOK.stat().st_size < 200_000
    for cell in notebook.cells:  # a tenth of the steps: what they reach is in the committed outputs
        cell.source = cell.source.replace('"steps": 400', '"steps": 40')
    NotebookClient(notebook, timeout=1800).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]

"""The command `pdiff`: which program runs with which arguments, and what is imported for it."""

import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest

import pdiff.export.__main__
import pdiff.paper.cli
import pdiff.tracking.__main__
from pdiff import outputs
from pdiff.cli import PROGRAMS, main
from tests.conftest import ROOT

BOUND = {
    "table": (pdiff.paper.cli, ["3c", "--dry-run"]),
    "verdict": (pdiff.paper.cli, ["verdict", "3c", "--dry-run"]),
    "export": (pdiff.export.__main__, ["3c", "--dry-run"]),
    "compare": (pdiff.tracking.__main__, ["compare", "3c", "--dry-run"]),
    "ui": (pdiff.tracking.__main__, ["ui", "3c", "--dry-run"]),
    "sync": (pdiff.tracking.__main__, ["sync", "3c", "--dry-run"]),
}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An empty project."""
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("command", BOUND)
def test_a_command_hands_its_arguments_to_its_program_and_its_exit_code_back(command, monkeypatch):
    module, expected = BOUND[command]
    monkeypatch.setattr(module, "main", lambda arguments: 3 if arguments == expected else 0)
    assert main([command, "3c", "--dry-run"]) == 3


def test_the_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in PROGRAMS) and set(PROGRAMS) - set(BOUND) == {
        "report"
    }


def test_an_unknown_command_is_refused_with_those_that_exist(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["tabel"])
    assert caught.value.code == 2
    assert "invalid choice: 'tabel' (choose from" in capsys.readouterr().err


@pytest.mark.parametrize("command", PROGRAMS)
def test_outside_of_a_checkout_nothing_runs_and_nothing_is_written(
    command, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert main([command]) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path} is no checkout of p-diff: run this in one\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_missing_is_named_with_its_extra(project, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pdiff.export.__main__", None)
    assert main(["export", "best"]) == 1
    assert capsys.readouterr().err.endswith("the extra `pipeline` of p-diff brings it\n")


def test_the_report_is_opened_and_its_path_printed(project, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    path = project / outputs.AUDIT / "report.html"
    assert main(["report"]) == 1
    assert capsys.readouterr().err == f"error: {path} is missing: `dvc repro` makes it\n"
    path.parent.mkdir(parents=True)
    path.touch()
    assert main(["report"]) == 0
    assert capsys.readouterr().out == f"{path}\n" and opened == [path.as_uri()]


def test_the_command_line_and_the_package_start_without_what_they_do_not_use():
    heavy = ("torch", "pandas", "matplotlib", "mlflow", "hydra", "timm", "pdiff.api.model")
    code = f"import sys, pdiff, pdiff.cli\nprint(*sys.modules.keys() & {set(heavy)})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""

"""A stage's own record of what made its outputs, against dvc.lock."""

from pathlib import Path

import pytest
import yaml

from pdiff.tracking import made_by
from pdiff.tracking.files import Folder, cache_folder, md5_of
from tests.conftest import change

STAGE = {
    "deps": ["code", "${data.watch}"],
    "params": ["noise", "seed.base"],
    "outs": ["out.txt", made_by.FILE.format("make")],
    "metrics": [{"metrics/make.json": {"cache": False}}],
}


@pytest.fixture
def project(raw, tmp_path, monkeypatch) -> dict:
    """A folder in which stage `make` ran; the parameters that it ran with."""
    monkeypatch.chdir(tmp_path)
    params = change(raw, data__watch=str(tmp_path / "images"))
    for path in ("code/a.py", "code/__pycache__/a.pyc", "images/x/1.png", "metrics/make.json"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(path)
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": STAGE}}))
    Path("params.yaml").write_text(yaml.safe_dump(params))
    with made_by.recorded("make", STAGE):
        Path("out.txt").write_text("made")
    return params


def lock(params: dict) -> dict:
    """What `dvc commit` writes for what lies here."""
    here = Folder(Path.cwd())
    outs = ("out.txt", made_by.FILE.format("make"), "metrics/make.json")
    entry = {"deps": [{"path": path, "md5": md5_of(here, path)} for path in ("code", "images")]}
    entry["outs"] = [{"path": path, "md5": md5_of(here, path)} for path in outs]
    entry["params"] = {"params.yaml": {"noise": params["noise"], "seed.base": 0.0}}
    return {"stages": {"make": entry}}


def test_a_stage_that_ran_with_what_the_lock_says_is_not_forged(project):
    Path("code/__pycache__/b.pyc").write_text("bytecode is no code")
    assert made_by.forged(lock(change(project, data__size=8))) == []


def test_other_parameters_are_forged(project):
    assert made_by.forged(lock(change(project, noise__latent=7.5))) == ["make"]


@pytest.mark.parametrize("path", ["code/a.py", "images/x/1.png", "out.txt", "metrics/make.json"])
def test_code_inputs_and_outputs_that_were_edited_are_forged(project, path):
    Path(path).write_text("edited")
    assert made_by.forged(lock(project)) == ["make"]


def test_what_changes_while_a_stage_runs_is_no_part_of_what_made_it(project):
    with made_by.recorded("make", STAGE):
        Path("code/a.py").write_text("edited during the run")
    assert made_by.forged(lock(project)) == ["make"]


def test_a_stage_that_fails_leaves_no_new_record(project):
    record = Path(made_by.FILE.format("make"))
    before = record.read_text()
    with pytest.raises(ValueError), made_by.recorded("make", STAGE):
        Path("out.txt").write_text("half")
        raise ValueError
    assert record.read_text() == before


def test_a_lock_of_an_earlier_version_is_left_alone(project):
    earlier = lock(change(project, noise__latent=7.5))
    del earlier["stages"]["make"]["outs"][1]
    assert made_by.forged(earlier) == []


def test_a_folder_without_dvc_has_no_stages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert made_by.pipeline() == {}


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, "project/.dvc/cache"),
        ({"user": "../user"}, "user"),
        ({"user": "../user", "project/.dvc": "../../shared"}, "shared"),
    ],
)
def test_the_cache_is_that_of_dvcs_settings(tmp_path, monkeypatch, settings, found):
    """The project's go before the user's; a path is relative to the file that names it."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "user"))
    monkeypatch.setenv("DVC_SYSTEM_CONFIG_DIR", str(tmp_path / "machine"))
    (tmp_path / "project/.dvc").mkdir(parents=True)
    for folder, path in settings.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "config").write_text(f"[cache]\n    dir = {path}\n")
    assert cache_folder() == tmp_path / found

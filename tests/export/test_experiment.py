"""Models of experiments that are not checked out."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from pdiff import outputs
from pdiff.core.files import load_state_dict
from pdiff.export.__main__ import main
from pdiff.tracking.made_by import FILE
from tests.toys.exports import git
from tests.toys.pipeline import STAGES
from tests.toys.project import make_project

BEGUN = "refs/exps/ab/cdefabcdefabcdefabcdefabcdefabcdefabcd"


@pytest.fixture
def matrix(toy, tmp_path, monkeypatch) -> torch.Tensor:
    """The generated models of an experiment `tuned`, which lie in DVC's cache alone."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    matrix = toy("my_net.py:MyNet", 32)
    outs = []
    for path in (outputs.BASE, outputs.GENERATED, outputs.MODELS):
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        cached = Path(".dvc/cache/files/md5", md5[:2], md5[2:])
        cached.parent.mkdir(parents=True, exist_ok=True)
        path.rename(cached)
        outs.append({"path": str(path), "md5": md5})
    outs.append({"path": "metrics/novelty.json", "md5": "0" * 32})  # in Git, not in the cache
    outs.append({"path": "report/audit", "md5": f"{'0' * 32}.dir"})
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"all": {"outs": outs}}}))
    Path(".dvc/config").touch()
    Path("metrics").mkdir()
    Path("metrics/novelty.json").write_text("{}")
    git("init", "-q"), git("add", "params.yaml", "dvc.lock", "my_net.py", "metrics")
    git("commit", "-qm", "tuned"), git("update-ref", f"{BEGUN}/tuned", "HEAD")
    git("rm", "-q", "dvc.lock", "params.yaml"), git("commit", "-qm", "the workspace")
    Path("my_net.py").write_text("raise SystemExit('the workspace has another net')")
    return matrix


def locked() -> list[dict[str, str]]:
    """The outputs in the experiment's dvc.lock."""
    return yaml.safe_load(git("show", f"{BEGUN}/tuned:dvc.lock"))["stages"]["all"]["outs"]


def workspace() -> dict[str, bytes]:
    """All files, DVC's cache among them."""
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_an_experiment_is_exported_without_a_change_of_the_workspace(matrix, capsys):
    before, tuned = workspace(), git("rev-parse", f"{BEGUN}/tuned")
    assert main(["1", "--exp", "tuned", "--to", "out/model.pth"]) == 0
    assert torch.equal(load_state_dict(Path("out/model.pth"))["norm.weight"], matrix[1, :3])
    assert capsys.readouterr().out.endswith("wrote out/model.pth and out/model.md\n")
    card = Path("out/model.md").read_text()
    assert f"- commit: {tuned}\n" in card
    assert "`python -m pdiff.export 1 --group generated --exp tuned --to model.pth`" in card
    md5s = {out["path"]: out["md5"] for out in locked()}
    assert f"- `{outputs.GENERATED}`: md5 in dvc.lock {md5s[str(outputs.GENERATED)]}\n" in card
    Path("out/model.pth").unlink(), Path("out/model.md").unlink()
    assert workspace() == before


def test_what_the_cache_lacks_is_named(matrix, capsys):
    md5 = next(out["md5"] for out in locked() if out["path"] == str(outputs.GENERATED))
    Path(".dvc/cache/files/md5", md5[:2], md5[2:]).unlink()
    assert main(["1", "--exp", "tuned", "--to", "model.pth"]) == 1
    error = capsys.readouterr().err
    message = f"--exp tuned: {outputs.GENERATED} is missing; DVC's cache has it not"
    assert error == f"error: {message}, `dvc fetch` may\n"
    assert not Path("model.pth").exists()


def test_a_name_that_is_unknown_or_stands_twice_is_one_line(matrix, capsys):
    assert main(["1", "--exp", "tune", "--to", "model.pth"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: --exp: there is no experiment named 'tune' here; `dvc exp")
    git("update-ref", f"{BEGUN.replace('ab', 'cd', 1)}/tuned", "HEAD")
    assert main(["1", "--exp", "tuned", "--to", "model.pth"]) == 1
    assert capsys.readouterr().err.startswith("error: --exp: 2 experiments are named 'tuned'")


@pytest.mark.slow
def test_what_dvc_has_saved_as_an_experiment_is_exported_as_from_the_workspace(
    finished, tmp_path, monkeypatch
):
    project = make_project(tmp_path / "pdiff")
    shutil.copytree(finished, project.path, dirs_exist_ok=True)
    for stage in STAGES:  # `finished` has not run as a DVC project
        record = project.path / FILE.format(stage)
        record.parent.mkdir(exist_ok=True)
        record.write_text("unknown\n")
    project.dvc("commit", "--force")
    project.dvc("exp", "save", "--name", "kept")
    monkeypatch.chdir(project.path)
    monkeypatch.setenv("DVC_ROOT", str(project.path))
    assert main(["best", "--to", str(tmp_path / "here.safetensors")]) == 0
    project.run("git", "clean", "-fdqx", "--exclude=.dvc")
    project.run("git", "checkout", "-q", ".")
    assert not outputs.MODELS.exists()
    assert main(["best", "--exp", "kept", "--to", str(tmp_path / "there.safetensors")]) == 0
    here, there = (tmp_path / f"{name}.safetensors" for name in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()
    assert "(the exported file is another)" not in there.with_suffix(".md").read_text()
    assert not project.run("git", "status", "--porcelain") and not outputs.MODELS.exists()

"""`dvc.yaml`, `params.yaml` and the code say the same."""

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
STAGES = sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py"))
# They hold no numbers: an edit there retrains nothing.
NO_DEPENDENCY = {"pdiff/__init__.py", "pdiff/config.py", "pdiff/errors.py", "pdiff/resume.py"}
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def _imports(path: Path) -> set[Path]:
    """Files of this repository that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            base = ROOT / Path(*name.split("."))
            found |= {p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()}
    return found


def reached(path: Path) -> set[str]:
    """Modules that a stage's results depend on, itself included."""
    seen, todo = set(), {path}
    while todo:
        current = todo.pop()
        seen.add(current)
        todo |= {p for p in _imports(current) if not _left_out(p)} - seen
    return {str(p.relative_to(ROOT)) for p in seen}


def _left_out(path: Path) -> bool:
    name = str(path.relative_to(ROOT))
    return (
        name in NO_DEPENDENCY or name.startswith("pdiff/tracking") or name == "stages/__init__.py"
    )


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "check_params"])
def test_deps_name_every_module_that_a_stage_reaches(stage):
    named = {dep for dep in PIPELINE[stage]["deps"] if dep.endswith(".py")}
    assert named == reached(ROOT / "stages" / f"{stage}.py")


def test_the_pipeline_has_exactly_the_stages_that_have_scripts():
    assert sorted(PIPELINE) == STAGES
    assert {name: stage["cmd"] for name, stage in PIPELINE.items()} == {
        name: f"python -m stages.{name}" for name in STAGES
    }


def test_pdiff_imports_no_stage():
    for path in (ROOT / "pdiff").rglob("*.py"):
        assert not any("stages" in p.parts for p in _imports(path)), path


def test_only_tracking_imports_mlflow():
    users = {
        path.name
        for path in [*(ROOT / "pdiff").rglob("*.py"), *(ROOT / "stages").glob("*.py")]
        if "import mlflow" in path.read_text() and "tracking" not in str(path)
    }
    assert users == set()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_the_files_it_reads_and_writes(stage):
    """Every path constant of the script stands in dvc.yaml, and the other way round."""
    text = (ROOT / "stages" / f"{stage}.py").read_text()
    entry = PIPELINE[stage]
    listed = [dep for dep in entry["deps"] if not dep.endswith(".py") and "$" not in dep]
    for kind in ("outs", "metrics", "plots"):
        listed += [next(iter(out)) if isinstance(out, dict) else out for out in entry.get(kind, [])]
    for name in listed:
        if name == "data/params_checked.txt" and stage != "check_params":
            continue  # only an order of stages
        assert name in text or (name.startswith("report/") and Path(name).name in text), name


def test_every_stage_reads_only_the_sections_it_declares():
    """`params.NAME` in a script must be among the params of its stage in dvc.yaml."""
    for stage in STAGES:
        if stage == "check_params":
            continue
        text = (ROOT / "stages" / f"{stage}.py").read_text()
        used = {
            node.attr
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "params"
        }
        declared = {name.partition(".")[0] for name in PIPELINE[stage]["params"]}
        assert used == declared, stage

"""`dvc.yaml`, `params.yaml` and the code say the same."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pdiff import outputs
from pdiff.tracking import made_by

ROOT = Path(__file__).resolve().parents[1]
STAGES = sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py"))
ROOMS = (
    *("cli", "api", "paper", "audit", "export", "tracking", "novelty", "baselines", "tasks"),
    *("datasets", "evaluation", "nets", "autoencoder", "images", "parameters", "diffusion", "core"),
    *("limits", "config", "system", "outputs"),
)
"""The order of the house, top to bottom: an import points down this list only."""
NO_NUMBERS = ("system", "tracking", "config", "outputs", "__init__")
"""An edit there retrains nothing; like the version of torch, `portable` is the surroundings."""
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


def room(path: Path) -> str:
    """The room of a file of `pdiff/`; a module beside the rooms is one of its own."""
    return path.relative_to(ROOT / "pdiff").parts[0].removesuffix(".py")


TASK = {"pdiff/tasks/registry.py", "pdiff/tasks/${task.name}.py"}
"""The part of a room that a stage depends on: its own task alone."""


def reached(path: Path) -> set[str]:
    """Rooms that a stage's results depend on; of the tasks see below."""
    seen, todo = set(), {path}
    while todo:
        current = todo.pop()
        seen.add(current)
        if current.is_relative_to(ROOT / "pdiff/tasks"):
            continue
        found = {p for p in _imports(current) if p.is_relative_to(ROOT / "pdiff")}
        todo |= {p for p in found if room(p) not in NO_NUMBERS} - seen
    return {f"pdiff/{room(p)}" for p in seen - {path}}


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "check_params"])
def test_deps_name_every_room_that_a_stage_reaches(stage):
    deps = set(PIPELINE[stage]["deps"])
    rooms = reached(ROOT / "stages" / f"{stage}.py")
    if "pdiff/tasks" in rooms:
        rooms = rooms - {"pdiff/tasks"} | TASK
    if stage == "prepare_data":  # which alone asks a task to read
        rooms.add("pdiff/datasets")
    assert {dep for dep in deps if dep.startswith("pdiff/")} == rooms
    assert f"stages/{stage}.py" in deps


@pytest.mark.parametrize("path", sorted((ROOT / "pdiff/tasks").glob("[a-z]*.py")), ids=str)
def test_a_task_imports_what_reads_and_what_evaluates_where_it_does_so(path):
    """Then training depends on neither, and the rest is what every stage with a task depends on."""
    tree, only = ast.parse(path.read_text()), {"datasets": {"check", "read"}}
    only["evaluation"] = {"evaluation"}
    shared = {*PIPELINE["train_base"]["deps"], "pdiff/parameters", "pdiff/tasks"}
    methods = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    typed = [node for part in tree.body if isinstance(part, ast.If) for node in part.body]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.module.startswith("pdiff."):
            continue
        name = node.module.split(".")[1]
        if f"pdiff/{name}" in shared or name in NO_NUMBERS or node in typed:
            continue
        inside = {method.name for method in methods if node in ast.walk(method)}
        assert inside & only[name], f"{path}: {node.module}"


@pytest.mark.parametrize("name", ["train_base", "finetune", "train_autoencoder", "train_ddpm"])
def test_what_judges_the_models_retrains_nothing(name):
    judges = ("audit", "novelty", "paper", "tracking", "datasets", "export")
    assert not {f"pdiff/{room}" for room in judges} & set(PIPELINE[name]["deps"])
    assert not {"task", "task.judging", "evaluate", "novelty"} & set(PIPELINE[name]["params"])


def test_imports_point_down_the_house():
    up = [
        f"{path.relative_to(ROOT)} imports {found.relative_to(ROOT)}"
        for path in (ROOT / "pdiff").rglob("*.py")
        if path.name != "__main__.py" and room(path) != "__init__"
        for found in _imports(path)
        if found.is_relative_to(ROOT / "pdiff")
        and room(found) != "__init__"
        and ROOMS.index(room(found)) < ROOMS.index(room(path))
    ]
    assert up == []


def test_bytecode_is_no_part_of_a_room():
    assert "__pycache__/" in (ROOT / ".dvcignore").read_text().split()


def test_the_pipeline_has_exactly_the_stages_that_have_scripts():
    assert sorted(PIPELINE) == STAGES
    assert {name: stage["cmd"] for name, stage in PIPELINE.items()} == {
        name: f"python -m stages.{name}" for name in STAGES
    }


def test_pdiff_imports_no_stage():
    for path in (ROOT / "pdiff").rglob("*.py"):
        assert not any("stages" in p.parts for p in _imports(path)), path


@pytest.mark.parametrize(
    ("package", "rooms"),
    [
        ("mlflow", {"tracking"}),
        ("yaml", {"config", "tracking", "paper", "export"}),  # of these only config feeds a stage
    ],
)
def test_only_these_rooms_import(package, rooms):
    """So no module that computes a number reads params.yaml, but takes it from `pdiff.config`."""
    files = [*(ROOT / "pdiff").rglob("*.py"), *(ROOT / "stages").glob("*.py")]
    found = {path.relative_to(ROOT) for path in files if f"import {package}" in path.read_text()}
    assert {path.parts[1].removesuffix(".py") for path in found} == rooms


def test_no_stage_imports_what_takes_seconds_before_it_is_needed():
    slow = ("timm", "torchvision", "torch._dynamo", "mlflow", "sklearn.datasets")
    code = f"import sys, {', '.join(f'stages.{name}' for name in STAGES)}\n"
    code += f"print([name for name in {slow} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout == "[]\n", ran.stderr


def written(stage: str) -> set[str]:
    """The files that a stage's script writes, as dvc.yaml has them."""
    outs = [o for kind in ("outs", "metrics", "plots") for o in PIPELINE[stage].get(kind, [])]
    paths = {next(iter(out)) if isinstance(out, dict) else out for out in outs}
    return paths - {made_by.FILE.format(stage)}


def test_every_stage_leaves_a_record_that_no_stage_depends_on():
    for name, stage in PIPELINE.items():
        assert made_by.FILE.format(name) in stage["outs"]
        assert not any("made_by" in dep for dep in stage["deps"])


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_the_files_it_reads_and_writes(stage):
    """The files that the script takes from `outputs` are those in dvc.yaml, both ways round."""
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text())
    chains = [_chain(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    named = {str(getattr(outputs, chain[1])) for chain in chains if chain[0] == "outputs"}
    code = ("pdiff/", "stages/", "$", str(outputs.CHECKED))  # the last is only an order of stages
    read = {dep for dep in PIPELINE[stage]["deps"] if not dep.startswith(code)}
    assert named == read | written(stage)


def test_outputs_names_every_file_of_the_pipeline_and_no_other():
    files = set().union(*map(written, STAGES))
    assert files == {str(path) for path in vars(outputs).values() if isinstance(path, Path)}


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "check_params"])
def test_a_stage_reads_only_the_parameters_it_declares(stage):
    """What a script reads of `params` must be among the params of its stage in dvc.yaml."""
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text())
    declared = set(PIPELINE[stage]["params"])
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            used |= {".".join(_chain(node))}
    used = {name.removeprefix("params.") for name in used if name.startswith("params.")}
    aliases = {name for name in used if f"config = params.{name}\n" in ast.unparse(tree) + "\n"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _chain(node)[0] == "config" and len(aliases) == 1:
            used.add(f"{next(iter(aliases))}.{_chain(node)[1]}")
    # a whole section that is only renamed or only keys the resumed state is judged by its parts
    partial = {name.partition(".")[0] for name in declared if "." in name}
    whole = used & partial
    used -= whole
    covered = {name for name in used if name in declared or name.partition(".")[0] in declared}
    assert used == covered
    sections = {name.partition(".")[0] for name in declared}
    assert sections == {name.partition(".")[0] for name in used | whole}


def _chain(node: ast.AST) -> list[str]:
    """`a.b.c` as its names; what is not a chain of names begins with an empty one."""
    if isinstance(node, ast.Attribute):
        return [*_chain(node.value), node.attr]
    return [node.id] if isinstance(node, ast.Name) else [""]

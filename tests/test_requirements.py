"""pyproject.toml, requirements files and lock files ask for the same packages."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT


def lines(name: str) -> list[Requirement]:
    """The requirements of a file, without its comments."""
    text = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return [Requirement(line) for line in text if line]


LOCKED = {canonicalize_name(found.name): found for found in lines("requirements.lock")}


WANTED = [*lines("requirements.txt"), *lines("requirements-dev.txt")]


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(
    ("file", "declared"),
    [
        (
            "requirements.txt",
            [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["pipeline"]],
        ),
        ("requirements-dev.txt", PROJECT["optional-dependencies"]["dev"]),
    ],
)
def test_a_file_of_ranges_has_those_of_pyproject(file, declared):
    found = sorted(map(str, lines(file)))
    assert found == sorted(str(Requirement(text)) for text in declared)


def test_the_lock_of_uv_is_that_of_pyproject_with_the_versions_of_the_lock():
    text = (ROOT / "uv.lock").read_text()
    packages = tomllib.loads(text)["package"]
    versions = {package["name"]: package["version"] for package in packages}
    pins = {name: next(iter(found.specifier)).version for name, found in LOCKED.items()}
    assert {name: versions.get(name) for name in pins} == pins
    (own,) = (package for package in packages if package["name"] == PROJECT["name"])
    declared = {(None, text) for text in PROJECT["dependencies"]}
    for extra, texts in PROJECT["optional-dependencies"].items():
        declared |= {(extra, text) for text in texts}
    wanted = own["metadata"]["requires-dist"]
    assert {
        (re.sub(r".*'(.*)'", r"\1", entry["marker"]) if "marker" in entry else None, entry["name"])
        for entry in wanted
    } == {(extra, canonicalize_name(Requirement(text).name)) for extra, text in declared}
    hosts = set(re.findall(r"https?://([^/\"]+)", text))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}  # and no mirror


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_the_lock_pins_a_version_that_is_allowed(wanted):
    locked = LOCKED[canonicalize_name(wanted.name)]
    (pin,) = locked.specifier
    assert pin.operator == "=="
    assert wanted.specifier.contains(pin.version)


def test_the_lock_holds_exact_versions_alone():
    assert {str(found.specifier)[:2] for found in LOCKED.values()} == {"=="}
    assert not [found for found in LOCKED.values() if found.url]


def test_what_the_code_imports_is_asked_for():
    """Beside the standard library, by the package that brings the module."""
    providers = packages_distributions()
    asked = {canonicalize_name(wanted.name) for wanted in lines("requirements.txt")}
    found = set()
    for path in [*(ROOT / "pdiff").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    foreign = found - set(sys.stdlib_module_names) - {"pdiff", "stages"}
    unasked = {m for m in foreign if not {*map(canonicalize_name, providers[m])} & asked}
    assert unasked == set()


def test_the_generators_stages_start_without_what_they_do_not_use():
    """Importing timm, torchvision or MLflow takes seconds."""
    slow = ("timm", "torchvision", "mlflow", "pandas", "matplotlib", "sklearn", "scipy")
    code = "import sys, stages.train_autoencoder, stages.train_ddpm, stages.generate\n"
    code += f"print(*sys.modules.keys() & {set(slow)})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""

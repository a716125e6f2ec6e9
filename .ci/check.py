"""Checks of `.ci/run`: dvc.lock belongs to the code, the pages to the files, a cold run to both.

python .ci/check.py lock
python .ci/check.py docs
python .ci/check.py metrics FOLDER    the committed `metrics/`, before the cold run
"""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pdiff.tracking.made_by import forged  # noqa: E402

# Other threads and processors sum in another order; on one machine a cold run gives equal numbers.
TOLERANCE = {"accuracy": 0.01, "similarity": 0.03, "fit": 0.03, "audit": 0.03}
"""Of the numbers of each section; in the audit, of a number that is larger than 1 this share."""
SHOWN = {
    "accuracy_mean": 100,
    "accuracy_best": 100,
    "max_similarity_mean": 1,
    "similarity_within": 1,
}
"""Columns of the README's table behind its first two, and the factor to what it prints."""


def check_lock() -> list[str]:
    """Nothing but missing outputs would be made again, and each stage says the same of itself."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing"]
    done = subprocess.run(
        command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    current = done.returncode == 0 and "Running stage" not in done.stdout
    if not current:
        return [f"dvc.lock does not belong to the code:\n{done.stdout}{done.stderr}"]
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())
    return [f"{s}: its outputs were not made by what dvc.lock says" for s in forged(lock)]


def check_docs() -> list[str]:
    """Links lead to files, no placeholder is left, and README's table is `report/summary.csv`."""
    problems = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text, name = page.read_text(), page.relative_to(ROOT)
        for link in re.findall(r"\]\((?!http|#)([^)#\s]+)", text):
            if not (page.parent / link).exists():
                problems.append(f"{name} links to {link}, which does not exist")
        problems += [f"{name} has the placeholder {x}" for x in re.findall(r"@[A-Z]+@|TODO", text)]
    return problems + _check_table((ROOT / "README.md").read_text())


def _check_table(readme: str) -> list[str]:
    """The table behind `<!-- summary.csv -->`: group, models, and the columns of `SHOWN`."""
    rows = {}
    for line in readme.partition("<!-- summary.csv -->")[2].strip().splitlines():
        if not line.startswith("|"):
            break
        group, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[group] = cells
    with (ROOT / "report/summary.csv").open() as file:
        summary = {row["group"]: row for row in csv.DictReader(file)}
    problems = []
    if list(rows)[2:] != list(summary):
        problems.append(f"README's table has the groups {list(rows)[2:]}, not {list(summary)}")
    for group in rows.keys() & summary.keys():
        models, *cells = rows[group]
        for cell, (name, factor) in zip(cells, SHOWN.items(), strict=True):
            shown, value = cell.split()[0], summary[group][name]
            if shown == "-" and not value:
                continue
            value = factor * float(value)
            decimals = len(shown.partition(".")[2])
            if abs(float(shown) - value) > 0.51 * 10**-decimals:
                problems.append(f"README's table: {group} has {shown}, summary.csv {value}")
        if int(models) != int(summary[group]["models"]):
            problems.append(f"README's table: {group} has {models} models")
    return problems


def check_metrics(committed: Path) -> list[str]:
    """Every headline number of this run lies within the tolerance of the committed one.

    Where the generated models are the committed ones, all numbers must be.
    """
    before, now = (_headline(folder) for folder in (committed, Path("metrics")))
    problems, same = [], _same_models()
    for section, allowed in TOLERANCE.items():
        for name, value in before[section].items():
            found = now.get(section, {}).get(name)
            numbers = found is not None and value is not None
            tolerance = 1e-6 if same else allowed
            if section == "audit" and numbers:
                tolerance *= max(1.0, abs(value))
            close = abs(found - value) <= tolerance if numbers else found is value
            print(f"{'ok' if close else 'OFF':4} {section}.{name}: {value} -> {found}")
            if not close:
                problems.append(f"{section}.{name}: {value} became {found}, tolerance {tolerance}")
    return problems


def _same_models() -> bool:
    """Whether dvc.lock has the generated models that the last commit has."""
    committed = subprocess.run(
        ["git", "show", "HEAD:dvc.lock"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    found = {
        out["md5"]
        for text in (committed, (ROOT / "dvc.lock").read_text())
        for out in yaml.safe_load(text)["stages"]["generate"]["outs"]
        if out["path"] == "data/generated.safetensors"
    }
    print("generated models:", "the committed ones" if len(found) == 1 else "other ones")
    return len(found) == 1


def _headline(folder: Path) -> dict[str, dict[str, float | None]]:
    """The sections of `novelty.json`, and the audit's own file as one more."""
    found = json.loads((folder / "novelty.json").read_text())
    audit = folder / "audit.json"
    return found | ({"audit": json.loads(audit.read_text())} if audit.exists() else {})


if __name__ == "__main__":
    what, *paths = sys.argv[1:]
    found = {"lock": check_lock, "docs": check_docs}.get(
        what, lambda: check_metrics(Path(paths[0]))
    )()
    sys.exit("\n".join(found) if found else 0)

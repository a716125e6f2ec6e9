"""Measured stages as the reference of estimates on other machines, and how well estimates hold.

python -m pdiff.paper.reference keep "2 CPU cores, torch 2.15" KEY ...
python -m pdiff.paper.reference check KEY FROM ...

KEY and FROM are names of experiments, as DVC and MLflow show them; their records lie in
`.work/runs`. `check` estimates each stage of KEY from those of FROM and prints both numbers.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence

from pdiff.core.files import write_text
from pdiff.paper.definitions import REFERENCE
from pdiff.paper.estimate import Measured, compare, measured_from
from pdiff.tracking import runs_folder

PATH = REFERENCE / "stage_times.json"


def keep(machine: str, keys: Sequence[str]) -> None:
    """Write the finished stages of these experiments, in place of what that machine had before."""
    kept = json.loads(PATH.read_text()) if PATH.exists() else []
    entries = [entry for entry in kept if entry["machine"] != machine]
    for found in _measured(machine, keys):
        local = {"root": "/images", "watch": "/images"}  # says nothing about the work
        params = {**found.params, "data": {**found.params["data"], **local}}
        entries.append(dataclasses.asdict(dataclasses.replace(found, params=params)))
    write_text(PATH, json.dumps(entries, indent=1) + "\n")


def check(key: str, others: Sequence[str]) -> None:
    """Print estimated and measured seconds of each stage of one experiment."""
    print("| stage | estimated, s | measured, s | ratio |\n| - | -: | -: | -: |")
    for found, seconds in compare(_measured(key, [key]), _measured("", others)):
        ratio = seconds / found.duration_s
        print(f"| {found.stage} | {seconds:.1f} | {found.duration_s:.1f} | {ratio:.2f} |")


def _measured(machine: str, keys: Sequence[str]) -> list[Measured]:
    found = []
    for key in keys:
        for path in sorted(runs_folder(key).glob("*.json")):
            record = json.loads(path.read_text())
            if record["status"] == "FINISHED":
                found.append(measured_from(record, machine))
    return found


if __name__ == "__main__":
    {"keep": keep, "check": check}[sys.argv[1]](sys.argv[2], sys.argv[3:])

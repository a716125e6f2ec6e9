"""Keep the measured stages of experiments as reference of estimates on other machines.

python -m pdiff.tables.reference "2 CPU cores, torch 2.15" KEY ...

KEY is the name of an experiment, as DVC and MLflow show it; its records lie in `.work/runs`.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence

from pdiff.files import write_text
from pdiff.tables.definitions import REFERENCE
from pdiff.tables.estimate import measured_from
from pdiff.tracking import runs_folder

PATH = REFERENCE / "stage_times.json"


def main(machine: str, keys: Sequence[str]) -> None:
    """Add the finished stages of these experiments, in place of what that machine had before."""
    kept = json.loads(PATH.read_text()) if PATH.exists() else []
    entries = [entry for entry in kept if entry["machine"] != machine]
    for key in keys:
        for path in sorted(runs_folder(key).glob("*.json")):
            record = json.loads(path.read_text())
            if record["status"] == "FINISHED":
                measured = dataclasses.asdict(measured_from(record, machine))
                local = {"root": "/images", "watch": "/images"}
                measured["params"] = {**record["all_params"]}
                measured["params"]["data"] = {**record["all_params"]["data"], **local}
                entries.append(measured)
    write_text(PATH, json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

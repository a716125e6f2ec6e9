"""Checks of `.ci/run`: dvc.lock belongs to the code, a cold run gives the committed numbers.

python .ci/check.py lock
python .ci/check.py metrics COMMITTED.json
"""

import json
import os
import subprocess
import sys
from pathlib import Path

METRICS = Path("metrics/novelty.json")
# Other threads and processors sum in another order; on one machine a cold run gives equal numbers.
TOLERANCE = {"accuracy": 0.02, "similarity": 0.08, "fit": 0.1}


def check_lock() -> list[str]:
    """Nothing but missing outputs would be made again: parameters, code and lock agree."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing"]
    done = subprocess.run(
        command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    current = done.returncode == 0 and "Running stage" not in done.stdout
    return [] if current else [f"dvc.lock does not belong to the code:\n{done.stdout}{done.stderr}"]


def check_metrics(committed: Path) -> list[str]:
    """Every headline number of this run lies within the tolerance of the committed one."""
    before, now = (json.loads(path.read_text()) for path in (committed, METRICS))
    problems = []
    for section, tolerance in TOLERANCE.items():
        for name, value in before[section].items():
            found = now[section].get(name)
            numbers = found is not None and value is not None
            close = abs(found - value) <= tolerance if numbers else found is value
            print(f"{'ok' if close else 'OFF':4} {section}.{name}: {value} -> {found}")
            if not close:
                problems.append(f"{section}.{name}: {value} became {found}, tolerance {tolerance}")
    return problems


if __name__ == "__main__":
    found = check_lock() if sys.argv[1] == "lock" else check_metrics(Path(sys.argv[2]))
    sys.exit("\n".join(found) if found else 0)

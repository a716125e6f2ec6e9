"""Seconds until a program answers, in a process of its own; the plain way imports all first."""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.timing import HEADER, Pair, table, time_pair

ROOT = Path(__file__).resolve().parents[1]
ALL = "import torch, timm, torchvision, mlflow"
"""What every stage of the first version imported before it began."""
OURS = {
    "from pdiff import PDiff": ["-c", "from pdiff import PDiff"],
    "a wrong parameter is refused": ["-m", "stages.check_params"],
}


def run(repeats: int = 5) -> str:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        wrong = (ROOT / "params.yaml").read_text().replace("base: 0", "base: -1", 1)
        Path(folder, "params.yaml").write_text(wrong)
        plain = partial(_python, folder, ["-c", ALL])
        for name, arguments in OURS.items():
            pair = time_pair(partial(_python, folder, arguments), plain, repeats)
            rows.append(Pair(name, *pair, "the plain way: " + ALL).row())
    return table(HEADER, rows)


def _python(folder: str, arguments: list[str]) -> None:
    surroundings = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, check=False)
    if done.returncode and not done.stderr.startswith(b"error: "):  # what is timed is the answer
        raise RuntimeError(done.stderr.decode())

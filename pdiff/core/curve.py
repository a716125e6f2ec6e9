"""A training's curve: kept for a CSV that DVC plots, and passed on to MLflow as it grows."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from pdiff.core.files import write_text
from pdiff.core.optimise import Log


class Curve:
    """Called as `log(metrics, step)`, each time with all of `names`; a row a step."""

    def __init__(self, log: Log, prefix: str, *names: str) -> None:
        self._log, self._prefix, self._names = log, prefix, names
        self._rows: list[dict[str, float]] = []

    def __call__(self, metrics: Mapping[str, float], step: int) -> None:
        named = {f"{self._prefix}_{name}": value for name, value in metrics.items()}
        self._rows.append({"step": step, **named})
        self._log(named, step)

    def write(self, path: Path) -> None:
        """A header alone where nothing was trained."""
        text = io.StringIO()
        columns = ["step", *(f"{self._prefix}_{name}" for name in self._names)]
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(path, text.getvalue())

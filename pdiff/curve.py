"""A training's curve: kept for a CSV that DVC plots, and passed on to MLflow as it grows."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from pdiff.files import write_text
from pdiff.optimise import Log


class Curve:
    """Called as `log(metrics, step)`; `write` leaves one row a step, every point with all keys."""

    def __init__(self, log: Log, prefix: str) -> None:
        self._log, self._prefix = log, prefix
        self._rows: list[dict[str, float]] = []

    def __call__(self, metrics: Mapping[str, float], step: int) -> None:
        named = {f"{self._prefix}_{name}": value for name, value in metrics.items()}
        self._rows.append({"step": step, **named})
        self._log(named, step)

    def write(self, path: Path) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self._rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(path, text.getvalue())

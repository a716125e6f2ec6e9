"""A training's curve: kept for a CSV that DVC plots, and passed on to MLflow as it grows."""

from collections.abc import Mapping
from pathlib import Path

from pdiff.core.files import write_text
from pdiff.core.optimise import Log


class Curve:
    """Called as `log(metrics, step)`, each time with all of `names`; a row a step."""

    def __init__(self, log: Log, prefix: str, *names: str) -> None:
        self._log, self._names = log, names
        self._columns = [f"{prefix}_{name}" for name in names]
        self._rows: list[list[float]] = []

    def __call__(self, metrics: Mapping[str, float], step: int) -> None:
        values = [metrics[name] for name in self._names]
        self._rows.append([step, *values])
        self._log(dict(zip(self._columns, values, strict=True)), step)

    def write(self, path: Path) -> None:
        """A header alone where nothing was trained."""
        lines = [["step", *self._columns], *self._rows]
        write_text(path, "".join(",".join(map(str, line)) + "\n" for line in lines))

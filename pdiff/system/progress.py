"""Progress bars in a terminal and in notebooks; where there is neither, a line now and then."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import auto

EVERY_S = 30.0
"""From one line to the next, without a terminal: nohup, CI, SLURM, DVC's queue."""
IN_NOTEBOOK = auto.notebook_tqdm is not auto.std_tqdm

_hidden = False


@contextmanager
def bars(wanted: bool) -> Iterator[None]:
    """Whether bars and lines are drawn within a `with` block."""
    global _hidden
    before, _hidden = _hidden, not wanted
    try:
        yield
    finally:
        _hidden = before


class tqdm(auto.tqdm):
    """tqdm's bar; `disable=None` makes lines of it, not silence, where there is no terminal."""

    def __init__(self, *args: Any, disable: bool | None = False, **options: Any) -> None:
        self._in_lines = disable is None and not IN_NOTEBOOK and not sys.stderr.isatty()
        self._begun = self._shown = time.monotonic()
        disable = bool(disable) or _hidden
        super().__init__(*args, disable=disable, leave=not self._in_lines, **options)

    def display(self, msg: str | None = None, *args: Any, **options: Any) -> bool | None:
        """Draw the bar, or write it as a line if the last one is `EVERY_S` ago."""
        if not self._in_lines:
            return super().display(msg, *args, **options)  # a notebook's has more of them
        if msg is None and time.monotonic() - self._shown >= EVERY_S:
            self._write()
        return False  # no cursor has to go back

    def close(self) -> None:
        """End the bar; lines end with one more if there was any."""
        if self._in_lines and not self.disable and self._shown > self._begun:
            self._write()
        super().close()

    def _write(self) -> None:
        self._shown = time.monotonic()
        self.fp.write(f"{self}\n")
        self.fp.flush()

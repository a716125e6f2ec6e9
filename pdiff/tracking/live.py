"""Curves reach MLflow while a stage trains, and the stage waits for nothing.

A thread of the stage passes new points to a process of low priority, `pdiff.tracking.show`, which
alone imports MLflow and asks its server. The record that the stage leaves at its end completes
the runs that were begun so. A stage without a curve, or a short one, starts nothing.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pdiff.tracking.files import Log
from pdiff.tracking.process import process_tags

AFTER_S = 20.0
"""A stage that is shorter shows nothing while it runs."""
EVERY_S = 5.0
GRACE_S = 2.0
"""How long a stage's end waits for the last points, which its record has too."""


class Live:
    """Shows what the log of a stage collects; `about` is its record as far as it is known."""

    def __init__(self, about: Mapping[str, Any], log: Log) -> None:
        self._about, self._log, self._sent = about, log, 0
        self._over = threading.Event()
        self._process: subprocess.Popen | None = None
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def end(self, status: str) -> bool:
        """Send the last points; False if MLflow is in trouble, of which a warning was given."""
        self._over.set()
        self._thread.join(GRACE_S)
        if self._process is None:
            return True
        if not self._thread.is_alive():  # or it is writing to a process that does not read
            self._send({"status": status})
        try:
            return self._process.wait(GRACE_S) == 0
        except subprocess.TimeoutExpired:
            self._process.kill()
            return True

    def _feed(self) -> None:
        wait = AFTER_S
        while not self._over.wait(wait):
            wait = EVERY_S
            if self._process is None and self._log.points:
                self._start()
            if self._process is not None:
                self._send({})

    def _start(self) -> None:
        path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        command = [sys.executable, "-m", "pdiff.tracking.show"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment)
        self._write({**self._about, "tags": process_tags()})

    def _send(self, end: Mapping[str, str]) -> None:
        points = self._log.points[self._sent :]
        self._sent += len(points)
        self._write({"points": points, **end})

    def _write(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the process has ended, and said why
            self._process.stdin.write(f"{json.dumps(message)}\n")
            self._process.stdin.flush()

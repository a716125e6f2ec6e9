"""What `pdiff.tracking.live` starts: it reads a stage's points and logs them to MLflow.

The first line is what is known of the stage's record, each other one `{"points": [...]}`, the last
one with a status; if that is missing, the stage was killed. Trouble costs one warning, and is tried
again less and less often.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pdiff.tracking import HINT, asked_once, warns
from pdiff.tracking.store import Store, open_store

PAUSE_S, LONGEST_S = 10.0, 600.0
"""The first and the longest pause between two tries."""


class Shown:
    """The runs of one stage and of its experiment, and the points that they lack."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.about = about
        self.unsent: list[Sequence] = []
        self._store: Store | None = None
        self._runs = ("", "")

    def log(self, status: str | None) -> None:
        """Log all points; a status ends the stage."""
        if self._store is None:
            with asked_once(), open_store() as store:
                self._runs = store.begin_stage(self.about)
            self._store = store
        pipeline_id, run_id = self._runs
        if self.unsent:
            self._store.log(run_id, self.unsent)
            self._store.add_curves(pipeline_id, self.unsent)
            self.unsent = []
        if status is not None:
            self._store.end_stage(pipeline_id, run_id, status)


def main() -> bool:
    """Log what comes; whether MLflow lacks any of it."""
    shown = Shown(json.loads(sys.stdin.readline()))
    what = f"{shown.about['stage']} is not shown while it runs"
    failed, again, pause = False, 0.0, PAUSE_S
    for message in messages():
        shown.unsent += message["points"]
        if time.monotonic() < again:
            continue
        failed = True
        with warns(what, HINT) if pause == PAUSE_S else contextlib.suppress(Exception):
            shown.log(message.get("status"))
            failed = False
        if failed:
            again, pause = time.monotonic() + pause, min(2 * pause, LONGEST_S)
    return failed


def messages() -> Iterator[dict[str, Any]]:
    """What the stage sends, to the end; a status is the last."""
    for line in sys.stdin:
        with contextlib.suppress(ValueError):  # killed while it wrote
            message = json.loads(line)
            yield message
            if "status" in message:
                return
    yield {"points": [], "status": "KILLED"}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the stage, and that ends this
    os.nice(5)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # in time for the stage's end
    sys.exit(main())

"""One thin script per DVC stage: read, call `pdiff`, write. `python -m stages.NAME` runs one."""

import sys
from collections.abc import Callable
from pathlib import Path

import pdiff.system.portable  # noqa: F401 - first, for it must come before torch
from pdiff.system.errors import explained
from pdiff.tracking import made_by


def stage(main: Callable[[], None]) -> None:
    """Run a stage's `main`; what is the user's to mend ends it with one line and no traceback."""
    name = Path(main.__code__.co_filename).stem
    try:
        stages = made_by.pipeline()
        if name not in stages:  # no DVC project
            main()
            return
        print(f"stage {[*stages].index(name) + 1} of {len(stages)}: {name}", flush=True)
        with made_by.recorded(name, stages[name]):
            main()
    except Exception as error:
        print(f"error: {explained(error)}", file=sys.stderr, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def warn(*messages: str) -> None:
    """Say loudly, each for itself, that a result is not what it seems; the stage goes on."""
    bar = "!" * 100
    for message in messages:
        print(f"{bar}\nWARNING: {message}\n{bar}", file=sys.stderr, flush=True)

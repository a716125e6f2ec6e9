"""One thin script per DVC stage: read, call `pdiff`, write. `python -m stages.NAME` runs one."""

import sys
from collections.abc import Callable

import pdiff.portable  # noqa: F401 - first, for it must come before torch
from pdiff import distributed, ranks
from pdiff.errors import InputError
from pdiff.launch import launch, wanted_processes


def stage(main: Callable[[], None], shared: bool = False) -> None:
    """Run a stage's `main`; what is the user's to mend ends it with one line and no traceback.

    A stage that can be `shared` out among processes starts itself anew in `PDIFF_PROCESSES`.
    """
    try:
        processes = wanted_processes()
        if shared and processes > 1:
            launch(processes, sys.modules["__main__"].__spec__.name)
        else:
            _run(main, shared)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(main: Callable[[], None], shared: bool) -> None:
    with distributed.group():
        if ranks.place.processes > 1 and not shared:
            raise InputError("this stage cannot be shared out; start it with python, not torchrun")
        main()


def warn(message: str) -> None:
    """Say loudly that a result is not what it seems; the stage goes on."""
    bar = "!" * 100
    print(f"{bar}\nWARNING: {message}\n{bar}", file=sys.stderr, flush=True)

"""A stage starts itself anew in several processes: torchrun without another command to type."""

import logging
import os
import sys

from torch import distributed

from pdiff.errors import InputError


def wanted_processes() -> int:
    """`PDIFF_PROCESSES`; 1 if it is not set, or where torchrun has started this process."""
    text = os.environ.get("PDIFF_PROCESSES") or "1"
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"PDIFF_PROCESSES: {text!r} is no number of processes; give 1 or more")
    return 1 if distributed.is_torchelastic_launched() else int(text)


def launch(processes: int, module: str) -> None:
    """`torchrun --nproc-per-node processes -m module`; exits if one fails, with its exit status."""
    # slow to import, and rarely needed
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    threads = len(os.sched_getaffinity(0)) // processes
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, threads)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # they say it
    try:
        main(["--standalone", f"--nproc-per-node={processes}", "-m", module])
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise InputError(f"process {rank} of {processes}: {failure.message}") from None
        sys.exit(failure.exitcode)

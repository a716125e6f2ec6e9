"""`python -m pdiff.paper TABLE ...`."""

import sys

import pdiff.system.portable  # noqa: F401 - first, for it must come before torch
from pdiff.paper.cli import main

if __name__ == "__main__":  # and not in the processes that measure memory
    sys.exit(main())

"""`python -m pdiff.tables TABLE ...`."""

import sys

import pdiff.portable  # noqa: F401 - first, for it must come before torch
from pdiff.tables.cli import main

sys.exit(main())

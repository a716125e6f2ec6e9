"""`python -m pdiff.export MODEL --to FILE`."""

import sys

from pdiff.export.cli import main

sys.exit(main())

"""`python -m pdiff.tables TABLE ...`."""

import sys

from pdiff.tables.cli import main

sys.exit(main())

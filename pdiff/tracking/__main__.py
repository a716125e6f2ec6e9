"""`python -m pdiff.tracking sync | ui | table`."""

import sys

from pdiff.tracking.sync import main

sys.exit(main())

"""How fast p-diff is beside the plain way of doing the same, both timed in one run.

`make bench` runs all of it and rewrites the tables in docs/performance.md.
"""

import pdiff.system.portable  # noqa: F401 - first, for it must come before torch

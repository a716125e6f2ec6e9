"""Where the project's own, git-ignored files lie."""

import os
from pathlib import Path


def root() -> Path:
    """The main checkout, also when DVC runs a stage in a temporary copy of it."""
    return Path(os.environ.get("DVC_ROOT") or Path(__file__).resolve().parents[2])

"""`python -m pdiff.tracking sync | ui | table`: bring MLflow up to date, compare experiments."""

import argparse
import re
import sys

from pdiff.system.errors import reason
from pdiff.tracking import ui
from pdiff.tracking.store import open_store, tracking_uri
from pdiff.tracking.sync import sync

DAMAGED = re.compile("not a database|malformed|unable to open|schema|revision|no such")
"""What SQLite, Alembic and MLflow say of a database that is broken or of another version."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit code comes back."""
    parser = argparse.ArgumentParser(prog="python -m pdiff.tracking", description=__doc__)
    known = "sync: log what MLflow lacks; table: compare as Markdown; ui: sync, then serve"
    parser.add_argument("command", choices=("sync", "table", "ui"), help=known)
    parser.add_argument("--port", type=int, default=5000, help="of ui")
    options = parser.parse_args(arguments)
    try:
        if options.command == "table":
            with open_store() as store:
                print(ui.table(store))
            return 0
        if options.command == "ui" and not tracking_uri().startswith("http"):
            ui.check_port(options.port)
        print(f"sync: {sync()}", flush=True)
        return ui.serve(options.port) if options.command == "ui" else 0
    except Exception as error:  # MLflow, its database and its server have dozens of kinds
        why = reason(error)[:300]
        path = tracking_uri().removeprefix("sqlite:///")
        own = path != tracking_uri() and DAMAGED.search(why)
        print(f"error: {why}{f'; delete {path}: sync rebuilds it' * bool(own)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

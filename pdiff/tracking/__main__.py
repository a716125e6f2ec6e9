"""`python -m pdiff.tracking sync | ui | table`: bring MLflow up to date, compare experiments."""

import argparse
import sys

from pdiff.tracking import ui
from pdiff.tracking.store import TrackingError, open_store, tracking_uri
from pdiff.tracking.sync import sync


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
    except (TrackingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

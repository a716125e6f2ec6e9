"""`python -m pdiff.tracking sync | compare | ui`: bring MLflow up to date, compare experiments."""

import argparse
import re
import shutil
import sys

import pandas as pd

from pdiff.system.errors import reason
from pdiff.tracking import comparison, ui
from pdiff.tracking.store import open_store, tracking_uri
from pdiff.tracking.sync import sync

DAMAGED = re.compile("not a database|malformed|unable to open|schema|revision|no such")
"""What SQLite, Alembic and MLflow say of a database that is broken or of another version."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit code comes back."""
    parser = argparse.ArgumentParser(prog="pdiff", description=__doc__)
    known = "sync: log what MLflow lacks; compare: sync, then show a table; ui: sync, then serve"
    parser.add_argument("command", choices=("sync", "compare", "ui"), help=known)
    parser.add_argument("--port", type=int, default=5000, help="of ui")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="of compare")
    form.add_argument("--csv", action="store_true", help="of compare")
    options = parser.parse_args(arguments)
    try:
        if options.command == "ui" and not tracking_uri().startswith("http"):
            ui.check_port(options.port)
        if (news := sync()) or options.command == "sync":
            out = sys.stderr if options.command == "compare" else sys.stdout
            print(f"sync: {news or 'nothing is missing'}", file=out, flush=True)
        if options.command == "compare":
            show_table(options.markdown, options.csv)
        return ui.serve(options.port) if options.command == "ui" else 0
    except Exception as error:  # MLflow, its database and its server have dozens of kinds
        why = reason(error)[:300]
        path = tracking_uri().removeprefix("sqlite:///")
        own = path != tracking_uri() and DAMAGED.search(why)
        print(f"error: {why}{f'; delete {path}: sync rebuilds it' * bool(own)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def show_table(markdown: bool, as_csv: bool) -> None:
    """Print the comparison, newest experiment first."""
    with open_store() as store:
        rows = comparison.rows(store.runs(role="pipeline"))
    if as_csv:
        pd.DataFrame(rows, columns=[*comparison.COLUMNS]).to_csv(sys.stdout, index=False)
    elif markdown:
        print(comparison.as_markdown(rows))
    else:
        width = shutil.get_terminal_size((comparison.WIDTH, 24)).columns
        print(comparison.as_text(rows, max(width, comparison.WIDTH)))
        print(comparison.LEGEND)


if __name__ == "__main__":
    sys.exit(main())

"""The command `pdiff`: the project's programs under one name.

Each is imported when it is called, and has a `--help` of its own.
"""

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from importlib import import_module

import pdiff.system.portable  # noqa: F401 - first, for it must come before torch
from pdiff import outputs
from pdiff.system.paths import root

PROGRAMS = {  # the module whose `main` runs, what comes before the arguments, what it does
    "table": ("pdiff.paper.cli", [], "make a table or figure of the paper; run what is missing"),
    "verdict": ("pdiff.paper.cli", ["verdict"], "judge the paper's claims over whole pipelines"),
    "export": ("pdiff.export.__main__", [], "take a generated model away, with its card"),
    "compare": ("pdiff.tracking.__main__", ["compare"], "show all experiments side by side"),
    "report": ("pdiff.cli", [], "open the report on the last run"),
    "ui": ("pdiff.tracking.__main__", ["ui"], "compare all experiments in MLflow"),
    "sync": ("pdiff.tracking.__main__", ["sync"], "bring MLflow up to date"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of the program that the first argument names."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="pdiff", description="Neural network diffusion.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, _, what) in PROGRAMS.items():
        commands.add_parser(name, help=what, add_help=False)
    command = parser.parse_args(words[:1]).command
    module, first, _ = PROGRAMS[command]
    if not ((root() / "dvc.yaml").is_file() or {"-h", "--help"} & {*words}):
        print(f"error: {root()} is no checkout of p-diff: run this in one", file=sys.stderr)
        return 1
    try:
        program = report if command == "report" else import_module(module).main
    except ModuleNotFoundError as error:
        print(f"error: {error}; the extra `pipeline` of p-diff brings it", file=sys.stderr)
        return 1
    return program([*first, *words[1:]])


def report(arguments: Sequence[str]) -> int:
    """Print where the report lies, and open it where there is a browser."""
    argparse.ArgumentParser(prog="pdiff report", description=report.__doc__).parse_args(arguments)
    path = root() / outputs.AUDIT / "report.html"
    if not path.is_file():
        print(f"error: {path} is missing: `dvc repro` makes it", file=sys.stderr)
        return 1
    print(path, flush=True)
    webbrowser.open(path.as_uri())
    return 0

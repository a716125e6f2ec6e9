"""The command line: say what a table needs, run what is missing, write the table."""

import argparse
import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pdiff import tracking
from pdiff.errors import InputError
from pdiff.paths import root
from pdiff.tables.definitions import SAME_IMAGES, Row, Table, names, table
from pdiff.tables.estimate import Estimate, estimate
from pdiff.tables.experiments import (
    Experiment,
    Library,
    has_dvc,
    make_experiment,
    missing,
    shareable,
)
from pdiff.tables.memory import plan
from pdiff.tables.render import write
from pdiff.tables.results import Measured
from pdiff.tables.runner import run_plain, run_with_dvc

PAPER = ("paper", "cifar100", "resnet18")


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when every cell is there, 3 when some failed, 1 for an error of the user's."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    try:
        return _make(options, arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pdiff.tables", description=__doc__)
    parser.add_argument("table", help=f"one of {', '.join(names())}")
    parser.add_argument("--recipe", default=PAPER[0], help="recipe preset (default: %(default)s)")
    parser.add_argument("--data", help=f"data preset (default: {PAPER[1]}, or the table's own)")
    parser.add_argument("--net", help=f"net preset (default: {PAPER[2]}, or the table's own)")
    parser.add_argument("-S", dest="set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", default="0", help="values of seed.model, such as 0,1,2")
    parser.add_argument("--rows", help="only these rows, by label, separated by semicolons")
    parser.add_argument("--jobs", type=int, default=1, help="experiments at a time")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and how long")
    parser.add_argument("--no-run", action="store_true", help="make the table of what is there")
    parser.add_argument("--plain", action="store_true", help="run plain stages, without DVC")
    parser.add_argument("--any-code", action="store_true", help="take results of other code too")
    parser.add_argument("--full", action="store_true", help="Table 13: measure all that fits here")
    parser.add_argument("--out", type=Path, help="folder of the files (default: below results/)")
    return parser


def _make(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    wanted = table(options.table)
    rows = _chosen(wanted, options)
    cells = [(row, _experiments(row, wanted, options)) for row in rows]
    everything = [experiment for _, experiments in cells for experiment in experiments]
    library = Library(any_code=options.any_code)
    todo = missing(library, everything)
    if wanted.kind == "experiments":
        unique = len({experiment.sha for experiment in everything})
        print(f"{wanted.file}: {unique} experiments, {len(todo)} to run", flush=True)
    if options.dry_run and wanted.kind == "memory":
        print(plan(options.full))
        return 0
    if options.dry_run:
        run = [experiment for experiment in everything if experiment not in todo]
        _print_estimate(todo, run)
        return 0
    failures: dict[str, str] = {}
    if todo and not options.no_run:
        plain = options.plain or not has_dvc()
        failures = run_plain(todo) if plain else run_with_dvc(todo, options.jobs)
        library = Library(any_code=options.any_code)
    measured = [
        Measured(row, experiments, [library.find(e) for e in experiments], failures)
        for row, experiments in cells
    ]
    folder = options.out or _folder(options)
    command = shlex.join(["python", "-m", "pdiff.tables", *_repeatable(arguments)])
    paths, frame = write(wanted, measured, folder, command, options.full)
    print(paths[1].read_text())
    for path in paths:
        print(f"wrote {path}")
    own = (None, None) if wanted.own_cells else PAPER[1:]
    setting = filter(None, (options.recipe, options.data or own[0], options.net or own[1]))
    rounded = frame.round(6).astype(object)
    rows_of_table = rounded.where(frame.notna(), None).to_numpy().tolist()
    tracking.log_table(
        f"{wanted.file} ({', '.join(setting)})", list(frame.columns), rows_of_table, paths
    )
    for sha, reason in failures.items():
        name = next(e.name for e in everything if e.sha == sha)
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 3 if failures else 0


def _chosen(wanted: Table, options: argparse.Namespace) -> list[Row]:
    """The table's rows, or those that --rows, --data and --net leave of it."""
    rows = list(wanted.rows)
    if options.rows:
        labels = [label.strip() for label in options.rows.split(";")]
        unknown = set(labels) - {row.label for row in rows}
        if unknown:
            known = ", ".join(row.label for row in rows)
            raise InputError(f"--rows: unknown {', '.join(sorted(unknown))}; known: {known}")
        rows = [row for row in rows if row.label in labels]
    if wanted.own_cells:
        rows = _cells_of(rows, options)
    return rows


def _cells_of(rows: list[Row], options: argparse.Namespace) -> list[Row]:
    """Tables 1, 2 and 7 with another data set: each of their nets once, on that one."""
    if options.net:
        rows = [row for row in rows if f"net={options.net}" in row.overrides]
    if options.data:
        papers = f"data={SAME_IMAGES.get(options.data, options.data)}"
        own = f"data={options.data}"
        same = [row for row in rows if papers in row.overrides]
        if same:
            rows = [replace(row, overrides=(own, row.overrides[1])) for row in same]
        else:  # a data set that the paper does not have
            by_net = {row.overrides[1]: row.label.split(", ")[1] for row in rows}
            rows = [Row(f"{options.data}, {name}", (own, net)) for net, name in by_net.items()]
    if not rows:
        raise InputError("--data and --net leave no row of this table")
    return rows


def _experiments(row: Row, wanted: Table, options: argparse.Namespace) -> list[Experiment]:
    """One experiment a seed."""
    base = [f"recipe={options.recipe}"]
    if not wanted.own_cells:
        base += [f"data={options.data or PAPER[1]}", f"net={options.net or PAPER[2]}"]
    seeds = options.seeds.split(",")
    if not all(seed.strip().isdecimal() for seed in seeds):
        raise InputError(f"--seeds: {options.seeds!r} is not a list of numbers such as 0,1,2")
    return [
        make_experiment([*base, *row.overrides, *options.set, f"seed.model={seed.strip()}"])
        for seed in seeds
    ]


def _folder(options: argparse.Namespace) -> Path:
    """`results`, and below it a folder for what is not the paper's own setting."""
    data, net = options.data or PAPER[1], options.net or PAPER[2]
    if (options.recipe, data, net) == PAPER and not options.set:
        return root() / "results"
    parts = [options.recipe, options.data, options.net]
    return root() / "results" / "_".join(part for part in parts if part)


def _repeatable(arguments: Sequence[str]) -> list[str]:
    """The arguments that say what is in the table, for whoever wants to make it anew."""
    parts = list(arguments)
    if "--out" in parts:
        place = parts.index("--out")
        del parts[place : place + 2]
    return [shareable(part) for part in parts if part not in ("--no-run", "--any-code")]


def _print_estimate(todo: Sequence[Experiment], done: Sequence[Experiment]) -> None:
    device = (os.environ.get("PDIFF_DEVICE") or _best_device()).partition(":")[0]
    entries = estimate(todo, device, done)
    for experiment in todo:
        print(f"  {experiment.name}: {experiment.command}")
    if not entries:
        return
    print(f"\nestimated on {device}; a stage that several experiments share counts once")
    print(f"{'stage':20} {'runs':>4} {'time':>10} {'memory':>9}  scaled from")
    by_stage: dict[str, list[Estimate]] = {}
    for entry in entries:
        by_stage.setdefault(entry.stage, []).append(entry)
    for stage, parts in by_stage.items():
        seconds = sum(part.seconds for part in parts)
        memory = max(part.memory_mb for part in parts)
        cells = f"{stage:20} {len(parts):4} {_time(seconds):>10} {_gib(memory):>9}"
        print(f"{cells}  {parts[-1].source}")
    total = sum(entry.seconds for entry in entries)
    memory = max(entry.memory_mb for entry in entries)
    print(f"{'all':20} {len(entries):4} {_time(total):>10} {_gib(memory):>9}")
    if any("assumed" in entry.source for entry in entries):
        print(
            f"nothing has been measured on {device} here yet: one small experiment on it makes "
            "this a measured estimate; PDIFF_DEVICE=cpu gives the time on the processor"
        )


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "unknown"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _gib(megabytes: float) -> str:
    return "unknown" if math.isnan(megabytes) else f"{megabytes / 1024:.1f} GiB"

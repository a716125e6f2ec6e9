"""The command line: say what a table needs, run what is missing, write the table."""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from pdiff import tracking
from pdiff.paper.definitions import DEFAULT, Row, Table, names, table
from pdiff.paper.experiments import Experiment, make_experiment, shareable, short_name, telling
from pdiff.paper.fit import RECIPES, write_fit
from pdiff.paper.memory import plan
from pdiff.paper.pipelines import Setting, gather, seed_list, seed_pairs
from pdiff.paper.render import write
from pdiff.paper.results import Measured
from pdiff.paper.runner import complete
from pdiff.paper.verdict import ABLATIONS, write_verdict
from pdiff.system.errors import InputError
from pdiff.system.paths import root

VERDICT, FIT = "verdict", "fit"
PAPER = ("paper", *(override.partition("=")[2] for override in DEFAULT))
SAME_IMAGES = {"cifar10_images": "cifar10"}
"""Presets that read the images of another one from files of another kind."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when every cell is there, 3 when some failed, 1 for an error of the user's."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "pdiff.paper", *repeatable(arguments)])
    make = make_pipelines if options.table in (VERDICT, FIT) else make_table
    try:
        return make(options, command)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pdiff.paper", description=__doc__)
    parser.add_argument("table", help=f"one of {', '.join(names())}, {VERDICT} or {FIT}")
    parser.add_argument("--recipe", default=PAPER[0], help="recipe preset (default: %(default)s)")
    parser.add_argument("--data", help=f"data preset (default: {PAPER[1]}, or the table's own)")
    parser.add_argument("--net", help=f"net preset (default: {PAPER[2]}, or the table's own)")
    parser.add_argument("-S", dest="set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", default="0", help="values of seed.model, such as 0,1,2")
    parser.add_argument("--base-seeds", help="verdict, fit: values of seed.base")
    parser.add_argument("--whole", action="store_true", help="verdict, fit: seed.base = seed.model")
    parser.add_argument("--ablations", action="store_true", help="verdict: run rows 9, 10 too")
    parser.add_argument("--rows", help="only these rows, by label, separated by semicolons")
    parser.add_argument("--jobs", type=int, default=1, help="experiments at a time")
    parser.add_argument("--dry-run", action="store_true", help="say what would run")
    parser.add_argument("--no-run", action="store_true", help="make the table of what is there")
    parser.add_argument("--any-code", action="store_true", help="take results of other code too")
    parser.add_argument("--full", action="store_true", help="Table 13: measure all that fits here")
    parser.add_argument("--out", type=Path, help="folder of the files (default: below results/)")
    return parser


def make_table(options: argparse.Namespace, command: str) -> int:
    """A table or figure of the paper."""
    if options.whole or options.base_seeds or options.ablations:
        raise InputError(f"--whole, --base-seeds and --ablations belong to `{VERDICT}`")
    wanted = table(options.table)
    rows = chosen_rows(wanted, options)
    cells = [_experiments(row, wanted, options) for row in rows]
    asked = [experiment for experiments in cells for experiment in experiments]
    if options.dry_run and wanted.kind == "memory":
        print(plan(options.full))
        return 0
    completed = complete(asked, options, wanted.file)
    if completed is None:
        return 0
    library, failures = completed
    measured = [
        Measured(row, experiments, list(map(library.find, experiments)), failures)
        for row, experiments in zip(rows, cells, strict=True)
    ]
    folder = options.out or result_folder(options)
    paths, frame = write(wanted, measured, folder, command, options.full)
    own = (None, None) if wanted.own_cells else PAPER[1:]
    setting = filter(None, (options.recipe, options.data or own[0], options.net or own[1]))
    return _publish(f"{wanted.file} ({', '.join(setting)})", frame, paths, asked, failures)


def make_pipelines(options: argparse.Namespace, command: str) -> int:
    """The verdict on one setting, or whether its generator fits beside the first version's."""
    if options.rows:
        raise InputError(f"--rows: `{options.table}` has none")
    setting = Setting(*_presets(options), tuple(options.set))
    pairs = seed_pairs(options.seeds, options.base_seeds, options.whole)
    known = RECIPES if options.table == FIT else ("", *ABLATIONS)
    ablations = known if options.table == FIT or options.ablations else ("",)
    asked = [setting.experiment(*pair, name) for pair in pairs for name in ablations]
    completed = complete(asked, options, options.table)
    if completed is None:
        return 0
    library, failures = completed
    found, absent = gather(setting, pairs, known, library, failures)
    write = write_fit if options.table == FIT else write_verdict
    paths, frame = write(setting, found, absent, options.out or root() / "results", command)
    return _publish(f"{options.table} ({setting.title})", frame, paths, asked, failures)


def _presets(options: argparse.Namespace) -> tuple[str, str, str]:
    """Recipe, data set and net, the paper's where none is chosen."""
    return options.recipe, options.data or PAPER[1], options.net or PAPER[2]


def _publish(
    name: str,
    frame: pd.DataFrame,
    paths: Sequence[Path],
    experiments: Sequence[Experiment],
    failures: Mapping[str, str],
) -> int:
    """Print the table, log it, and say what failed; the exit code."""
    print(paths[1].read_text())
    for path in paths:
        print(f"wrote {path}")
    tracking.log_table(name, frame.round(6), paths)
    for sha, reason in failures.items():
        failed = next(e.name for e in experiments if e.sha == sha)
        print(f"failed: {failed}: {reason}", file=sys.stderr)
    return 3 if failures else 0


def repeatable(arguments: Sequence[str]) -> list[str]:
    """The arguments that say what is in the table, for whoever wants to make it anew."""
    parts = list(arguments)
    if "--out" in parts:
        place = parts.index("--out")
        del parts[place : place + 2]
    return [shareable(part) for part in parts if part not in ("--no-run", "--any-code")]


def chosen_rows(wanted: Table, options: argparse.Namespace) -> list[Row]:
    """The table's rows, or those that --rows, --data and --net leave of it."""
    rows = list(wanted.rows)
    if options.rows:
        labels = [label.strip() for label in options.rows.split(";")]
        known = [row.label for row in rows]
        if unknown := sorted(set(labels) - set(known)):
            raise InputError(f"--rows: unknown {', '.join(unknown)}; known: {', '.join(known)}")
        rows = [row for row in rows if row.label in labels]
    return _cells_of(rows, options) if wanted.own_cells else rows


def _cells_of(rows: list[Row], options: argparse.Namespace) -> list[Row]:
    """Tables 1, 2 and 7 with another data set: each of their nets once, on that one."""
    if options.net:
        rows = [row for row in rows if f"net={options.net}" in row.overrides]
    if options.data:
        papers, own = SAME_IMAGES.get(options.data, options.data), f"data={options.data}"
        same = [row for row in rows if f"data={papers}" in row.overrides]
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
        _, data, net = _presets(options)
        base += [f"data={data}", f"net={net}"]
    seeds = [f"seed.model={seed}" for seed in seed_list(options.seeds, "--seeds")]
    return [make_experiment([*base, *row.overrides, *options.set, seed]) for seed in seeds]


def result_folder(options: argparse.Namespace) -> Path:
    """`results`, and below it a folder for what is not the paper's own setting."""
    if _presets(options) == PAPER and not options.set:
        return root() / "results"
    chosen = (options.recipe, options.data or "", options.net or "")
    return root() / "results" / short_name(*chosen, *telling(options.set))

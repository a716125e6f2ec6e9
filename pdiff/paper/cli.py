"""The command line: say what a table needs, run what is missing, write the table."""

import argparse
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from pdiff import tracking
from pdiff.paper.definitions import DEFAULT, Row, Table, label, names, table
from pdiff.paper.experiments import Setting, shareable
from pdiff.paper.fit import RECIPES, write_fit
from pdiff.paper.launch import LAUNCHERS
from pdiff.paper.memory import plan
from pdiff.paper.render import write
from pdiff.paper.results import Measured, Pair
from pdiff.paper.runner import complete
from pdiff.paper.runs import RUNS, write_runs
from pdiff.paper.verdict import ABLATIONS, write_verdict
from pdiff.system.errors import InputError, explained
from pdiff.system.paths import root

VERDICT = "verdict"
WRITE = {
    VERDICT: (write_verdict, ("", *ABLATIONS)),
    "fit": (write_fit, RECIPES),
    "runs": (write_runs, RUNS),
}
"""Tables over whole pipelines: what writes each, and the ablations that it is of."""
PAPER = Setting("paper", *(override.partition("=")[2] for override in DEFAULT))
SAME_IMAGES = {"cifar10_images": "cifar10", "cifar100_images": "cifar100", "mnist_images": "mnist"}
"""Presets that read the images of another one from files of another kind."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when every cell is there, 3 when some failed, 1 for an error of the user's."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "pdiff.paper", *repeatable(arguments)])
    make = make_pipelines if options.table in WRITE else make_table
    try:
        _check(options)
        return make(options, command)
    except Exception as error:
        print(f"error: {explained(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _check(options: argparse.Namespace) -> None:
    """What would fail only after hours, or with no word of the option."""
    if options.jobs is not None and options.jobs < 1:
        raise InputError(f"--jobs: {options.jobs} is less than 1")
    if options.sbatch and options.launcher != "slurm":
        raise InputError(f"--sbatch: belongs to --launcher slurm, not {options.launcher}")
    for text in options.set:
        if not text.partition("=")[0].strip():
            raise InputError(f"-S: {text!r} is not KEY=VALUE")
    for folder in options.results:
        if not next(folder.rglob("dvc.lock"), None):
            raise InputError(f"--results: {folder}: no pipeline below it, that is no dvc.lock")
    if options.out and not options.dry_run:
        try:
            options.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out: {options.out}: {error.strerror}") from None


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pdiff table", description=__doc__)
    parser.add_argument("table", help=f"one of {', '.join([*names(), *WRITE])}")
    parser.add_argument("--recipe", default=PAPER.recipe, help="recipe preset (default: paper)")
    parser.add_argument("--data", help=f"data preset (default: {PAPER.data}, or the table's own)")
    parser.add_argument("--net", help=f"net preset (default: {PAPER.net}, or the table's own)")
    parser.add_argument("-S", dest="set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", default="0", help="values of seed.model, such as 0,1,2")
    parser.add_argument("--base-seeds", help="verdict, fit, runs: values of seed.base")
    parser.add_argument(
        "--whole", action="store_true", help="verdict, fit, runs: seed.base = seed.model"
    )
    parser.add_argument("--ablations", action="store_true", help="verdict: run rows 9, 10 too")
    parser.add_argument("--rows", help="only these rows, by label, separated by semicolons")
    parser.add_argument("--jobs", type=int, help="experiments at a time (local: 1, else all)")
    parser.add_argument(
        "--launcher", choices=["local", *LAUNCHERS], default="local", help="who runs experiments"
    )
    parser.add_argument("--sbatch", default="", help='slurm: as --sbatch="--partition=gpu -t 60"')
    parser.add_argument("--dry-run", action="store_true", help="say what would run")
    parser.add_argument("--no-run", action="store_true", help="make the table of what is there")
    parser.add_argument("--any-code", action="store_true", help="take results of other code too")
    parser.add_argument(
        "--results",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="take pipelines that lie below it too, which ran without DVC (benchmarks.gpu)",
    )
    parser.add_argument("--full", action="store_true", help="Table 13: measure all that fits here")
    parser.add_argument("--out", type=Path, help="folder of the files (default: below results/)")
    return parser


def repeatable(arguments: Sequence[str]) -> list[str]:
    """The arguments that say what is in the table, for whoever wants to make it anew."""
    parts = list(arguments)
    for option in ("--out", "--launcher", "--sbatch"):
        parts = [part for part in parts if not part.startswith(f"{option}=")]
        if option in parts:
            place = parts.index(option)
            del parts[place : place + 2]
    return [shareable(part) for part in parts if part not in ("--no-run", "--any-code")]


def make_table(options: argparse.Namespace, command: str) -> int:
    """A table or figure of the paper."""
    if options.whole or options.base_seeds or options.ablations:
        raise InputError(f"--whole, --base-seeds and --ablations belong to `{VERDICT}`")
    wanted, named = table(options.table), _named(options)
    if options.dry_run and wanted.kind == "memory":
        print(plan(options.full))
        return 0
    seeds = [(f"seed.model={seed}",) for seed in seed_list(options.seeds, "--seeds")]
    chosen, here = chosen_rows(wanted, options), _filled(named)
    if options.rows or options.net:
        chosen = [replace(row, elsewhere=False) for row in chosen]
    elif wanted.zoo and options.data:
        chosen += [replace(row, elsewhere=True) for row in wanted.rows]
    rows = [_measured(row, PAPER if row.elsewhere else here, seeds) for row in chosen]
    asked = [row for row in rows if not row.row.elsewhere]
    if not complete(wanted.file, asked, rows, options):
        return 0
    folder = options.out or result_folder(named)
    paths, frame = write(wanted, rows, folder, command, options.full)
    return _publish(f"{wanted.file} ({named.title})", frame, paths, rows)


def make_pipelines(options: argparse.Namespace, command: str) -> int:
    """A table over whole pipelines of one setting: a key of `WRITE`."""
    if options.rows:
        raise InputError(f"--rows: `{options.table}` has none")
    setting = _filled(_named(options))
    pairs = seed_pairs(options.seeds, options.base_seeds, options.whole)
    seeds = [(f"seed.base={base}", f"seed.model={model}") for base, model in pairs]
    write, ablations = WRITE[options.table]
    names = [Row(name, (f"ablation={name}",) if name else ()) for name in ablations]
    rows = [_measured(row, setting, seeds) for row in names]
    asked = rows[:1] if options.table == VERDICT and not options.ablations else rows
    if not complete(options.table, asked, rows, options):
        return 0
    found = {
        pair: {row.row.label: row.results[i] for row in rows if row.results[i]}
        for i, pair in enumerate(pairs)
    }
    absent = [
        f"{experiment.name}: {row.failures.get(experiment.sha, 'not run')}"
        for row in rows
        for experiment in row.missing
        if not row.row.label or experiment.sha in row.failures
    ]
    paths, frame = write(setting, found, absent, options.out or root() / "results", command)
    return _publish(f"{options.table} ({setting.title})", frame, paths, rows)


def _named(options: argparse.Namespace) -> Setting:
    """The setting as far as the options name it."""
    return Setting(options.recipe, options.data or "", options.net or "", tuple(options.set))


def _filled(named: Setting) -> Setting:
    """The setting with the paper's data set and net where none is named."""
    return replace(named, data=named.data or PAPER.data, net=named.net or PAPER.net)


def _measured(row: Row, setting: Setting, seeds: Iterable[tuple[str, ...]]) -> Measured:
    """The row with an experiment a seed, and no results yet."""
    return Measured(row, [setting.experiment(row.overrides, *seed) for seed in seeds])


def result_folder(named: Setting) -> Path:
    """`results`, and below it a folder for what is not the paper's own setting."""
    results = root() / "results"
    return results if _filled(named) == PAPER else results / named.name


def _publish(
    name: str, frame: pd.DataFrame, paths: Sequence[Path], rows: Iterable[Measured]
) -> int:
    """Print the table, log it, and say what failed; the exit code."""
    print(paths[1].read_text())
    for path in paths:
        print(f"wrote {path}")
    tracking.log_table(name, frame.round(6), paths)
    failed = [
        (e, row.failures[e.sha]) for row in rows for e in row.missing if e.sha in row.failures
    ]
    for experiment, reason in failed:
        print(f"failed: {experiment.name}: {reason}", file=sys.stderr)
    return 3 if failed else 0


def chosen_rows(wanted: Table, options: argparse.Namespace) -> list[Row]:
    """The table's rows, or those that --rows, --data and --net leave of it."""
    zoos = wanted.zoo and options.data
    rows = list(_zoos(wanted, options.data) if zoos else wanted.rows)
    if options.rows:
        labels = [label.strip() for label in options.rows.split(";")]
        known = [row.label for row in rows]
        if unknown := sorted(set(labels) - set(known)):
            raise InputError(f"--rows: unknown {', '.join(unknown)}; known: {', '.join(known)}")
        rows = [row for row in rows if row.label in labels]
    return _cells_of(rows, options, replaced=not zoos) if wanted.own_cells else rows


def _zoos(wanted: Table, data: str) -> Iterator[Row]:
    """A zoo of each net, with the paper's numbers of the same images."""
    paper = next((row.paper for row in wanted.rows if _has_images(row, data)), {})
    for net in wanted.zoo:
        overrides = (f"data={data}", f"net={net}", "checkpoints=zoo")
        yield Row(f"{label('data', data)}, {label('net', net)}, zoo", overrides, paper)


def _cells_of(rows: list[Row], options: argparse.Namespace, *, replaced: bool) -> list[Row]:
    """The rows of --net; if `replaced`, each of their nets once, on the data set of --data."""
    if options.net:
        rows = [row for row in rows if row.preset("net") == options.net]
    if (data := options.data) and replaced:
        away = [row for row in rows if row.elsewhere]
        rows = [row for row in rows if not row.elsewhere]
        same = [row for row in rows if _has_images(row, data)]
        nets = {row.preset("net"): row for row in rows}.values()
        rows = same or [Row(f"{data}, {row.label.split(', ')[1]}", row.overrides) for row in nets]
        rows = away + [row.on(data) for row in rows]
    if not rows:
        raise InputError("--data and --net leave no row of this table")
    return rows


def _has_images(row: Row, data: str) -> bool:
    """Whether the paper's row is of the images of this preset."""
    return row.preset("data") == SAME_IMAGES.get(data, data)


def seed_list(text: str, option: str) -> list[int]:
    """`0,1,2` as numbers, each once; `InputError` for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"{option}: {text!r} is not a list of numbers such as 0,1,2")
    return list(dict.fromkeys(map(int, parts)))


def seed_pairs(models: str, bases: str | None, whole: bool) -> list[Pair]:
    """Whole pipelines have both seeds equal; otherwise each base goes with each model."""
    seeds = seed_list(models, "--seeds")
    if whole and bases:
        raise InputError("--base-seeds: --whole gives each pipeline its own base")
    if whole:
        return [(seed, seed) for seed in seeds]
    return [(base, model) for base in seed_list(bases or "0", "--base-seeds") for model in seeds]

"""Complete a set of experiments: say what would run and how long, run what is missing."""

import argparse
import math
import os
from collections.abc import Mapping, Sequence

import torch

from pdiff.paper.estimate import Estimate, estimate
from pdiff.paper.experiments import Experiment, Library, has_dvc, missing, shareable
from pdiff.paper.runner import run_plain, run_with_dvc
from pdiff.system.errors import InputError


def complete(
    wanted: Sequence[Experiment], options: argparse.Namespace, name: str
) -> tuple[Library, Mapping[str, str]] | None:
    """Run those that have no result; all results, and why some failed by their sha.

    None after a dry run, which only says what would run.
    """
    library = Library(any_code=options.any_code)
    todo = missing(library, wanted)
    unique = len({experiment.sha for experiment in wanted})
    if wanted:
        print(f"{name}: {unique} experiments, {len(todo)} to run", flush=True)
    if options.dry_run:
        print_estimate(todo, [experiment for experiment in wanted if experiment not in todo])
        return None
    if not todo or options.no_run:
        return library, {}
    plain = options.plain or not has_dvc()
    failures = run_plain(todo) if plain else run_with_dvc(todo, options.jobs)
    return Library(any_code=options.any_code), failures


def seed_list(text: str, option: str) -> list[int]:
    """`0,1,2` as numbers; `InputError` for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"{option}: {text!r} is not a list of numbers such as 0,1,2")
    return [int(part) for part in parts]


def repeatable(arguments: Sequence[str]) -> list[str]:
    """The arguments that say what is in the table, for whoever wants to make it anew."""
    parts = list(arguments)
    if "--out" in parts:
        place = parts.index("--out")
        del parts[place : place + 2]
    return [shareable(part) for part in parts if part not in ("--no-run", "--any-code")]


def print_estimate(todo: Sequence[Experiment], done: Sequence[Experiment]) -> None:
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

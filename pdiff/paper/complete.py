"""Complete a set of experiments: say what would run, run what is missing."""

import argparse
import json
from collections.abc import Mapping, Sequence

from pdiff.paper.experiments import Experiment, Library, has_dvc, missing, pipeline, shareable
from pdiff.paper.runner import run_with_dvc
from pdiff.system.errors import InputError
from pdiff.tracking import runs_folder


def complete(
    wanted: Sequence[Experiment], options: argparse.Namespace, name: str
) -> tuple[Library, Mapping[str, str]] | None:
    """Run those that have no result; all results, and why some failed by their sha.

    None after a dry run, which only says what would run.

    Raises:
        InputError: experiments are missing and there is no DVC to run them.
    """
    library = Library(any_code=options.any_code)
    todo = missing(library, wanted)
    unique = len({experiment.sha for experiment in wanted})
    if wanted:
        print(f"{name}: {unique} experiments, {len(todo)} to run", flush=True)
    if options.dry_run:
        print_plan(todo)
        return None
    if not todo or options.no_run:
        return library, {}
    if not has_dvc():
        raise InputError(
            f"{len(todo)} experiments have no result, and without DVC and its repository none can "
            "run: --no-run makes the table of what is there"
        )
    failures = run_with_dvc(todo, options.jobs)
    return Library(any_code=options.any_code), failures


def print_plan(todo: Sequence[Experiment]) -> None:
    """The commands of the experiments, and how long each stage took when it last ran here."""
    for experiment in todo:
        print(f"  {experiment.name}: {experiment.command}")
    if todo:
        print("\nDVC runs the stages whose inputs differ; each took, when it last ran here:")
        times = last_times()
        for stage in pipeline():
            print(f"  {stage:20} {times.get(stage, 'not yet timed')}")


def last_times() -> dict[str, str]:
    """By stage: the seconds of its last run that went well, and which experiment that was."""
    records = [json.loads(path.read_text()) for path in runs_folder().glob("*/*.json")]
    done = [r for r in records if r["status"] == "FINISHED" and "duration_s" in r["timing"]]
    done.sort(key=lambda record: record["started"])
    return {r["stage"]: f"{r['timing']['duration_s']:8.1f} s in {r['key']}" for r in done}


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

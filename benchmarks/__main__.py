"""python -m benchmarks [NAME ...]: run them (all, if none is named) and rewrite their tables."""

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import end_to_end, evaluation, memory, sampling, similarity, start, timing, training

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
BENCHMARKS: dict[str, Callable[[], str]] = {
    "machine": timing.machine,
    "evaluation": evaluation.run,
    "similarity": similarity.run,
    "sampling": sampling.run,
    "training": training.run,
    "memory": memory.run,
    "start": start.run,
    "experiment": end_to_end.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}")
    for name in names:
        start = time.perf_counter()
        text = BENCHMARKS[name]()
        write_section(PAGE, name, text)
        print(f"## {name}, {time.perf_counter() - start:.0f} s\n\n{text}\n", flush=True)


def write_section(page: Path, name: str, text: str) -> None:
    """Replace what stands between the two marks of a section."""
    before = page.read_text()
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    if not pattern.search(before):
        raise ValueError(f"{page} has no section {name}")
    page.write_text(pattern.sub(lambda marks: f"{marks[1]}{text}\n{marks[2]}", before))


if __name__ == "__main__":
    main()

"""Pairs of timings, ours and the plain way in turns, and tables of them."""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch

REPEATS = 5
HEADER = ["what", "ours", "the plain way", "times faster", "how"]
Work = Callable[[], object]


@dataclass(frozen=True)
class Pair:
    """Seconds of ours and of the plain way, one of each per repeat."""

    name: str
    ours: Sequence[float]
    plain: Sequence[float]
    note: str = ""

    def row(self) -> list[str]:
        ratios = [plain / ours for ours, plain in zip(self.ours, self.plain, strict=True)]
        ratio = f"**{statistics.median(ratios):.1f}** ({min(ratios):.1f} to {max(ratios):.1f})"
        return [self.name, spread(self.ours), spread(self.plain), ratio, self.note]


def time_pair(ours: Work, plain: Work, repeats: int = REPEATS) -> tuple[list[float], list[float]]:
    """Seconds of both, in turns, after one run of each that does not count."""
    ours(), plain()
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for seconds, work in zip(found, (ours, plain), strict=True):
            seconds.append(once(work))
    return found


def once(work: Work) -> float:
    """Seconds that one call takes, on a GPU until it is done."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def scaled(seconds: Sequence[float], factor: float) -> list[float]:
    """Extrapolated: the same work `factor` times."""
    return [factor * value for value in seconds]


def spread(seconds: Sequence[float]) -> str:
    """Median, least and most."""
    middle = duration(statistics.median(seconds))
    return f"{middle} ({duration(min(seconds))} to {duration(max(seconds))})"


def duration(seconds: float) -> str:
    for limit, unit, scale in ((1e-3, "us", 1e6), (1.0, "ms", 1e3), (120.0, "s", 1.0)):
        if seconds < limit:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [header, ["-"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    """Processor, threads and versions, in one line."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.is_file():
        models = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return (
        f"{name}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}; "
        f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}."
    )

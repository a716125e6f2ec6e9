"""Pairs of timings, what the machine can do at most, and tables of both."""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from pdiff.core.runtime import get_device

REPEATS = 5
Work = Callable[[], object]


@dataclass(frozen=True)
class Pair:
    """Seconds of ours and of the plain way, one of each per repeat, taken in turns."""

    name: str
    ours: tuple[float, ...]
    plain: tuple[float, ...]
    floor: float | None = None
    """The least time that this machine would need, in seconds."""
    note: str = ""

    def row(self) -> list[str]:
        ratios = [plain / ours for ours, plain in zip(self.ours, self.plain, strict=True)]
        ours = statistics.median(self.ours)
        above = "-" if self.floor is None else f"{ours / self.floor:.2f}"
        return [
            self.name,
            spread(self.ours),
            spread(self.plain),
            f"**{statistics.median(ratios):.1f}** ({min(ratios):.1f} to {max(ratios):.1f})",
            "-" if self.floor is None else duration(self.floor),
            above,
            self.note,
        ]


HEADER = ["what", "ours", "the plain way", "times faster", "floor", "ours / floor", "how"]


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
    _wait()
    start = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def scaled(seconds: Sequence[float], factor: float) -> tuple[float, ...]:
    """Extrapolated: the same work `factor` times."""
    return tuple(factor * value for value in seconds)


@cache
def matmul_peak() -> float:
    """Floating-point operations a second in the best of ten fp32 products of 2048 x 2048."""
    a = torch.randn(2048, 2048, device=get_device())
    out = torch.empty_like(a)
    best = min(once(lambda: torch.mm(a, a, out=out)) for _ in range(10))
    return 2 * 2048**3 / best


@cache
def bandwidth() -> float:
    """Bytes a second, read and written, in the best of ten copies of 256 MiB."""
    source = torch.zeros(2**26, device=get_device())
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(once(lambda: target.copy_(source)) for _ in range(10))


def floor(operations: float, bytes_moved: float = 0.0) -> float:
    """Seconds below which nothing here could be: at the matmul peak, or at full bandwidth."""
    return max(operations / matmul_peak(), bytes_moved / bandwidth())


def linear_fit(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Exponent of the power law through the points (1 is linear), and R2 of the straight line."""
    logs = [torch.tensor(v, dtype=torch.float64).log() for v in (x, y)]
    exponent = statistics.linear_regression(*(v.tolist() for v in logs)).slope
    return exponent, statistics.correlation(x, y) ** 2


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
    """Processor, threads, versions and what was measured of them, in one paragraph."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    import timm

    return (
        f"{name}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}; "
        f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}; "
        f"fp32 matmul {matmul_peak() / 1e9:.0f} GFLOP/s, memory {bandwidth() / 1e9:.1f} GB/s."
    )

"""How fast a stage's loops run: counted where they run, reported with the stage's record.

A speed goes to MLflow only; no output depends on it. What is timed must end with a value that is
read from the device, or a GPU would still be at work.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_done: Counter[str] = Counter()
_seconds: dict[str, float] = {}


@contextmanager
def measured(**counts: int) -> Iterator[None]:
    """Time a block that does `counts` of each unit: `measured(models=200, images=1000)`."""
    start = time.perf_counter()
    yield
    _add(counts, time.perf_counter() - start)


def counted(items: Iterable[T], **each: int) -> Iterator[T]:
    """`items` one by one; each turn of the loop over them does `each` of each unit."""
    for item in items:
        start = time.perf_counter()
        yield item
        _add(each, time.perf_counter() - start)


def _add(counts: dict[str, int], seconds: float) -> None:
    _done.update(counts)
    for unit in counts:
        _seconds[unit] = _seconds.get(unit, 0.0) + seconds


def speeds() -> dict[str, float]:
    """`{unit}_per_s` since the last `reset`."""
    return {f"{unit}_per_s": count / _seconds[unit] for unit, count in _done.items()}


def reset() -> None:
    """Forget what was measured: a new stage begins."""
    _done.clear()
    _seconds.clear()

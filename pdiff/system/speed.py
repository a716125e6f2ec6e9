"""How fast a stage's loops run; only MLflow records it, no output depends on it.

A timed block must end with a value read from the device, or a GPU would still be at work.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_done: Counter[str] = Counter()
_seconds: Counter[str] = Counter()


@contextmanager
def measured(**counts: int) -> Iterator[None]:
    """Time a block that does `counts` of each unit: `measured(models=200, images=1000)`."""
    start = time.perf_counter()
    yield
    _done.update(counts)
    _seconds.update(dict.fromkeys(counts, time.perf_counter() - start))


def counted(items: Iterable[T], **each: int) -> Iterator[T]:
    """Time the loop over `items`; a turn does `each` of each unit."""
    for item in items:
        with measured(**each):
            yield item


def speeds() -> dict[str, float]:
    """`{unit}_per_s` since the last `reset`."""
    return {f"{unit}_per_s": count / _seconds[unit] for unit, count in _done.items()}


def reset() -> None:
    """Forget what was measured: a new stage begins."""
    _done.clear()
    _seconds.clear()

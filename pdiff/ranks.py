"""Which one of several processes this is, and what is its share of the work.

`pdiff.distributed.group` sets `place`; without it a program is the only one and does everything.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """One process among those that share a stage, and among those of them on its machine."""

    rank: int = 0
    processes: int = 1
    local_rank: int = 0
    local_processes: int = 1


place = Place()


def is_first() -> bool:
    """Whether this process is the one that writes files and records."""
    return place.rank == 0


def share(count: int) -> slice:
    """This process's part of `count` things in a row; parts differ in length by one at most."""
    return slice(*(count * rank // place.processes for rank in (place.rank, place.rank + 1)))


def batch_share(size: int) -> slice:
    """This process's images of a training batch.

    Batch norm needs two, so a batch with fewer than two for each goes whole to every process.
    """
    return slice(0, size) if size < 2 * place.processes else share(size)


def batch_weight(size: int) -> float:
    """The weight of this process's mean in the mean over a training batch; they sum to one."""
    own = batch_share(size)
    return 1 / place.processes if size < 2 * place.processes else (own.stop - own.start) / size

"""What the pipeline asks of a task; all between checkpoints and generated models is the same.

A file of this folder is a task: it defines `TASK`, a class derived from `Task`, and is asked for
as `task.name`, the file's name. Nothing else lists the tasks.

Axes: B batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pdiff import tasks
from pdiff.config import BaseConfig, DataConfig, Section, TaskConfig, parse_params
from pdiff.images.batches import ImageSet, Split
from pdiff.system.errors import InputError, nearest

if TYPE_CHECKING:  # what evaluates retrains nothing
    from pdiff.evaluation.predictions import Evaluation

Batch = tuple[Any, ...]
"""What one step trains on; its last part has one entry for each image."""


class Task(ABC):
    """A task with its options, for one image set."""

    Options: ClassVar[type[Section]] = Section
    """The keys of `task.options`."""
    Judging: ClassVar[type[Section]] = Section
    """The keys of `task.judging`, which no method but `check`, `evaluation` and `score` may use."""
    metric: ClassVar[str] = "accuracy"
    """What `score` is called in tables."""
    larger_is_better: ClassVar[bool] = True

    def __init__(self, config: TaskConfig, data: DataConfig) -> None:
        """Raises `InputError` for options that the task does not have."""
        self.data, self.options = data, parse_params(config.options, "task.options", self.Options)
        self.judging = parse_params(config.judging, "task.judging", self.Judging)

    @abstractmethod
    def check(self, base: BaseConfig) -> None:
        """Raise `InputError` for what cannot work, before any image is read."""

    @abstractmethod
    def start(self, base: BaseConfig, checkpoints: list[Path]) -> nn.Module:
        """The net as it starts, on the CPU, which takes the images; `InputError` if it cannot.

        `checkpoints` are the state dicts that the user gives, if any.
        """

    @abstractmethod
    def read(self, generator: torch.Generator) -> ImageSet:
        """The three splits; `InputError` for files that are missing or broken."""

    @abstractmethod
    def build(self, name: str, classes: int, size: int, **options: bool | Path | None) -> nn.Module:
        """The net of that name; options and errors as `pdiff.nets.registry.build_net`."""

    @abstractmethod
    def batches(self, split: Split, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One pass over a split in random order, as training sees it."""

    @abstractmethod
    def loss(self, net: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """What base training and fine-tuning minimise."""

    @abstractmethod
    def score(self, net: nn.Module, split: Split, batch_size: int) -> float:
        """The task's `metric` of the whole net on a split, in eval mode."""

    def chance(self, split: Split) -> float:
        """What a net reaches that has learned nothing."""
        return 0.0

    @abstractmethod
    def evaluation(
        self, net: nn.Module, names: Sequence[str], images: ImageSet, sizes: tuple[int, int]
    ) -> "Evaluation":
        """What evaluates models that differ from `net` in the parameters `names`.

        `sizes` are `evaluate.batch_size` and `.boundary_mib`.
        """


def make_task(config: TaskConfig, data: DataConfig) -> Task:
    """The task of that name; `InputError` lists those that there are."""
    name = config.name
    known = sorted({m.name for m in iter_modules(tasks.__path__)} - {"registry"})
    if name not in known:
        hint = nearest(name, known)
        raise InputError(f"task.name: unknown {name!r}; known: {', '.join(known)}{hint}")
    return import_module(f"pdiff.tasks.{name}").TASK(config, data)

"""Whether the ways to save memory train the same net: five steps beside the plain way's."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from tqdm import tqdm

from pdiff.core.runtime import get_device
from pdiff.paper.training_memory import Start, Training

STEPS = 5


@dataclass(frozen=True)
class Check:
    """One comparison, of batches of `batch` vectors; micro-batches are of `micro_batch`."""

    length: int
    latent: int
    batch: int
    micro_batch: int
    dtype: torch.dtype

    def describe(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return f"{self.length:,} parameters, batch {self.batch}, {name}"


CHECKS = (
    Check(2048, 128, 50, 5, torch.float32),
    Check(2048, 128, 4, 2, torch.float64),
    Check(30_016, 256, 2, 1, torch.float32),
)


def exactness(values: Mapping[str, Any]) -> list[str]:
    """A line for each check and way; `values` is the autoencoder's section of `params.yaml`."""
    return [
        f"{check.describe()}, {way}: {difference:.1e}"
        for check in tqdm(CHECKS, "exactness", unit="check", disable=None)
        for way, difference in differences(check, values).items()
    ]


def differences(check: Check, values: Mapping[str, Any]) -> dict[str, float]:
    """The largest relative difference from the plain way over `STEPS` steps of the optimiser.

    Of the loss, and of the gradient of all parameters as one vector.
    """
    plain = dict(values) | {"latent_dim": check.latent, "batch_size": check.batch}
    ways = {
        "checkpointing": {"checkpointing": True},
        f"micro_batch {check.micro_batch}": {"micro_batch": check.micro_batch},
    }
    training = Training("autoencoder", check.length, plain)
    with _default_dtype(check.dtype):
        first = _start(training)
        others = {way: _start(replace(training, values=plain | v)) for way, v in ways.items()}
        largest = dict.fromkeys(ways, 0.0)
        for _ in range(STEPS):
            expected = _step(first)
            for way, other in others.items():
                pairs = zip(_step(other), expected, strict=True)
                found = [((a - b).norm() / b.norm()).item() for a, b in pairs]
                largest[way] = max(largest[way], *found)
    return largest


def _start(training: Training) -> Start:
    """With the same weights, data and noise each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return training.start(get_device(), "float32")


def _step(start: Start) -> tuple[Tensor, Tensor]:
    """Loss and gradient."""
    loss = start.step()
    parameters = [p for group in start.optimizer.param_groups for p in group["params"]]
    return loss, parameters_to_vector([p.grad for p in parameters])


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)

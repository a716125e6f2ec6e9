"""The optimisation loop that the autoencoder and the denoiser share.

AdamW with a cosine rate down to 0, as in the authors' code, or Adafactor, whose state is small, on
random batches that the caller draws. All randomness comes from one generator and the whole state
can be saved between two steps, so on the CPU the same seed gives the same weights, interrupted or
not. On a GPU the order of floating-point sums is not fixed, so there the weights are equal only to
rounding.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from pdiff.system.errors import InputError
from pdiff.system.speed import counted

MAX_LOGGED = 500  # points in a logged curve
SGD_MOMENTUM = 0.9

OptimizerName = Literal["adamw", "adafactor"]
Log = Callable[[dict[str, float], int], None]
Net = TypeVar("Net", bound=nn.Module)


@runtime_checkable
class Resume(Protocol):
    """Keeps the state of a training between two runs of the program."""

    def load(self) -> dict[str, Any] | None:
        """The last saved state, None if there is none."""

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save `state()` if enough time has passed since the last save."""


def seeded(make: Callable[[], Net], generator: torch.Generator) -> Net:
    """`make()` with initial weights that depend on `generator` only; the global RNG is left alone.

    Weights are drawn on the CPU, where `make` must leave them.
    """
    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device).item()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        return make()


def seed_global(generator: torch.Generator) -> None:
    """Seed what draws from torch's global generator: dropout and drop path."""
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    torch.manual_seed(seed.item())


def check_finite(rows: Float[Tensor, "K D"], name: str) -> None:
    """Raise `InputError` if any of the K rows holds a NaN or an infinity."""
    bad = (~rows.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise InputError(f"{name}: {len(bad)} of {len(rows)} rows are not finite: {bad[:10]}")


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 autocast on CUDA as in the authors' code, full precision elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def make_optimizer(
    name: str, parameters: Iterable[Tensor], lr: float, weight_decay: float
) -> Optimizer:
    """`sgd` (momentum 0.9), `adam`, `adamw` or `adafactor`, with torch's other defaults.

    Adam and AdamW hold two numbers for each weight. They are fused: the square root is then the
    processor's own, while torch's differs between makers. Adafactor holds one number for each row
    and column; its rate is relative to the size of each tensor (Shazeer and Stern 2018, arXiv
    1804.04235). None makes temporary copies of all weights.
    """
    kind, options = {
        "sgd": (SGD, {"momentum": SGD_MOMENTUM}),
        "adam": (Adam, {"fused": True}),
        "adamw": (AdamW, {"fused": True}),
        "adafactor": (Adafactor, {"foreach": False}),
    }[name]
    return kind(parameters, lr=lr, weight_decay=weight_decay, **options)


def train_step(
    optimizer: Optimizer, batch_loss: Callable[[], Float[Tensor, ""]]
) -> Float[Tensor, ""]:
    """One step down `batch_loss()`; returns its value."""
    optimizer.zero_grad()
    loss = batch_loss()
    loss.backward()
    optimizer.step()
    return loss.detach()


def optimise(
    model: nn.Module,
    batch_loss: Callable[[], Float[Tensor, ""]],
    *,
    optimizer_name: OptimizerName = "adamw",
    steps: int,
    lr: float,
    weight_decay: float,
    generator: torch.Generator,
    log: Log,
    resume: Resume | None,
    name: str,
    ema: float = 0.0,
) -> None:
    """Minimise `batch_loss()`, a fresh batch's loss each time; leave `model` in eval mode.

    Step i of `steps` has the rate lr (1 + cos(pi i / steps)) / 2. `batch_loss` draws from
    `generator` alone. `log` gets loss and rate some 500 times at most; a resumed training logs the
    points from before the interruption again. A loss that is not finite raises `InputError`.

    With `ema` above 0 the model ends with the exponential average of its weights and running
    statistics, which keeps at step i the share min(ema, i / (i + 9)) of itself.
    """
    model.train()
    optimizer = make_optimizer(optimizer_name, model.parameters(), lr, weight_decay)
    average = AveragedModel(model, avg_fn=_moving(ema), use_buffers=True) if ema else None
    start, curve = 0, []  # curve: [step, loss, rate]
    if resume is not None and (state := resume.load()) is not None:
        start, curve = int(state["step"]), list(state["curve"])
        _set_state(state, model, optimizer, generator)
        if average is not None:
            average.load_state_dict(state["average"])
    for step, loss_value, rate in curve:
        log({"loss": loss_value, "lr": rate}, int(step))

    every = math.ceil(steps / MAX_LOGGED)
    bar = tqdm(range(start, steps), name, steps, initial=start, unit="step", disable=None)
    for step in counted(bar, steps=1):
        rate = lr * (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = train_step(optimizer, batch_loss)
        if average is not None:
            average.update_parameters(model)
        if step % every == 0 or step == steps - 1:  # reading the loss makes the CPU wait for a GPU
            value = loss.item()
            if not math.isfinite(value):
                raise InputError(f"{name}: loss is {value} at step {step}; lower the rate ({lr:g})")
            bar.set_postfix(loss=f"{value:.4g}", refresh=False)
            log({"loss": value, "lr": rate}, step)
            curve.append([step, value, rate])
        if resume is not None:
            done = step + 1
            averaged = {} if average is None else {"average": average.state_dict()}
            resume.save(
                lambda done=done, averaged=averaged: (
                    _state(done, curve, model, optimizer, generator) | averaged
                )
            )
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    model.eval()


def _moving(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """How an average takes in new values after `count` others, as `AveragedModel` wants it."""

    def update(average: Tensor, value: Tensor, count: Tensor | int) -> Tensor:
        kept = min(decay, int(count) / (int(count) + 9))
        return average + (1 - kept) * (value - average) if value.is_floating_point() else value

    return update


def _state(
    step: int,
    curve: list[list[int | float]],
    model: nn.Module,
    optimizer: Optimizer,
    generator: torch.Generator,
) -> dict[str, Any]:
    """All that the next step depends on, as dicts with string keys, lists, numbers and tensors."""
    moments = optimizer.state_dict()["state"]  # one dict of tensors per parameter, in order
    return {
        "step": step,
        "curve": curve,
        "model": model.state_dict(),
        "optimizer": [moments[i] for i in range(len(moments))],
        "generator": generator.get_state(),
    }


def _set_state(
    state: dict[str, Any],
    model: nn.Module,
    optimizer: Optimizer,
    generator: torch.Generator,
) -> None:
    model.load_state_dict(state["model"])
    groups = optimizer.state_dict()["param_groups"]
    moments = dict(enumerate(state["optimizer"]))
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    generator.set_state(state["generator"].cpu())

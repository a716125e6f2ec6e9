"""The optimisation loop that the autoencoder and the denoiser share.

All randomness comes from one generator, and the whole state can be saved between two steps. So on
the CPU the same seed gives the same weights, interrupted or not; on a GPU they are equal only to
rounding, since the order of sums is not fixed.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from pdiff.system.errors import InputError
from pdiff.system.progress import tqdm
from pdiff.system.resume import Checkpointer
from pdiff.system.speed import counted

MAX_LOGGED = 500  # points in a logged curve

Log = Callable[[dict[str, float], int], None]
Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Recipe:
    """How `optimise` trains."""

    steps: int
    lr: float
    weight_decay: float
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    ema: float = 0.0
    """Above 0 the model ends as the exponential average of its weights and running statistics,
    which keeps the share min(ema, i / (i + 9)) of itself at step i."""


def draw_seed(generator: torch.Generator) -> int:
    """A seed for another generator, such as torch's global one, which dropout draws from."""
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


def seeded(make: Callable[[], Net], generator: torch.Generator) -> Net:
    """`make()` with initial weights that depend on `generator` only; the global RNG is left alone.

    `make` must draw the weights on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(draw_seed(generator))
        return make()


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

    Adam and AdamW are fused: the square root is then the processor's own, while torch's differs
    between makers. Adafactor keeps one number for each row and column, and its rate is relative
    to the size of each tensor (Shazeer and Stern 2018, arXiv 1804.04235).
    """
    kind, options = {
        "sgd": (SGD, {"momentum": 0.9}),
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
    recipe: Recipe,
    generator: torch.Generator,
    log: Log,
    resume: Checkpointer | None,
    name: str,
) -> None:
    """Minimise `batch_loss()`, a fresh batch's loss each time; leave `model` in eval mode.

    Step i of `steps` has the rate lr (1 + cos(pi i / steps)) / 2. `batch_loss` draws from
    `generator` alone. `log` gets loss and rate some 500 times; a resumed training logs its earlier
    points again. A loss that is not finite raises `InputError`.
    """
    model.train()
    steps, lr, ema = recipe.steps, recipe.lr, recipe.ema
    optimizer = make_optimizer(recipe.optimizer, model.parameters(), lr, recipe.weight_decay)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer}
    if ema:
        update = _moving(ema, lambda: progress["step"])
        parts["average"] = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    progress = load_progress(resume, parts, generator) or {"step": 0, "curve": []}
    for step, loss_value, rate in progress["curve"]:
        log({"loss": loss_value, "lr": rate}, step)

    start, every = progress["step"], math.ceil(steps / MAX_LOGGED)
    bar = tqdm(range(start, steps), name, steps, initial=start, unit="step", disable=None)
    for step in counted(bar, steps=1):
        rate = lr * (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = train_step(optimizer, batch_loss)
        if ema:
            parts["average"].update_parameters(model)
        if step % every == 0 or step == steps - 1:  # reading the loss makes the CPU wait for a GPU
            value = loss.item()
            if not math.isfinite(value):
                raise InputError(f"{name}: loss is {value} at step {step}; lower the rate ({lr:g})")
            bar.set_postfix(loss=f"{value:.4g}", refresh=False)
            log({"loss": value, "lr": rate}, step)
            progress["curve"].append([step, value, rate])
        progress["step"] = step + 1
        save_progress(resume, parts, generator, progress)
    if ema:
        model.load_state_dict(parts["average"].module.state_dict())
    model.eval()


def _moving(decay: float, step: Callable[[], int]) -> Callable[..., None]:
    """How an average takes in new values after `step()` others, as `AveragedModel` wants it.

    The count that it gives would make the CPU wait for a GPU.
    """

    def update(averages: Sequence[Tensor], values: Sequence[Tensor], _count: object) -> None:
        kept = min(decay, step() / (step() + 9))
        for average, value in zip(averages, values, strict=True):
            moves = value.is_floating_point()
            average.copy_(average + (1 - kept) * (value - average) if moves else value)

    return update


def load_progress(
    resume: Checkpointer | None, parts: Mapping[str, Any], generator: torch.Generator
) -> dict[str, Any] | None:
    """Bring parts and generator back to the last save; its progress, None if nothing was saved."""
    if resume is None or (state := resume.load()) is None:
        return None
    for name, part in parts.items():
        part.load_state_dict(state[name])
    generator.set_state(state["generator"].cpu())
    return state["progress"]


def save_progress(
    resume: Checkpointer | None,
    parts: Mapping[str, Any],
    generator: torch.Generator,
    progress: dict[str, Any],
) -> None:
    """Save all that the next step depends on, if `resume` finds that it is time."""
    if resume is not None:
        resume.save(
            lambda: {
                **{name: part.state_dict() for name, part in parts.items()},
                "generator": generator.get_state(),
                "progress": progress,
            }
        )

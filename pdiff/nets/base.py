"""The base net: its training, and how accurate it is (paper, Section 2.3).

Axes: N images, B batch.
"""

import math
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from pdiff.config import BaseConfig, DataConfig
from pdiff.core.optimise import (
    Log,
    draw_seed,
    load_progress,
    make_optimizer,
    save_progress,
    train_step,
)
from pdiff.images.batches import EvaluationBatches, ImageSet, Split
from pdiff.system.errors import InputError
from pdiff.system.progress import tqdm
from pdiff.system.resume import Checkpointer
from pdiff.system.speed import measured


@runtime_checkable
class Objective(Protocol):
    """What training asks of a task (`pdiff.tasks`)."""

    metric: str
    larger_is_better: bool

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator
    ) -> Iterator[tuple[Any, ...]]: ...

    def loss(self, net: nn.Module, batch: tuple[Any, ...]) -> Float[Tensor, ""]: ...

    def score(self, net: nn.Module, split: Split, batch_size: int) -> float: ...


def train_base(
    net: nn.Module,
    images: ImageSet,
    task: Objective,
    config: BaseConfig,
    generator: torch.Generator,
    log: Log,
    resume: Checkpointer | None = None,
) -> tuple[float, dict[str, Tensor]]:
    """Train all of `net` and leave it at its first best validation epoch.

    fp32, the rate on a cosine to 0 stepped per epoch, as in the authors' code.

    Returns:
        That epoch's score on the validation split, and each parameter of one axis (norms and
        biases) from the start to the last epoch, (E + 1, length).
    """
    vectors = {name: value for name, value in net.named_parameters() if value.ndim == 1}
    if config.epochs == 0:
        score = task.score(net, images.validation, config.batch_size)
        return score, {name: value[None] for name, value in vectors.items()}
    optimizer = make_optimizer(config.optimizer, net.parameters(), config.lr, config.weight_decay)
    schedule = CosineAnnealingLR(optimizer, T_max=config.epochs)
    parts = {"net": net, "optimizer": optimizer, "schedule": schedule}
    progress = load_progress(resume, parts, generator)
    if not progress:
        epochs = {name: [value.detach().cpu().clone()] for name, value in vectors.items()}
        progress = {"best": None, "best_state": {}, "curve": [], "epochs": epochs}
    for epoch, metrics in enumerate(progress["curve"]):
        log(metrics, epoch)

    start = len(progress["curve"])
    bar = tqdm(
        range(start, config.epochs), "train base", config.epochs, initial=start, disable=None
    )
    for epoch in bar:
        with measured(images=len(images.train)):
            loss = _epoch(net, images.train, task, config.batch_size, optimizer, generator)
        schedule.step()
        score, best = task.score(net, images.validation, config.batch_size), progress["best"]
        if best is None or (score > best if task.larger_is_better else score < best):
            progress["best"] = score
            progress["best_state"] = {k: v.clone() for k, v in net.state_dict().items()}
        for name, value in vectors.items():
            progress["epochs"][name].append(value.detach().cpu().clone())
        progress["curve"].append({"loss": loss, f"validation_{task.metric}": score})
        log(progress["curve"][-1], epoch)
        bar.set_postfix({"loss": f"{loss:.3f}", task.metric: f"{score:.3f}"})
        save_progress(resume, parts, generator, progress)
    net.load_state_dict(progress["best_state"])
    return progress["best"], {k: torch.stack(values) for k, values in progress["epochs"].items()}


def _epoch(
    net: nn.Module,
    split: Split,
    task: Objective,
    batch_size: int,
    optimizer: Optimizer,
    generator: torch.Generator,
) -> float:
    """One pass over the training images; the mean loss."""
    torch.manual_seed(draw_seed(generator))  # of dropout and drop path
    net.train()
    total, count = torch.zeros((), device=split.labels.device), 0
    for batch in task.batches(split, batch_size, generator):
        loss = train_step(optimizer, lambda batch=batch: task.loss(net, batch))
        total += loss * len(batch[-1])
        count += len(batch[-1])
    return finite(total.item() / count, "base")


def finite(loss: float, section: str) -> float:
    """The loss; `InputError` that names the section's rate if it is NaN or infinite."""
    if not math.isfinite(loss):
        raise InputError(f"{section}.lr: the loss became {loss}; a smaller rate is needed")
    return loss


@torch.inference_mode()
def measure_accuracy(net: nn.Module, split: Split, data: DataConfig, batch_size: int) -> float:
    """Share of the split's images that `net` classifies rightly, in eval mode.

    `InputError` if its logits of an image are not finite.
    """
    net.eval()
    classes = []
    for images in EvaluationBatches(split, data, batch_size):
        logits = net(images)
        classes.append(torch.where(logits.isfinite().all(1), logits.argmax(1), -1))
    predicted = torch.cat(classes)
    if unknown := (predicted < 0).sum().item():
        raise InputError(
            f"base.net: the base net's logits are not finite on {unknown} of {len(split)} images; "
            "it needs other weights, or a smaller base.lr"
        )
    return (predicted == split.labels).float().mean().item()

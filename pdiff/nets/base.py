"""The base net: its training, and how accurate it is (paper, Section 2.3).

Axes: N images, B batch.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from tqdm import tqdm

from pdiff.config import BaseConfig, DataConfig
from pdiff.core.optimise import Log, Resume, make_optimizer, seed_global, train_step
from pdiff.images.batches import EvaluationBatches, ImageSet, Split, batch_sizes, training_batches
from pdiff.system.errors import InputError
from pdiff.system.speed import measured


def train_base(
    net: nn.Module,
    images: ImageSet,
    data: DataConfig,
    config: BaseConfig,
    generator: torch.Generator,
    log: Log,
    resume: Resume | None = None,
) -> float:
    """Train all of `net` and leave it at its best validation epoch; return that accuracy.

    fp32, cross entropy, the rate on a cosine to 0 stepped per epoch, as in the authors' code.
    Of epochs that are equally good the first is kept; no epoch leaves the net as it is.
    """
    if config.epochs == 0:
        return measure_accuracy(net, images.validation, data, config.batch_size)
    optimizer = make_optimizer(config.optimizer, net.parameters(), config.lr, config.weight_decay)
    schedule = CosineAnnealingLR(optimizer, T_max=config.epochs)
    progress: dict[str, Any] = {"epoch": 0, "best": -1.0, "best_state": {}, "curve": []}
    parts = {"net": net, "optimizer": optimizer, "schedule": schedule}
    if resume is not None and (saved := resume.load()) is not None:
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        generator.set_state(saved["generator"].cpu())
        progress = saved["progress"]
        for epoch, metrics in enumerate(progress["curve"]):
            log(metrics, epoch)

    def state() -> dict[str, Any]:
        states = {name: part.state_dict() for name, part in parts.items()}
        return {**states, "generator": generator.get_state(), "progress": progress}

    start = progress["epoch"]
    with tqdm(total=config.epochs, initial=start, desc="train base", disable=None) as bar:
        for epoch in range(start, config.epochs):
            with measured(images=len(images.train)):
                loss = _epoch(net, images.train, data, config.batch_size, optimizer, generator)
            schedule.step()
            accuracy = measure_accuracy(net, images.validation, data, config.batch_size)
            if accuracy > progress["best"]:
                progress["best"] = accuracy
                progress["best_state"] = {k: v.clone() for k, v in net.state_dict().items()}
            progress["epoch"] = epoch + 1
            progress["curve"].append({"loss": loss, "validation_accuracy": accuracy})
            log(progress["curve"][-1], epoch)
            bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}")
            bar.update()
            if resume is not None:
                resume.save(state)
    net.load_state_dict(progress["best_state"])
    return progress["best"]


def _epoch(
    net: nn.Module,
    split: Split,
    data: DataConfig,
    batch_size: int,
    optimizer: Optimizer,
    generator: torch.Generator,
) -> float:
    """One pass over the training images; the mean loss."""
    seed_global(generator)
    net.train()
    batches = training_batches(split, data, batch_size, generator)

    def loss() -> Tensor:
        images, labels = next(batches)
        return functional.cross_entropy(net(images), labels)

    total, sizes = torch.zeros((), device=split.labels.device), batch_sizes(len(split), batch_size)
    for size in sizes:
        total += train_step(optimizer, loss) * size
    return finite(total.item() / sum(sizes), "base")


def finite(loss: float, section: str) -> float:
    """The loss; `InputError` that names the section's rate if it is NaN or infinite."""
    if not math.isfinite(loss):
        raise InputError(f"{section}.lr: the loss became {loss}; a smaller rate is needed")
    return loss


@torch.inference_mode()
def measure_accuracy(net: nn.Module, split: Split, data: DataConfig, batch_size: int) -> float:
    """Share of the split's images that `net` classifies rightly, in eval mode."""
    net.eval()
    batches = EvaluationBatches(split, data, batch_size)
    predicted = torch.cat([split.labels[:0], *(net(images).argmax(1) for images in batches)])
    return (predicted == split.labels).float().mean().item()

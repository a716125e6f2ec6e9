"""The base net and the checkpoints that fine-tuning leaves behind (paper, Section 2.3).

Axes: K checkpoints, D parameters of the subset, N images, B batch.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from tqdm import tqdm

from pdiff.config import BaseConfig, BatchNormMode, DataConfig, FinetuneConfig
from pdiff.core.optimise import Log, Resume
from pdiff.images.batches import (
    EvaluationBatches,
    ImageSet,
    Split,
    batch_sizes,
    training_batches,
)
from pdiff.parameters.subset import Subset
from pdiff.system.errors import InputError
from pdiff.system.speed import counted, measured

SGD_MOMENTUM = 0.9


def make_optimizer(
    name: str, parameters: list[Tensor], lr: float, weight_decay: float
) -> Optimizer:
    """SGD (momentum 0.9), Adam or AdamW with torch's default betas.

    Fused, since then the square root is the processor's own; torch's differs between makers.
    """
    if name == "sgd":
        return SGD(parameters, lr, momentum=SGD_MOMENTUM, weight_decay=weight_decay)
    kind = {"adam": Adam, "adamw": AdamW}[name]
    return kind(parameters, lr, weight_decay=weight_decay, fused=True)


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
    optimizer = make_optimizer(
        config.optimizer, list(net.parameters()), config.lr, config.weight_decay
    )
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
                loss = _train_epoch(
                    net, images.train, data, config.batch_size, optimizer, generator
                )
            schedule.step()
            accuracy = measure_accuracy(net, images.validation, data, config.batch_size)
            if accuracy > progress["best"]:
                progress["best"] = accuracy
                best_state = {key: value.clone() for key, value in net.state_dict().items()}
                progress["best_state"] = best_state
            progress["epoch"] = epoch + 1
            progress["curve"].append({"loss": loss, "validation_accuracy": accuracy})
            log(progress["curve"][-1], epoch)
            bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}")
            bar.update()
            if resume is not None:
                resume.save(state)
    net.load_state_dict(progress["best_state"])
    return progress["best"]


def _train_epoch(
    net: nn.Module,
    split: Split,
    data: DataConfig,
    batch_size: int,
    optimizer: Optimizer,
    generator: torch.Generator,
) -> float:
    """One pass over the training images; the mean loss."""
    _seed_global(generator)
    net.train()
    total, sizes = torch.zeros((), device=split.labels.device), batch_sizes(len(split), batch_size)
    batches = training_batches(split, data, batch_size, generator)
    for (images, labels), size in zip(batches, sizes, strict=True):
        loss = functional.cross_entropy(net(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() * size
    return _finite(total.item() / sum(sizes), "base")


@torch.inference_mode()
def measure_accuracy(net: nn.Module, split: Split, data: DataConfig, batch_size: int) -> float:
    """Share of the split's images that `net` classifies rightly, in eval mode."""
    net.eval()
    batches = EvaluationBatches(split, data, batch_size)
    predicted = torch.cat([split.labels[:0], *(net(images).argmax(1) for images in batches)])
    return (predicted == split.labels).float().mean().item()


def finetune(
    net: nn.Module,
    subset: Subset,
    images: Split,
    data: DataConfig,
    config: FinetuneConfig,
    generator: torch.Generator,
    log: Log,
) -> Iterator[Float[Tensor, " D"]]:
    """Go on training the subset alone, and hand it out after every `save_every` steps.

    The first `save_after` steps leave nothing; then come the K checkpoints and after them those
    that are held back.

    As in the authors' code: bf16 autocast (on cuda), fp32 weights, a batch-norm mode that is
    `config.batch_norm`'s to choose, and running statistics that are not kept: whoever evaluates a
    checkpoint uses the base net's. `net` is changed and of no further use.

    What precedes the first layer of the subset runs without gradient and keeps no activations, in
    every batch-norm mode, since nothing in it requires a gradient.
    """
    parameters = dict(net.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    chosen = [parameters[name].requires_grad_(True) for name in subset.names]
    optimizer = make_optimizer(config.optimizer, chosen, config.lr, config.weight_decay)
    schedule = CosineAnnealingLR(optimizer, T_max=config.steps, eta_min=config.lr_end)
    _seed_global(generator)
    batches = _endless(images, data, config.batch_size, generator)
    steps = config.save_after + (config.checkpoints + config.held_back) * config.save_every
    with tqdm(total=steps, desc="finetune", disable=None) as bar:
        for step in counted(range(1, steps + 1), steps=1, images=config.batch_size):
            net.train(_uses_batch_statistics(config.batch_norm, step))
            loss = _finetune_loss(net, *next(batches))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if step <= config.steps:
                schedule.step()
            if step % 10 == 0 or step == 1:
                value = _finite(loss.item(), "finetune")
                log({"loss": value, "lr": optimizer.param_groups[0]["lr"]}, step)
                bar.set_postfix(loss=f"{value:.3f}")
            bar.update()
            since = step - config.save_after
            if since > 0 and since % config.save_every == 0:
                yield torch.cat([tensor.detach().flatten() for tensor in chosen])


def _finetune_loss(
    net: nn.Module, images: Float[Tensor, "B C S S"], labels: Int64[Tensor, " B"]
) -> Float[Tensor, ""]:
    on_cuda = images.device.type == "cuda"
    with torch.autocast("cuda", torch.bfloat16) if on_cuda else nullcontext():
        return functional.cross_entropy(net(images), labels)


def _uses_batch_statistics(mode: BatchNormMode, step: int) -> bool:
    first_steps = {"train": step, "eval": 0, "eval_after_1": 1, "eval_after_2": 2}
    return step <= first_steps[mode]


def _endless(
    split: Split, data: DataConfig, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from training_batches(split, data, batch_size, generator)


def _seed_global(generator: torch.Generator) -> None:
    """Seed what draws from torch's global generator: dropout and drop path."""
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    torch.manual_seed(seed.item())


def _finite(loss: float, section: str) -> float:
    if not math.isfinite(loss):
        raise InputError(f"{section}.lr: the loss became {loss}; a smaller rate is needed")
    return loss

"""The checkpoints: the subset of a trained net after steps of fine-tuning (paper, Section 2.3).

Axes: D parameters of the subset, B batch.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, count

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from pdiff.config import FinetuneConfig
from pdiff.core.optimise import Log, autocast, draw_seed, make_optimizer, train_step
from pdiff.images.batches import Split
from pdiff.nets.base import Objective, finite
from pdiff.parameters.subset import Subset, spread_evenly
from pdiff.system.progress import tqdm
from pdiff.system.speed import counted


def finetune_runs(
    net: nn.Module,
    subset: Subset,
    images: Split,
    task: Objective,
    config: FinetuneConfig,
    generators: Sequence[torch.Generator],
    log: Log,
) -> Iterator[Float[Tensor, " D"]]:
    """An equal share of the K checkpoints from each of several runs of the same net, run by run.

    A share is spread evenly over its run. What is held back follows the last run. The curves that
    `log` gets follow each other too.
    """
    length = config.checkpoints_of_a_run
    share = set(spread_evenly(length, config.checkpoints // len(generators)))
    for run, generator in enumerate(generators):
        held_back = config.held_back if run == len(generators) - 1 else 0
        alone = config.model_copy(update={"checkpoints": length, "held_back": held_back})
        first = run * (config.save_after + length * config.save_every)

        def log_after(metrics: dict[str, float], step: int, first: int = first) -> None:
            log(metrics, first + step)

        rows = finetune(copy.deepcopy(net), subset, images, task, alone, generator, log_after)
        yield from (row for index, row in enumerate(rows) if index in share or index >= length)


def finetune(
    net: nn.Module,
    subset: Subset,
    images: Split,
    task: Objective,
    config: FinetuneConfig,
    generator: torch.Generator,
    log: Log,
) -> Iterator[Float[Tensor, " D"]]:
    """Go on training the subset alone, and hand it out after every `save_every` steps.

    The first `save_after` steps leave nothing. Then come the K checkpoints, and after them those
    that are held back. As in the authors' code: bf16 autocast on cuda, fp32 weights, and running
    statistics that are not kept: evaluation uses the base net's. `net` is of no further use.
    """
    net.to(memory_format=torch.channels_last)  # convolutions run forward in 0.6 of the time
    parameters = dict(net.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    chosen = [parameters[name].requires_grad_(True) for name in subset.names]
    torch.manual_seed(draw_seed(generator))  # of dropout and drop path
    passes = (task.batches(images, config.batch_size, generator) for _ in count())
    batches = chain.from_iterable(passes)
    first_steps = {"train": math.inf, "eval": 0, "eval_after_1": 1, "eval_after_2": 2}

    def batch_loss(step: int) -> Float[Tensor, ""]:
        net.train(step <= first_steps[config.batch_norm])
        batch = next(batches)
        with autocast(chosen[0].device):
            return task.loss(net, batch)

    steps = config.save_after + (config.checkpoints + config.held_back) * config.save_every
    for _ in checkpoints(chosen, batch_loss, config, steps, log, "finetune"):
        yield torch.cat([tensor.detach().flatten() for tensor in chosen])


def checkpoints(
    parameters: list[Tensor],
    batch_loss: Callable[[int], Float[Tensor, ""]],
    config: FinetuneConfig,
    steps: int,
    log: Log,
    title: str,
    nets: int = 1,
) -> Iterator[None]:
    """Minimise `batch_loss(step)` of steps 1 to `steps`; stop where a checkpoint is to be kept.

    The loss is a sum over `nets`, each with its own batch.
    """
    optimizer = make_optimizer(config.optimizer, parameters, config.lr, config.weight_decay)
    schedule = CosineAnnealingLR(optimizer, T_max=config.steps, eta_min=config.lr_end)
    images = config.batch_size * nets
    with tqdm(total=steps, desc=title, disable=None) as bar:
        for step in counted(range(1, steps + 1), steps=1, images=images):
            loss = train_step(optimizer, partial(batch_loss, step))
            if step <= config.steps:
                schedule.step()
            if step % 10 == 0 or step == 1:
                value = finite(loss.item() / nets, "finetune")
                log({"loss": value, "lr": optimizer.param_groups[0]["lr"]}, step)
                bar.set_postfix(loss=f"{value:.3f}")
            bar.update()
            since = step - config.save_after
            if since > 0 and since % config.save_every == 0:
                yield

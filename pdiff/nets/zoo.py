"""A zoo: many small nets, each trained from new weights of its own, all in one tensor program.

Axes: N nets of one batch of nets, D parameters, B images, S image side.
"""

import copy
from collections.abc import Iterator, Sequence
from itertools import chain, count

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR

from pdiff.config import DataConfig, FinetuneConfig
from pdiff.core.optimise import Log, draw_seed, make_optimizer, train_step
from pdiff.images.batches import Split, training_batches
from pdiff.nets.base import finite
from pdiff.parameters.align import Chain
from pdiff.parameters.subset import Subset
from pdiff.system.errors import InputError
from pdiff.system.progress import tqdm
from pdiff.system.speed import counted

Stacked = dict[str, Tensor]
"""{parameter name: (N, *shape)}."""


def check_zoo(net: nn.Module, subset: Subset, config: FinetuneConfig, size: int) -> None:
    """Raise `InputError` if a zoo of this net cannot be trained, or not be aligned."""
    for name, module in net.named_modules():
        own = list(module.parameters(recurse=False))
        if getattr(module, "running_mean", None) is not None:
            raise InputError(
                f"base.net: {name} keeps running statistics, which a zoo does not; give another net"
            )
        if own and not hasattr(module, "reset_parameters"):
            raise InputError(
                f"base.net: {name or 'the net'} has parameters and no reset_parameters, which "
                "would give each net of the zoo its own start; give another net"
            )
    if config.zoo.align:
        Chain.of(net, subset, size)


def zoo_runs(
    net: nn.Module,
    subset: Subset,
    images: Split,
    data: DataConfig,
    config: FinetuneConfig,
    generators: Sequence[torch.Generator],
    log: Log,
) -> Iterator[Float[Tensor, " D"]]:
    """All checkpoints of one net a generator, net by net.

    A generator draws a net's first weights and its order of images. With `zoo.align` each
    checkpoint is brought to the order of the neurons of `net`, the base net, which is not changed.
    `log` gets the mean loss of the nets that are trained first.
    """
    check_zoo(net, subset, config, data.size)
    width = config.zoo.at_once
    groups = [generators[start : start + width] for start in range(0, len(generators), width)]
    for index, group in enumerate(groups):
        title = f"zoo, {index + 1} of {len(groups)}"
        own_log = log if index == 0 else _silent
        found = list(_train(copy.deepcopy(net), images, data, config, group, own_log, title))
        yield from _aligned(torch.stack(found, 1).flatten(0, 1), net, subset, data.size, config)


def _silent(*_: object) -> None:
    pass


def _aligned(
    rows: Float[Tensor, "M D"], net: nn.Module, subset: Subset, size: int, config: FinetuneConfig
) -> Iterator[Float[Tensor, " D"]]:
    if not config.zoo.align:
        yield from rows
        return
    layers = Chain.of(net, subset, size)
    base = torch.cat([net.get_parameter(name).detach().flatten() for name in subset.names])
    reference = layers.balanced(base.cpu())
    yield from (layers.aligned(row, reference) for row in rows.cpu())


def new_nets(net: nn.Module, generators: Sequence[torch.Generator]) -> Stacked:
    """First weights of one net a generator, as each layer's `reset_parameters` draws them."""
    starts: list[dict[str, Tensor]] = []
    for generator in generators:
        with torch.random.fork_rng():
            torch.manual_seed(draw_seed(generator))
            for module in net.modules():
                if list(module.parameters(recurse=False)):
                    module.reset_parameters()
        starts.append({name: value.detach().clone() for name, value in net.named_parameters()})
    return {name: torch.stack([own[name] for own in starts]) for name in starts[0]}


def _train(
    net: nn.Module,
    images: Split,
    data: DataConfig,
    config: FinetuneConfig,
    generators: Sequence[torch.Generator],
    log: Log,
    title: str,
) -> Iterator[Float[Tensor, "N D"]]:
    """All nets after every `save_every` steps. The optimisers work on each number by itself."""
    stacked = {k: v.requires_grad_(True) for k, v in new_nets(net, generators).items()}
    optimizer = make_optimizer(
        config.optimizer, list(stacked.values()), config.lr, config.weight_decay
    )
    schedule = CosineAnnealingLR(optimizer, T_max=config.steps, eta_min=config.lr_end)
    streams = [_stream(images, data, config.batch_size, own) for own in generators]
    in_turn = images.labels.device.type == "cpu"
    net.train()
    with tqdm(total=config.steps, desc=title, disable=None) as bar:
        each = config.batch_size * len(streams)
        for step in counted(range(1, config.steps + 1), steps=1, images=each):
            pixels, labels = map(torch.stack, zip(*map(next, streams), strict=True))
            batch = net, stacked, pixels, labels
            loss = train_step(optimizer, lambda b=batch: losses(*b, in_turn=in_turn).sum())
            schedule.step()
            if step % 10 == 0 or step == 1:
                value = finite(loss.item() / len(streams), "finetune")
                log({"loss": value, "lr": optimizer.param_groups[0]["lr"]}, step)
                bar.set_postfix(loss=f"{value:.3f}")
            bar.update()
            since = step - config.save_after
            if since > 0 and since % config.save_every == 0:
                yield torch.cat([value.detach().flatten(1) for value in stacked.values()], 1)


def _stream(
    images: Split, data: DataConfig, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole batches, pass after pass; all nets need batches of one size."""
    passes = (training_batches(images, data, batch_size, generator) for _ in count())
    return (batch for batch in chain.from_iterable(passes) if len(batch[1]) == batch_size)


def losses(
    net: nn.Module,
    stacked: Stacked,
    pixels: Float[Tensor, "N B C S S"],
    labels: Int64[Tensor, "N B"],
    *,
    in_turn: bool,
) -> Float[Tensor, " N"]:
    """Cross entropy of each net on its own batch.

    `in_turn` runs one net after another: grouped convolutions, which `vmap` makes of all nets, take
    1 to 2.5 times as long on a CPU. On a GPU they save its many small kernels.
    """

    def loss(own: Stacked, x: Tensor, y: Tensor) -> Float[Tensor, ""]:
        return functional.cross_entropy(functional_call(net, own, (x,)), y)

    if not in_turn:
        return vmap(loss, randomness="different")(stacked, pixels, labels)
    shape = pixels.shape
    pixels = pixels.flatten(0, 1).contiguous(memory_format=torch.channels_last).view(shape)
    parts = zip(*(value.unbind() for value in stacked.values()), strict=True)
    nets = [dict(zip(stacked, part, strict=True)) for part in parts]
    return torch.stack([loss(*each) for each in zip(nets, pixels, labels, strict=True)])

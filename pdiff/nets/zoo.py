"""A zoo: many small nets, each trained from new weights of its own, all in one tensor program.

Axes: N nets of one batch of nets, D parameters, B images, S image side.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from pdiff.config import FinetuneConfig
from pdiff.core.optimise import Log, draw_seed
from pdiff.images.batches import Split
from pdiff.nets.base import Objective
from pdiff.nets.finetune import checkpoints
from pdiff.parameters.align import Chain
from pdiff.parameters.subset import Rows, Subset
from pdiff.system.errors import InputError

Stacked = dict[str, Tensor]
"""{parameter name: (N, *shape)}."""
Batch = tuple[Tensor, ...]
"""What one net trains on in a step, images first and one label for each of them last."""


def check_zoo(
    net: nn.Module, subset: Subset, config: FinetuneConfig, images: Float[Tensor, "B C S S"]
) -> None:
    """Raise `InputError` if a zoo of this net cannot be trained, or not be aligned.

    Alignment is tried on `images`.
    """
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
        Chain.of(net, subset, images)


def zoo_runs(
    net: nn.Module,
    subset: Subset,
    images: Split,
    task: Objective,
    config: FinetuneConfig,
    generators: Sequence[torch.Generator],
    log: Log,
) -> Iterator[Float[Tensor, " D"]]:
    """All checkpoints of one net a generator, net by net.

    A generator draws a net's first weights and its order of images. `net` is not changed. `log`
    gets the mean loss of the nets that are trained first.
    """
    if config.batch_size > len(images.labels):
        raise InputError(
            f"finetune.batch_size: {config.batch_size} is more than the {len(images.labels)} "
            "training images, and each net of a zoo needs whole batches"
        )
    check_zoo(net, subset, config, _some(images, task))
    width = config.zoo.at_once
    groups = [generators[start : start + width] for start in range(0, len(generators), width)]
    for index, group in enumerate(groups):
        title = f"zoo, {index + 1} of {len(groups)}"
        own_log = log if index == 0 else _silent
        found = list(_train(copy.deepcopy(net), images, task, config, group, own_log, title))
        yield from torch.stack(found, 1).flatten(0, 1)  # net by net


def _some(images: Split, task: Objective) -> Float[Tensor, "B C S S"]:
    generator = torch.Generator(images.labels.device).manual_seed(0)
    return next(task.batches(images, 4, generator))[0]


def _silent(*_: object) -> None:
    pass


def align_zoo(
    rows: Iterable[Float[Tensor, " D"]],
    net: nn.Module,
    subset: Subset,
    images: Split,
    task: Objective,
    known: int | Rows,
) -> Iterator[Float[Tensor, " D"]]:
    """Checkpoints of a zoo with the neurons in one order, which leaves their logits as they are.

    `known` is the number of the first rows whose mean, found from the base net `net` on, gives the
    order; or the aligned checkpoints of another zoo, whose mean gives it.
    """
    layers = Chain.of(net, subset, _some(images, task))
    if isinstance(known, Rows):
        reference = torch.cat([block.double().mean(0) for _, block in known.columns()]).float()
    else:
        rows = [row.cpu() for row in rows]
        base = torch.cat([net.get_parameter(name).detach().flatten() for name in subset.names])
        reference = layers.merged(torch.stack(rows[:known]), base.cpu())
    yield from (layers.aligned(row.cpu(), reference) for row in rows)


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
    task: Objective,
    config: FinetuneConfig,
    generators: Sequence[torch.Generator],
    log: Log,
    title: str,
) -> Iterator[Float[Tensor, "N D"]]:
    """All nets after every `save_every` steps. The optimisers work on each number by itself."""
    stacked = {k: v.requires_grad_(True) for k, v in new_nets(net, generators).items()}
    streams = [_stream(images, task, config.batch_size, own) for own in generators]
    in_turn = images.labels.device.type == "cpu"
    net.train()

    def batch_loss(_step: int) -> Float[Tensor, ""]:
        batches = tuple(map(torch.stack, zip(*map(next, streams), strict=True)))
        return losses(net, task, stacked, batches, in_turn=in_turn).sum()

    values, nets = list(stacked.values()), len(streams)
    for _ in checkpoints(values, batch_loss, config, config.steps, log, title, nets):
        yield torch.cat([value.detach().flatten(1) for value in values], 1)


def _stream(
    images: Split, task: Objective, batch_size: int, generator: torch.Generator
) -> Iterator[Batch]:
    """Whole batches, pass after pass; all nets need batches of one size."""
    passes = (task.batches(images, batch_size, generator) for _ in count())
    return (batch for batch in chain.from_iterable(passes) if len(batch[-1]) == batch_size)


class _Loss(nn.Module):
    """The loss of a net, as a module whose parameters `functional_call` replaces."""

    def __init__(self, net: nn.Module, task: Objective) -> None:
        super().__init__()
        self.net, self._task = net, task

    def forward(self, *batch: Tensor) -> Float[Tensor, ""]:
        return self._task.loss(self.net, batch)


def losses(
    net: nn.Module, task: Objective, stacked: Stacked, batches: Batch, *, in_turn: bool
) -> Float[Tensor, " N"]:
    """The loss of each net on its own batch, of which each tensor of `batches` (N, B, ...) has one.

    `in_turn` runs one net after another: grouped convolutions, which `vmap` makes of all nets, take
    1 to 2.5 times as long on a CPU. On a GPU they save its many small kernels.
    """
    module = _Loss(net, task)

    def loss(own: Stacked, batch: Batch) -> Float[Tensor, ""]:
        return functional_call(module, {f"net.{name}": v for name, v in own.items()}, batch)

    if not in_turn:
        return vmap(loss, randomness="different")(stacked, batches)
    nets = zip(*(value.unbind() for value in stacked.values()), strict=True)
    found = []
    for values, batch in zip(nets, zip(*batches, strict=True), strict=True):
        fast = tuple(  # convolutions run in half of the time
            x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in batch
        )
        found.append(loss(dict(zip(stacked, values, strict=True)), fast))
    return torch.stack(found)

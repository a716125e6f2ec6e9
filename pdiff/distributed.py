"""A stage shared out among processes, one for each GPU or for some cores, started by torchrun.

Every process runs the whole stage, each on its share of the images (`pdiff.ranks`), and what they
find meets here. Gradients are averaged by one all-reduce after the backward pass:
DistributedDataParallel would overlap the two, but weighs shares of different sizes alike.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pdiff import ranks
from pdiff.errors import InputError
from pdiff.runtime import get_device

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for another; if one ends in an error, torchrun ends all at once."""


@contextmanager
def group() -> Iterator[None]:
    """Joined with the other processes that torchrun started; where there are none, nothing.

    Only the first process prints. An error ends all: the first to meet it raises it, and the
    others exit without a word.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    store, rank, processes = next(dist.rendezvous("env://", timeout=TIMEOUT))
    local = (int(os.environ[name]) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    ranks.place = ranks.Place(rank, processes, *local)
    try:
        backend = "cpu:gloo,cuda:nccl" if get_device().type == "cuda" else "gloo"
        dist.init_process_group(
            backend, timeout=TIMEOUT, rank=rank, world_size=processes, store=store
        )
        with _unheard() if rank else nullcontext():
            yield
        dist.destroy_process_group()
    except Exception:
        if store.add("errors", 1) > 1:
            sys.exit(1)
        raise
    finally:
        ranks.place = ranks.Place()


@contextmanager
def _unheard() -> Iterator[None]:
    with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
        yield


def _exchange(collective: Callable, *arguments: Any) -> None:
    try:
        collective(*arguments)
    except RuntimeError as error:  # gloo and NCCL have many kinds
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"another of the stage's processes ended or hangs: {reason}") from None


def gather(part: Tensor) -> Tensor:
    """Every process's part in order of rank, joined along the last axis; all processes get it."""
    if ranks.place.processes == 1:
        return part
    parts: list[Any] = [None] * ranks.place.processes
    _exchange(dist.all_gather_object, parts, part.cpu())
    return torch.cat(parts, -1).to(part.device)


def from_first(value: Any) -> Any:
    """The first process's `value`, in every process."""
    values = [value]
    if ranks.place.processes > 1:
        _exchange(dist.broadcast_object_list, values)
    return values[0]


def average_gradients(net: nn.Module, loss: Float[Tensor, ""], size: int) -> Float[Tensor, ""]:
    """Make the gradients, and the loss, those of a whole batch of `size` images; they were of this
    process's share (`ranks.batch_share`)."""
    if ranks.place.processes > 1:
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        _sum([loss, *gradients], ranks.batch_weight(size))
    return loss


def share_batch_norm(net: nn.Module) -> None:
    """Batch norm over whole batches on a GPU; on the CPU, where torch has none, over shares."""
    if ranks.place.processes > 1 and next(net.parameters()).is_cuda:
        from timm.layers import convert_sync_batchnorm  # slow to import, and rarely needed

        convert_sync_batchnorm(net)


def average_statistics(net: nn.Module) -> None:
    """Make batch norm's running statistics the mean over the processes."""
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    if ranks.place.processes > 1 and norms:
        both = [statistic for norm in norms for statistic in (norm.running_mean, norm.running_var)]
        _sum(both, 1 / ranks.place.processes)


@torch.no_grad()
def _sum(tensors: list[Tensor], weight: float) -> None:
    """Replace tensors by their sums over the processes, each process's with its weight."""
    flat = torch.cat([tensor.flatten() for tensor in tensors]) * weight
    _exchange(dist.all_reduce, flat)
    for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor))

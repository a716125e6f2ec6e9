"""Where and how a stage computes: device, random generators, numerical settings."""

import hashlib
import os

import torch

from pdiff import ranks
from pdiff.errors import InputError


def get_device() -> torch.device:
    """`PDIFF_DEVICE`, or cuda where there is one, else cpu; never part of an output's hash.

    With several processes a machine, `cuda` is a GPU for each.

    Also switches TF32 and cuDNN's benchmark mode off, so that fp32 is fp32 and runs repeat.
    """
    name = os.environ.get("PDIFF_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    if ranks.place.processes > 1:
        name = _own_device(name)
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"PDIFF_DEVICE: {name!r} cannot be used here: {reason}") from None
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    return device


def _own_device(name: str) -> str:
    """This process's device among those of the processes that share a stage."""
    if name.startswith("cuda:"):
        raise InputError(f"PDIFF_DEVICE: {name} is one GPU for several processes; give cuda")
    if name != "cuda":
        return name
    if (needed := ranks.place.local_processes) > (found := torch.cuda.device_count()):
        raise InputError(f"{needed} processes need a GPU each, and there are {found}")
    torch.cuda.set_device(ranks.place.local_rank)  # the one that collectives use
    return f"cuda:{ranks.place.local_rank}"


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed of its own for each (seed, purpose)."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def make_generator(
    seed: int, *purpose: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator for one purpose, mostly a stage's name, independent of all the others."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))

"""Where and how a stage computes: device, random generators, numerical settings."""

import hashlib
import os

import torch

from pdiff.system.errors import InputError, reason


def get_device() -> torch.device:
    """`PDIFF_DEVICE`, or cuda where there is one, else cpu.

    Switches TF32 and cuDNN's benchmark mode off, so that fp32 is fp32 and runs repeat.
    """
    name = os.environ.get("PDIFF_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"PDIFF_DEVICE: {name!r} cannot be used here: {reason(error)}") from None
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    return device


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed of its own for each (seed, purpose)."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def run_generators(
    seed: int, purpose: str, runs: int, device: torch.device
) -> list[torch.Generator]:
    """One generator for each run; the first does not depend on how many there are."""
    parts = [(purpose, run)[: 2 if run else 1] for run in range(runs)]
    return [make_generator(seed, *part, device=device) for part in parts]


def make_generator(
    seed: int, *purpose: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator for one purpose, mostly a stage's name, independent of all the others."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))

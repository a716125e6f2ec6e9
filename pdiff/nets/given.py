"""Checkpoints that somebody else has trained, in place of our own fine-tuning.

Axes: K checkpoints, D parameters of the subset.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pdiff.config import BaseConfig
from pdiff.nets.registry import build_net, check_values, head_classes, read_state
from pdiff.parameters.subset import Subset
from pdiff.system.errors import InputError
from pdiff.system.hub import fetched
from pdiff.system.progress import tqdm

SUFFIXES = (".safetensors", ".pth", ".pt")


def list_checkpoints(folder: Path, count: int, held_back: int = 0) -> list[Path]:
    """The first `count` state dicts of `folder` by name (2 before 10), then `held_back` at most.

    Hidden files are left out: macOS puts `._1.pth` beside `1.pth`.

    Raises:
        InputError: no such folder, or fewer than `count` files.
    """
    if not folder.is_dir():
        raise InputError(
            f"finetune.folder: {str(folder)!r} is not a folder (queued experiments run elsewhere: "
            "give an absolute path)"
        )
    files = (p for p in folder.iterdir() if p.suffix in SUFFIXES and not p.name.startswith("."))
    paths = sorted(files, key=_natural)
    if len(paths) < count:
        raise InputError(
            f"finetune.checkpoints: {count} are wanted, and {folder} holds {len(paths)} files that "
            f"end in {', '.join(SUFFIXES)}"
        )
    return paths[: count + held_back]


def load_checkpoints(paths: list[Path], subset: Subset) -> Iterator[Float[Tensor, " D"]]:
    """The subset's values in each state dict, complete or of the subset alone, one by one.

    Raises:
        InputError: a file does not load safely, or a parameter of the subset is missing there, has
            another shape or is anything but finite floats.
    """
    for path in tqdm(paths, "load checkpoints", disable=None):
        state = read_state(path, "finetune.folder", subset.names)
        for name, shape in subset.shapes.items():
            if name not in state:
                raise InputError(f"finetune.folder: {path} has no {name!r}, which the subset holds")
            if (found := tuple(state[name].shape)) != shape:
                raise InputError(
                    f"finetune.folder: {name!r} has shape {found} in {path}, and {shape} in the net"
                )
            check_values("finetune.folder", path, name, state[name])
        yield torch.cat([state[name].float().flatten() for name in subset.names])


def _natural(path: Path) -> tuple[list[str | int], str]:
    """Digits compare as numbers, and the name itself decides between 1 and 01."""
    parts = re.split(r"([0-9]+)", path.name)
    # text and numbers take turns, so they never meet in a comparison
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


def build_for(config: BaseConfig, size: int, checkpoints: list[Path]) -> tuple[nn.Module, int]:
    """The base net as it starts, and how many classes weights or checkpoints give it, 10 if none.

    The images, which tell the true number, are not read yet.
    """
    weights = fetched(config.weights, "base.weights") if config.weights else None
    net = build_net(config.net, 10, size)
    names = net.state_dict()
    states = [read_state(path, "finetune.folder", names) for path in checkpoints[:1]]
    states += [read_state(weights, "base.weights", names)] if weights else []
    classes = next(filter(None, (head_classes(net, state) for state in states)), 10)
    net = build_net(config.net, classes, size, weights=weights, new_head=config.epochs > 0)
    return net, classes

"""Nets that say the class of every pixel: torchvision's by name, and own files.

Axes: B batch, C classes, H and W pixels; a net turns (B, 3, H, W) into logits (B, C, H, W). Those
of torchvision give a dict with `out` and, behind a shallower layer, `aux`.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pdiff.nets.own import find_own, is_own
from pdiff.nets.registry import build_net, load_weights, read_state
from pdiff.system.errors import InputError, reason

HEADS = ("classifier.4.", "aux_classifier.4.")
"""Prefixes of the layers whose size depends on the number of classes, in torchvision's nets."""


def check_segmenter(name: str) -> None:
    """Raise `InputError` with the known names if there is no such net."""
    if is_own(name):
        find_own(name)
    elif name not in (known := _known()):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(
            f"base.net: {name!r} does not segment images; known are {', '.join(known)} and "
            f"FILE.py:NAME{hint}"
        )


def _known() -> list[str]:
    from torchvision import models

    names = models.list_models(module=models.segmentation)
    return [name for name in names if name.startswith(("fcn_", "deeplabv3_"))]


def build_segmenter(
    name: str,
    classes: int,
    size: int,
    *,
    pretrained: bool = False,
    weights: Path | None = None,
    new_head: bool = True,
) -> nn.Module:
    """The net of that name; arguments and errors as `pdiff.nets.registry.build_net`.

    `pretrained` downloads torchvision's weights, which know PASCAL VOC's 21 classes.
    """
    if is_own(name):
        options = {"pretrained": pretrained, "weights": weights, "new_head": new_head}
        return build_net(name, classes, size, **options)
    from torchvision.models import get_model

    check_segmenter(name)
    options = {"weights": None, "weights_backbone": None, "aux_loss": True}
    net = get_model(name, num_classes=classes, **options)
    if pretrained:
        _load(net, name, Path(f"torchvision/{name}"), _download(name), new_head)
    if weights is not None:
        state = read_state(weights, "base.weights", net.state_dict())
        _load(net, name, weights, state, new_head)
    return net


def _download(name: str) -> Mapping[str, Tensor]:
    from torchvision.models import get_model_weights

    try:
        return get_model_weights(name).DEFAULT.get_state_dict(progress=True, check_hash=True)
    except Exception as error:  # downloads raise many kinds
        raise InputError(
            f"base.pretrained: torchvision's weights of {name} cannot be had: {reason(error)}; "
            "offline, give a file as base.weights"
        ) from None


def _load(
    net: nn.Module, name: str, source: Path, state: Mapping[str, Tensor], new_head: bool
) -> None:
    """Load a state dict; heads of another number of classes stay new where they may."""
    own, state = net.state_dict(), dict(state)
    heads = {key for key in own if key.startswith(HEADS)}
    other = {key for key in heads if key not in state or state[key].shape != own[key].shape}
    if other and not new_head:
        raise InputError(
            f"base.epochs: 0 trains no new head, and {source} has none of "
            f"{len(own[f'{HEADS[0]}bias'])} classes"
        )
    load_weights(net, name, source, state | {key: own[key] for key in other}, new_head=False)


def as_outputs(found: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The logits (B, C, H, W) of each head of a net, in torchvision's form."""
    return {"out": found} if isinstance(found, Tensor) else dict(found)


@torch.no_grad()
def check_logits(net: nn.Module, name: str, classes: int, size: tuple[int, int]) -> None:
    """Raise `InputError` unless `net` turns an image (3, H, W) into logits (C, H, W)."""
    try:
        found = as_outputs(net.eval()(torch.zeros(1, 3, *size)))["out"]
    except Exception as error:  # nets check their input in many ways
        raise InputError(
            f"data.size: {name} cannot take images of {size[0]} x {size[1]} px: {reason(error)}"
        ) from None
    if found.shape != (1, classes, *size):
        raise InputError(
            f"base.net: {name} turns 1 image of {size[0]} x {size[1]} px into "
            f"{tuple(found.shape)}; it must give logits of shape {(1, classes, *size)}"
        )

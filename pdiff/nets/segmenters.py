"""Nets that say the class of every pixel: torchvision's by name, and own files.

Axes: B batch, C classes, H and W pixels; a net turns (B, 3, H, W) into logits (B, C, H, W). Those
of torchvision give a dict with `out` and, behind a shallower layer, `aux`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pdiff.nets.own import find_own, is_own
from pdiff.nets.registry import build_net, load_weights, published, read_state
from pdiff.system.errors import InputError, nearest, reason

HEADS = ("classifier.4.", "aux_classifier.4.")
"""Prefixes of the layers whose size depends on the number of classes, in torchvision's nets."""


def check_segmenter(name: str) -> None:
    """Raise `InputError` with the known names if there is no such net."""
    if is_own(name):
        find_own(name)
        return
    from torchvision import models

    names = models.list_models(module=models.segmentation)
    known = [name for name in names if name.startswith(("fcn_", "deeplabv3_"))]
    if name not in known:
        raise InputError(
            f"base.net: {name!r} does not segment images; known are {', '.join(known)} and "
            f"FILE.py:NAME{nearest(name, known)}"
        )


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
        load_weights(net, name, f"torchvision/{name}", published(name), HEADS, new_head)
    if weights is not None:
        state = read_state(weights, "base.weights", net.state_dict())
        load_weights(net, name, weights, state, HEADS, new_head)
    return net


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

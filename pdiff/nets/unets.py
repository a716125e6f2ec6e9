"""Nets that generate images by denoising: diffusers' `UNet2DModel` by name, and own files.

A denoiser takes noised images (B, 3, S, S) and timesteps, (B,) or one for all, and gives the noise.

Axes: B batch, S the side of the images.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pdiff.nets.own import build_own, is_own
from pdiff.nets.registry import load_weights, read_state
from pdiff.system.errors import InputError, reason
from pdiff.system.hub import hub

PAPER = "google/ddpm-cifar10-32"
"""The repository of the hub that `ddpm_cifar10` has its weights from."""
UNETS: dict[str, Mapping[str, Any]] = {
    "unet_mini": {  # 0.26 million parameters, no attention
        "block_out_channels": (16, 32, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D",) * 3,
        "up_block_types": ("UpBlock2D",) * 3,
        "norm_num_groups": 8,
        "add_attention": False,
    },
    "ddpm_cifar10": {  # the config.json of `PAPER`; Ho et al. 2020, arXiv 2006.11239
        "block_out_channels": (128, 256, 256, 256),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": None,
        "norm_eps": 1e-6,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    },
}


def check_unet(name: str, pretrained: bool) -> None:
    """Raise `InputError` if there is no such net, or no weights of it to download."""
    if not is_own(name) and name not in UNETS:
        raise InputError(
            f"base.net: unknown {name!r}; generation knows {', '.join(UNETS)} and FILE.py:NAME"
        )
    if pretrained and name != "ddpm_cifar10":
        raise InputError(
            f"base.pretrained: there are no weights of {name} to download; use false, and "
            "base.weights if you have a file"
        )


def build_unet(
    name: str, classes: int, size: int, pretrained: bool = False, weights: Path | None = None
) -> nn.Module:
    """A denoiser of RGB images of `size` pixels.

    Args:
        classes: what an own net is called with, as `NAME(num_classes=classes)`.
        pretrained: download the weights of `PAPER`.
        weights: start from this state dict instead.

    Raises:
        InputError: unknown name, no network, weights of another net or anything but finite floats.
    """
    check_unet(name, pretrained)
    if is_own(name):
        net = build_own(name, classes)
    else:
        from diffusers import UNet2DModel  # seconds to import

        if pretrained:
            with hub(f"base.pretrained: {PAPER}"):
                net = UNet2DModel.from_pretrained(PAPER)
        else:
            net = UNet2DModel(sample_size=size, **UNETS[name])
        # diffusers' nets wrap what they give
        net.register_forward_hook(lambda _, __, found: found.sample)
    if weights is not None:
        state = read_state(weights, "base.weights", net.state_dict())
        load_weights(net, name, weights, state)
    return net


@torch.no_grad()
def check_denoiser(net: nn.Module, name: str, size: int) -> None:
    """Raise `InputError` unless `net` turns RGB images of `size` pixels into as many."""
    images = torch.zeros(1, 3, size, size)
    try:
        found = net.eval()(images, torch.zeros(1, dtype=torch.long))
    except Exception as error:  # nets check their input in many ways
        raise InputError(
            f"base.net: {name} cannot take 3 channels of data.size: {size} px: {reason(error)}"
        ) from None
    if not isinstance(found, Tensor) or found.shape != images.shape:
        shape = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise InputError(
            f"base.net: {name} turns images of shape {tuple(images.shape)} into {shape}; a "
            "denoiser gives 3 channels of the same size"
        )

"""MobileNetV1 of a quarter of the width: 470,000 parameters, 27 batch norms, 64 px in milliseconds.

    dvc exp run -S net=mobilenet_025 -S base.weights=imagenet_mobilenetv1_025.safetensors ...

The names are timm's. ImageNet weights under these names, for which every activation is a leaky ReLU
of slope 0.1: https://github.com/yakhyo/retinaface-pytorch (MIT). Howard et al. 2017, arXiv
1704.04861.
"""

from functools import partial

from timm.models import efficientnet
from torch import nn


def mobilenet_025(num_classes: int) -> nn.Module:
    """Images (B, 3, S, S) of any size to logits (B, `num_classes`)."""
    activation = partial(nn.LeakyReLU, negative_slope=0.1)
    return efficientnet._gen_mobilenet_v1(
        "mobilenetv1_100", channel_multiplier=0.25, act_layer=activation, num_classes=num_classes
    )

"""A fully convolutional net on a quarter of MobileNetV1: 0.22 million parameters, for segmentation.

    dvc exp run -S task=segmentation -S net=fcn_mobilenet_025 -S base.weights=FILE ...

Its trunk has timm's names, so ImageNet weights for `examples/mobilenet.py` fit; `classifier` stays
new. As FCN-8s (Long et al. 2015, arXiv 1411.4038), linear layers read several depths of the trunk
and their logits are added from coarse to fine.
"""

from functools import partial

from timm.models import efficientnet
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = {1: 32, 2: 64, 3: 128, 4: 256}
"""Of the trunk's stages that are read; one pixel of theirs covers 4, 8, 16 and 16 pixels."""


class FCN(nn.Module):
    """Images (B, 3, H, W) of any size to logits (B, `num_classes`, H, W)."""

    classifier_name = "classifier"

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        trunk = efficientnet._gen_mobilenet_v1(
            "mobilenetv1_100",
            channel_multiplier=0.25,
            act_layer=partial(nn.LeakyReLU, negative_slope=0.1),
            output_stride=16,
        )
        self.conv_stem, self.bn1, self.blocks = trunk.conv_stem, trunk.bn1, trunk.blocks
        heads = {str(stage): nn.Conv2d(width, num_classes, 1) for stage, width in CHANNELS.items()}
        self.classifier = nn.ModuleDict(heads)

    def forward(self, images: Tensor) -> Tensor:
        x, read = self.bn1(self.conv_stem(images)), []
        for stage, block in enumerate(self.blocks):
            x = block(x)
            if stage in CHANNELS:
                read.append(self.classifier[str(stage)](x))
        logits = read.pop()
        for finer in reversed(read):
            logits = finer + _resized(logits, finer)
        return _resized(logits, images)


def _resized(logits: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(logits, like.shape[2:], mode="bilinear", align_corners=False)

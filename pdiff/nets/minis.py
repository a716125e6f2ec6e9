"""The small classifiers that p-diff generates whole: the paper's five minis and two 3-layer CNNs.

Axes: B batch, S image side, C channels, H and W sides of a feature map, N tokens, E features.
The nets are those of the paper's Appendix A.2, with sizes from the authors' code and, for 10
classes, the parameter counts of Table 6. A layer norm over (C, H, W) scales each position by
itself, so most of these nets take images of one size.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Mini(nn.Module):
    """An image becomes one vector, `features`, from which a linear layer makes the logits."""

    classifier_name: ClassVar = "classifier"
    features: Callable[[Tensor], Tensor]
    classifier: nn.Linear

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B classes"]:
        return self.classifier(self.features(images))


def normed(conv: nn.Conv2d, side: int) -> tuple[nn.Module, ...]:
    """A convolution to maps of `side` pixels, their norm and activation, and pooling by 2."""
    norm = nn.LayerNorm([conv.out_channels, side, side])
    return conv, norm, nn.LeakyReLU(), nn.MaxPool2d(2)


class ConvNetMini(Mini):
    """Three convolutions and two linear layers: (B, 3, 64, 64) -> (B, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *normed(nn.Conv2d(3, 8, 7, stride=2, padding=3), 32),
            *normed(nn.Conv2d(8, 8, 3, padding=1), 16),
            *normed(nn.Conv2d(8, 4, 3, padding=1), 8),
            nn.Flatten(),
            nn.Linear(4 * 4 * 4, 16),
            nn.LeakyReLU(),
        )
        self.classifier = nn.Linear(16, classes)


class MLPMini(Mini):
    """Three linear layers on a grey image of half the side: (B, 3, 64, 64) -> (B, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            *(nn.Linear(32 * 32, 64), nn.LayerNorm(64), nn.LeakyReLU()),
            *(nn.Linear(64, 16), nn.LayerNorm(16), nn.LeakyReLU()),
        )
        self.classifier = nn.Linear(16, classes)

    def features(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B E"]:
        grey = F.avg_pool2d(images, 2).mean(1)  # (B, S / 2, S / 2)
        return self.hidden(grey.flatten(1))


class Bottleneck(nn.Module):
    """Two convolutions through half the channels, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 3, padding=1),
            nn.LeakyReLU(),
            nn.Conv2d(channels // 2, channels, 3, padding=1),
            nn.LeakyReLU(),
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return x + self.branch(x)


class ResNetMini(Mini):
    """A stem, two residual blocks and two linear layers: (B, 3, 64, 64) -> (B, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.LeakyReLU(),
            nn.LayerNorm([8, 32, 32]),
            nn.MaxPool2d(2),
            *(Bottleneck(8), nn.LayerNorm([8, 16, 16]), nn.MaxPool2d(2)),
            *(Bottleneck(8), nn.LayerNorm([8, 8, 8]), nn.MaxPool2d(2)),
            nn.Flatten(),
            nn.Linear(8 * 4 * 4, 16),
            nn.LeakyReLU(),
        )
        self.classifier = nn.Linear(16, classes)


def sincos_positions(side: int, width: int) -> Float[Tensor, "N E"]:
    """Fixed positions of side * side tokens, row by row; the simple ViT's (Beyer et al., 2022).

    Quarters of the width: sine and cosine of the column, sine and cosine of the row. The
    frequencies fall geometrically from 1 to 1 / 10000, both included.
    """
    frequencies = 10000 ** -torch.linspace(0, 1, width // 4)
    angles = torch.arange(side)[:, None] * frequencies  # (side, E / 4)
    waves = torch.cat([angles.sin(), angles.cos()], 1)  # (side, E / 2)
    return torch.cat([waves.repeat(side, 1), waves.repeat_interleave(side, 0)], 1)


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP, both residual; the MLP's hidden layer is as wide as a token."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.head_shape = (heads, head_width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, x: Float[Tensor, "B N E"]) -> Float[Tensor, "B N E"]:
        q, k, v = (
            part.unflatten(2, self.head_shape).transpose(1, 2)  # (B, heads, N, head width)
            for part in self.qkv(self.norm(x)).chunk(3, dim=2)
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class ViTMini(Mini):
    """64 patches as tokens, 4 blocks, the mean of the tokens: (B, 3, 64, 64) -> (B, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.LayerNorm(192), nn.Linear(192, 64), nn.LayerNorm(64))
        self.register_buffer("positions", sincos_positions(8, 64), persistent=False)
        self.norm = nn.LayerNorm(64)  # made before the blocks, as the authors' order of parameters
        self.blocks = nn.Sequential(*(TransformerBlock(64, 4, 8) for _ in range(4)))
        self.classifier = nn.Linear(64, classes)

    def features(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B E"]:
        grid = images.unflatten(3, (-1, 8)).unflatten(2, (-1, 8))  # (B, 3, row, 8, column, 8)
        patches = grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (B, 64, 192)
        tokens = self.embed(patches) + self.positions
        return self.norm(self.blocks(tokens)).mean(1)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, then an MLP over channels; scaled, and added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), 1e-6))
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        branch = self.norm(self.depthwise(x).movedim(1, -1))  # (B, H, W, C)
        return x + (self.scale * self.mlp(branch)).movedim(-1, 1)


class ConvNeXtMini(Mini):
    """A stem and four stages of 1, 2, 2 and 2 blocks: (B, 3, 64, 64) -> (B, classes)."""

    def __init__(self, classes: int) -> None:
        from timm.layers import LayerNorm2d  # seconds to import

        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), LayerNorm2d(16))
        self.downsamplers = nn.ModuleList([stem])
        for before in (16, 32, 32):
            conv = nn.Conv2d(before, 32, 2, stride=2)
            self.downsamplers.append(nn.Sequential(LayerNorm2d(before), conv))
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(channels) for _ in range(blocks)))
            for channels, blocks in ((16, 1), (32, 2), (32, 2), (32, 2))
        )
        self.norm = nn.LayerNorm(32, eps=1e-6)
        self.classifier = nn.Linear(32, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def features(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B E"]:
        x = images
        for downsampler, stage in zip(self.downsamplers, self.stages, strict=True):
            x = stage(downsampler(x))
        return self.norm(x.mean((2, 3)))


class CNNMedium(Mini):
    """Three convolutions, two linear layers, for MNIST and SVHN: (B, 3, 32, 32) -> (B, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        convs = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.Conv2d(32, 15, 3)
        self.features = nn.Sequential(
            *(layer for conv in convs for layer in (conv, nn.MaxPool2d(2), nn.LeakyReLU())),
            nn.Flatten(),
            nn.Linear(15 * 2 * 2, 20),
            nn.LeakyReLU(),
        )
        self.classifier = nn.Linear(20, classes)


class CNNSmall(Mini):
    """The CNN of the model zoos, 2,464 parameters: (B, 3, 28, 28) -> (B, classes).

    It sees one channel, the mean of the three. Schuerholt et al. 2022, "Model Zoos", their `CNN-s`.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), nn.Tanh()),
            *(nn.Conv2d(8, 6, 5), nn.MaxPool2d(2), nn.Tanh()),
            *(nn.Conv2d(6, 4, 2), nn.Tanh(), nn.Flatten()),
            *(nn.Linear(4 * 3 * 3, 20), nn.Tanh()),
        )
        self.classifier = nn.Linear(20, classes)

    def features(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B E"]:
        return self.convs(images.mean(1, keepdim=True))


MINIS: dict[str, tuple[Callable[[int], nn.Module], int]] = {
    "convnet_mini": (ConvNetMini, 64),
    "mlp_mini": (MLPMini, 64),
    "resnet_mini": (ResNetMini, 64),
    "vit_mini": (ViTMini, 64),
    "convnext_mini": (ConvNeXtMini, 64),
    "cnn_medium": (CNNMedium, 32),
    "cnn_small": (CNNSmall, 28),
}
"""By name: what builds the net for a number of classes, and the image side it is made for."""

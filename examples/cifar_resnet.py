"""The CIFAR ResNets of He et al. (2016, arXiv 1512.03385), section 4.2: a net that is not timm's.

    dvc exp run -S net=cifar_resnet20 ...

6n + 2 layers: a 3x3 stem, three stages of n blocks with 16, 32 and 64 channels, one linear layer.
Shortcuts have no parameters: they skip every second pixel and fill missing channels with zeros.
Axes: B batch, C channels, H and W pixels; images are (B, 3, H, W).
"""

from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (option A of the paper)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.missing = stride, width - channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.missing:  # half of the new channels before the old ones, half behind them
            half = self.missing // 2
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, half, self.missing - half))
        return functional.relu(out + x)


class CifarResNet(nn.Module):
    """(B, 3, H, W) -> (B, num_classes), with `blocks` blocks in each stage."""

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks)
        self.layer2 = _stage(16, 32, blocks)
        self.layer3 = _stage(32, 64, blocks)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _stage(channels: int, width: int, blocks: int) -> nn.Sequential:
    first = Block(channels, width, stride=1 if channels == width else 2)
    return nn.Sequential(first, *(Block(width, width, stride=1) for _ in range(blocks - 1)))


def resnet20(num_classes: int = 10) -> CifarResNet:
    return CifarResNet(3, num_classes)


def resnet32(num_classes: int = 10) -> CifarResNet:
    return CifarResNet(5, num_classes)


def resnet44(num_classes: int = 10) -> CifarResNet:
    return CifarResNet(7, num_classes)


def resnet56(num_classes: int = 10) -> CifarResNet:
    return CifarResNet(9, num_classes)

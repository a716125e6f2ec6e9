"""What the tests of evaluation share: small nets and models of them that differ."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from pdiff.evaluation.predict import CutNet


def noised(
    net: nn.Module, names: list[str], levels=(0.0, 2.0, 4.0, 8.0)
) -> list[dict[str, Tensor]]:
    """The net's own values plus noise in proportion to their root mean square."""
    generator, parameters = torch.Generator().manual_seed(0), dict(net.named_parameters())
    models = []
    for level in levels:
        model = {}
        for name in names:
            value = parameters[name].detach()
            size = value.square().mean().sqrt().clamp(min=0.1)
            model[name] = value + level * size * torch.randn(value.shape, generator=generator)
        models.append(model)
    return models


def small_net(*layers: nn.Module, channels: int = 4) -> nn.Module:
    """Random weights, running statistics that are not those of any batch, five classes."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, channels, 3, 2), *layers, nn.Flatten(), nn.LazyLinear(5))
    net(torch.randn(8, 3, 8, 8))  # updates running statistics, makes the lazy layer
    nn.init.zeros_(net[-1].bias)  # or all images are of one class
    return net.eval()


def small_images(count: int = 7) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def assert_logits_equal(net, names, models, images, cut: CutNet | None = None) -> None:
    """The cut net's logits are the net's with the model's parameters, which make a difference."""
    cut = cut or CutNet(net, names, images)
    boundary = cut.prefix(images)
    logits = [cut.run(cut.load(model), boundary) for model in models]
    with torch.no_grad():
        expected = [functional_call(net, model, images) for model in models]
    for ours, theirs in zip(logits, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    if len(models) > 1:
        assert (expected[0] - expected[-1]).abs().max() > 0.01, "the models do not differ"


def products(net: nn.Module, names: list[str], images: Tensor, cut: CutNet | None = None) -> float:
    """Multiplications of the suffix for each image, those of matrices and convolutions."""
    cut = cut or CutNet(net.requires_grad_(False), names, images)
    boundary, model = cut.prefix(images), noised(net, names)[0]
    with FlopCounterMode(display=False) as counter:
        cut.run(cut.load(model), boundary)
    return counter.get_total_flops() / 2 / len(images)


def small_vit(**options) -> nn.Module:
    """Of images of 32 pixels: 16 patches and a class token, two blocks, ten classes."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return VisionTransformer(**sizes, num_classes=10, **options).eval().requires_grad_(False)


class Branching(nn.Module):
    """Looks at its images to decide what to do: `torch.export` cannot trace it."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net or small_net(nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.net(-images if images.mean() > 0 else images)

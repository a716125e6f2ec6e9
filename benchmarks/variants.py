"""What could be switched on besides, and whether it pays: compiling, memory layout, fused steps."""

import torch
from torch.nn import functional

from benchmarks.timing import REPEATS, duration, once, spread, table, time_pair
from pdiff.autoencoder.net import Autoencoder
from pdiff.config import load_params
from pdiff.nets.registry import build_net

D, LATENT, BATCH = 2048, 128, 50


def run() -> str:
    header = ["variant", "as it is", "with it", "verdict"]
    return table(header, [_compiled(), _channels_last()])


def _compiled() -> list[str]:
    """`torch.compile` on the quick recipe's autoencoder: forward and backward."""
    config = load_params().autoencoder
    model = Autoencoder(D, config.channels, config.kernel_size, LATENT).train()
    compiled, x = torch.compile(model), torch.randn(BATCH, D)

    def step(net) -> None:
        functional.mse_loss(net(x), x).backward()

    first = once(lambda: step(compiled))
    plain, fast = time_pair(lambda: step(model), lambda: step(compiled))
    gain = sorted(plain)[REPEATS // 2] - sorted(fast)[REPEATS // 2]
    pays = f"{first / gain:.0f} steps" if gain > 0 else "never"
    verdict = f"compiling takes {duration(first)}: pays after {pays}; a training has {config.steps}"
    return ["torch.compile, autoencoder step", spread(plain), spread(fast), verdict]


def _channels_last() -> list[str]:
    """The memory layout of images and weights in base training."""
    net = build_net("resnet18", 10, 32).train()
    images, labels = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))

    def step(layout: torch.memory_format) -> None:
        net.to(memory_format=layout)
        loss = functional.cross_entropy(net(images.to(memory_format=layout)), labels)
        net.zero_grad(set_to_none=True)
        loss.backward()

    plain, last = time_pair(
        lambda: step(torch.contiguous_format), lambda: step(torch.channels_last)
    )
    ratio = sorted(plain)[REPEATS // 2] / sorted(last)[REPEATS // 2]
    return ["channels-last, ResNet-18 training", spread(plain), spread(last), f"{ratio:.2f} x"]

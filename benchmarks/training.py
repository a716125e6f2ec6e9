"""Training steps: data on the device and gradients of the subset, against loaders and all."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from benchmarks.timing import HEADER, Pair, scaled, table, time_pair
from pdiff.autoencoder.train import make_autoencoder, train_autoencoder
from pdiff.config import Params, load_params
from pdiff.diffusion.denoiser import Denoiser
from pdiff.diffusion.schedule import Diffusion
from pdiff.diffusion.train import train_denoiser
from pdiff.nets.registry import build_net
from pdiff.parameters.subset import select_subset

STEPS, BATCH, K = 5, 50, 300
PAPER = {"autoencoder": (64, 128, 256, 256, 32), "ddpm": (64, 128, 256, 512, 256, 128, 64)}


def run(length: int = 2048, net: str = "resnet18", size: int = 64) -> str:
    params, pairs = load_params(), []
    recipes = {"quick recipe": {name: getattr(params, name).channels for name in PAPER}}
    for recipe, widths in (recipes | {"paper's widths": PAPER}).items():
        for section, ways in (("autoencoder", _autoencoder), ("ddpm", _denoiser)):
            change = {"channels": widths[section], "steps": STEPS, "batch_size": BATCH}
            config = getattr(params, section).model_copy(update=change)
            times = (scaled(s, 1 / STEPS) for s in time_pair(*ways(config, params, length)))
            note = f"{STEPS} steps, batch {BATCH}; the plain way: a data loader, default AdamW"
            pairs.append(Pair(f"{section} step, {recipe}", *times, note))
    return table(HEADER, [pair.row() for pair in [*pairs, _finetune_step(net, size)]])


def _autoencoder(config, params: Params, length: int) -> tuple[Callable, Callable]:
    matrix, noise = torch.randn(K, length), params.noise

    def ours() -> None:
        train_autoencoder(matrix, config, noise, torch.Generator(), lambda *_: None)

    def plain() -> None:
        model = make_autoencoder(length, config).train()

        def loss(x: Tensor) -> Tensor:
            x = x + noise.param * torch.randn_like(x)
            z = model.encode(x)
            return functional.mse_loss(model.decode(z + noise.latent * torch.randn_like(z)), x)

        _plain_steps(model, matrix, loss)

    return ours, plain


def _denoiser(config, params: Params, _: int) -> tuple[Callable, Callable]:
    length = params.autoencoder.latent_dim
    latents, diffusion = torch.randn(K, length), Diffusion(1000, 1e-4, 0.02)

    def ours() -> None:
        train_denoiser(latents, config, torch.Generator(), lambda *_: None)

    def plain() -> None:
        model, generator = Denoiser(length, config.channels, config.kernel_size), torch.Generator()
        _plain_steps(model.train(), latents, lambda x: diffusion.loss(model, x, generator))

    return ours, plain


def _plain_steps(model: nn.Module, matrix: Tensor, loss_of: Callable[[Tensor], Tensor]) -> None:
    """The loop as it is usually written: rows through a data loader, AdamW as it comes."""
    dataset = TensorDataset(matrix)
    sampler = RandomSampler(dataset, replacement=True, num_samples=STEPS * BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for (rows,) in DataLoader(dataset, BATCH, sampler=sampler):
        optimizer.zero_grad()
        loss = loss_of(rows)
        loss.backward()
        optimizer.step()
        loss.item()


def _finetune_step(name: str, size: int) -> Pair:
    """The last two norms, batch 128, batch norms frozen."""
    images, labels = torch.randn(128, 3, size, size), torch.randint(10, (128,))
    net = build_net(name, 10, size).eval()
    subset = select_subset(net, "last_norms:2")

    def step(frozen: bool) -> None:
        for parameter_name, parameter in net.named_parameters():
            parameter.requires_grad_(parameter_name in subset.names or not frozen)
            parameter.grad = None
        functional.cross_entropy(net(images), labels).backward()

    seconds = time_pair(lambda: step(True), lambda: step(False))
    note = f"batch of {size} px images; the plain way: gradients of everything"
    return Pair(f"fine-tune step, {name}", *seconds, note)

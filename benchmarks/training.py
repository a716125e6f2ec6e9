"""Training steps: data on the device and a frozen prefix, against loaders and whole gradients."""

from collections.abc import Callable, Iterator

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset
from torchvision import transforms

from benchmarks.operations import operations
from benchmarks.timing import HEADER, Pair, floor, scaled, table, time_pair
from pdiff.autoencoder.net import Autoencoder, train_autoencoder
from pdiff.config import Params, load_params
from pdiff.core.optimise import make_optimizer
from pdiff.diffusion.denoiser import Denoiser
from pdiff.diffusion.schedule import Diffusion, train_denoiser
from pdiff.images.batches import ImageSplit, training_batches
from pdiff.nets.registry import build_net
from pdiff.parameters.subset import select_subset

STEPS, BATCH = 5, 50
K, D, LATENT = 300, 2048, 128
PAPER = {
    "autoencoder": (64, 128, 256, 256, 32),
    "ddpm": (64, 128, 256, 512, 256, 128, 64),
}
IMAGES = 1000


def run() -> str:
    params = load_params()
    pairs = [
        *_matrix_pairs("autoencoder", params, _our_autoencoder, _plain_autoencoder),
        *_matrix_pairs("ddpm", params, _our_denoiser, _plain_denoiser),
        _base_epoch(params),
        _finetune_step(),
    ]
    return table(HEADER, [pair.row() for pair in pairs])


def _matrix_pairs(section: str, params: Params, ours: Callable, plain: Callable) -> Iterator[Pair]:
    """Steps of the autoencoder or the denoiser, at the quick recipe's and the paper's widths."""
    base = getattr(params, section)
    for name, widths in (("quick recipe", base.channels), ("paper's widths", PAPER[section])):
        config = base.model_copy(update={"channels": widths, "steps": STEPS, "batch_size": BATCH})
        mine, theirs, forward = ours(config, params), plain(config, params), None
        forward = operations(_forward(section, widths))
        seconds = time_pair(mine, theirs)
        yield Pair(
            f"{section} step, {name}",
            *(scaled(times, 1 / STEPS) for times in seconds),
            floor(3 * forward),
            f"{STEPS} steps, batch {BATCH}; the plain way: a data loader, default AdamW",
        )


def _forward(section: str, widths: tuple[int, ...]) -> Callable[[], object]:
    if section == "autoencoder":
        model = Autoencoder(D, widths, 7, LATENT)
        return lambda: model(torch.zeros(BATCH, D))
    denoiser = Denoiser(LATENT, widths, 7)
    return lambda: denoiser(torch.zeros(BATCH, LATENT), torch.zeros(BATCH, dtype=torch.int64))


def _our_autoencoder(config, params: Params) -> Callable[[], object]:
    matrix = torch.randn(K, D)
    return lambda: train_autoencoder(
        matrix, config, params.noise, torch.Generator().manual_seed(0), lambda *_: None
    )


def _plain_autoencoder(config, params: Params) -> Callable[[], object]:
    matrix = torch.randn(K, D)

    def work() -> None:
        model = Autoencoder(D, config.channels, config.kernel_size, LATENT).train()

        def loss(x: Tensor) -> Tensor:
            x = x + params.noise.param * torch.randn_like(x)
            z = model.encode(x)
            return functional.mse_loss(model.decode(z + 0.1 * torch.randn_like(z)), x)

        _plain_steps(model, matrix, loss)

    return work


def _our_denoiser(config, params: Params) -> Callable[[], object]:
    latents = torch.randn(K, LATENT)
    return lambda: train_denoiser(
        latents, config, torch.Generator().manual_seed(0), lambda *_: None
    )


def _plain_denoiser(config, params: Params) -> Callable[[], object]:
    latents, diffusion = torch.randn(K, LATENT), Diffusion(1000, 1e-4, 0.02)

    def work() -> None:
        model = Denoiser(LATENT, config.channels, config.kernel_size).train()
        generator = torch.Generator().manual_seed(0)
        _plain_steps(model, latents, lambda x: diffusion.loss(model, x, generator))

    return work


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


class _Pictures(Dataset):
    """Images as Pillow has them, augmented one by one in a loader's workers."""

    def __init__(self, pixels: Tensor, labels: Tensor, shift: int) -> None:
        self._images = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in pixels]
        self._labels = labels.tolist()
        size = pixels.shape[2]
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(size, padding=shift, padding_mode="edge"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.5,) * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(self._images[index]), self._labels[index]


def _base_epoch(params: Params) -> Pair:
    """One pass over 1,000 images of 32 px, ResNet-18, shifted and mirrored."""
    data = params.data.model_copy(update={"shift": 4, "flip": True, "noise": 0.0})
    pixels = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(10, (IMAGES,))
    net = build_net("resnet18", 10, 32).train()
    split, pictures = ImageSplit(pixels, labels), _Pictures(pixels, labels, 4)

    def train(batches) -> None:
        optimizer = make_optimizer("adamw", net.parameters(), 1e-3, 5e-4)
        for images, targets in batches:
            loss = functional.cross_entropy(net(images), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    loader = DataLoader(pictures, 128, shuffle=True, num_workers=2)
    seconds = time_pair(
        lambda: train(training_batches(split, data, 128, torch.Generator().manual_seed(0))),
        lambda: train(loader),
    )
    forward = operations(lambda: net(torch.zeros(IMAGES, 3, 32, 32)))
    note = f"{IMAGES} images of 32 px; the plain way: Pillow in two loader processes"
    return Pair("base epoch, ResNet-18", *map(tuple, seconds), floor(3 * forward), note)


def _finetune_step() -> Pair:
    """The last two norms of ResNet-18 at 64 px, batch 128, batch norms frozen."""
    images, labels = torch.randn(128, 3, 64, 64), torch.randint(10, (128,))
    net = build_net("resnet18", 10, 64).eval()
    subset = select_subset(net, "last_norms:2")
    parameters = dict(net.named_parameters())

    def step(frozen: bool) -> None:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in subset.names or not frozen)
            parameter.grad = None
        functional.cross_entropy(net(images), labels).backward()

    seconds = time_pair(lambda: step(True), lambda: step(False))
    note = "forward and backward; the plain way: gradients of everything"
    return Pair("fine-tune step, ResNet-18", *map(tuple, seconds), note=note)

"""Stop a run with a wrong parameter before DVC removes any other output.

params.yaml -> a constant file that every other stage depends on
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from pdiff import outputs
from pdiff.autoencoder.train import make_autoencoder
from pdiff.baselines.registry import count_models
from pdiff.config import Params, load_params
from pdiff.core.files import write_text
from pdiff.datasets.registry import check_images
from pdiff.diffusion.denoiser import Denoiser
from pdiff.nets.given import build_for, list_checkpoints, load_checkpoints
from pdiff.nets.own import check_watch
from pdiff.nets.registry import check_net, check_size
from pdiff.parameters.subset import select_subset
from pdiff.system.errors import InputError
from stages import stage

AUDITED = 16 * 2**30
"""Most bytes that the parameters of all models in an audit may take; the same on every machine."""

MEMORY = 128 * 2**30
"""Most bytes that one part of a pipeline may take; few GPUs have more."""


def main() -> None:
    params = load_params()
    check_net(params.base.net)
    check_watch(params.base.net, params.base.watch)
    check_images(params.data)
    _check_memory({"data.size": 3 * params.data.size**2 * params.base.batch_size})
    folder, count = params.finetune.folder, params.finetune.checkpoints
    paths = [] if folder is None else list_checkpoints(Path(folder), count)
    net, classes = build_for(params.base, params.data.size, paths)
    check_size(net, params.base.net, params.data.size, classes)
    subset = select_subset(net, params.subset.select)
    list(load_checkpoints(paths[:1], subset))
    _check_audit(params, subset.length)
    _check_memory(_values(params, subset.length))
    print(f"{params.base.net}: {subset.length:,} parameters are generated: {_short(subset.names)}")
    write_text(outputs.CHECKED, "params.yaml was found to be valid\n")


def _check_audit(params: Params, length: int) -> None:
    """The audit holds every model that is evaluated; refuse what no memory would hold."""
    models = count_models(params)
    if params.novelty.audit and 4 * models * length > AUDITED:
        raise InputError(
            f"novelty.audit: it would hold {models:,} models of {length:,} parameters, "
            f"{4 * models * length / 2**30:.0f} GiB of at most {AUDITED // 2**30}; set "
            "novelty.audit: false, fewer baselines.rival_models, or a smaller subset.select"
        )


def _check_memory(values: Mapping[str, float]) -> None:
    """Refuse what no memory would hold; `values` are the least numbers, by what asks for them."""
    for names, count in values.items():
        if 4 * count > MEMORY:
            raise InputError(
                f"{names}: at least {4 * count / 2**30:,.0f} GiB of memory would be needed, of at "
                f"most {MEMORY // 2**30}; give less"
            )


def _values(params: Params, length: int) -> dict[str, float]:
    """The numbers that the nets' weights, gradients and moments hold, and the largest batches."""
    coder, ddpm, models = params.autoencoder, params.ddpm, params.generate.models
    latent, vectors = coder.latent_dim, params.finetune.checkpoints + 2 * coder.batch_size
    first = (coder.micro_batch or coder.batch_size) * coder.channels[0] / 4  # half as long
    wide = latent * max(ddpm.channels)  # the widest layer's output for one latent
    denoiser = _weights(lambda: Denoiser(latent, ddpm.channels, ddpm.kernel_size))
    values = {
        "ddpm.channels, ddpm.kernel_size, autoencoder.latent_dim": 4 * denoiser,
        "ddpm.batch_size": ddpm.batch_size * wide,
        "ddpm.timesteps": 10 * ddpm.timesteps,
        "generate.models": models * (latent if params.generate.sampler == "prior" else wide),
        "novelty.bootstrap": 2 * params.novelty.bootstrap * models,
    }
    if coder.kind != "linear":
        moments = 0 if coder.optimizer == "adafactor" else 2
        weights = _weights(lambda: make_autoencoder(length, coder))
        values |= {
            "autoencoder.latent_dim, .channels, .kernel_size": (2 + moments) * weights,
            "autoencoder.batch_size, or .kind, which is not linear": (vectors + first) * length,
        }
    return values


def _weights(make: Callable[[], nn.Module]) -> float:
    """The number of a net's weights, which are not made."""
    try:
        with torch.device("meta"):
            return sum(weight.numel() for weight in make().parameters())
    except (RuntimeError, TypeError):  # more than 64 bits can count
        return math.inf


def _short(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{len(names)} tensors, first {names[0]}"


if __name__ == "__main__":
    stage(main)

"""What no machine of today holds in memory or ends in a day: lower bounds that name a parameter.

They know the subset's length D, read no file, and are the same on every machine.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

from pdiff.config import MEMORY, AutoencoderConfig, LibraryParams, Params, too_much
from pdiff.system.errors import InputError

DAY_S = 86_400
PER_S = 2 * 10**15
"""Operations: the fastest GPU's in half precision."""
STEP_S = 1e-4
"""The shortest training step; one is a dozen kernels."""
TAPS = 1024
"""A kernel may have as many whatever the signal's length."""
LONG = 10**6


def check_limits(params: Params, length: int) -> None:
    """Raise `InputError` that names all parameters for which a subset of D values is too much."""
    own = _numbers(params), _seconds(params)
    if found := "; ".join(_problems(params, params.finetune.checkpoints, length, *own)):
        raise InputError(found)


def check_generator(params: LibraryParams, count: int, length: int) -> None:
    """As `check_limits`, of what the library has: autoencoder and diffusion of `count` models."""
    if found := "; ".join(_problems(params, count, length, {}, {})):
        raise InputError(found)


def _problems(
    params: Params | LibraryParams,
    count: int,
    length: int,
    numbers: dict[str, int],
    seconds: dict[str, float],
) -> Iterator[str]:
    coder, ddpm = params.autoencoder, params.ddpm
    if coder.latent_dim > length:
        yield (
            f"autoencoder.latent_dim: {coder.latent_dim} is more than the {length} parameters that "
            "are generated (subset.select)"
        )
        return
    signals = {"ddpm": (ddpm.kernel_size, coder.latent_dim)}
    if coder.kind != "linear":
        signals["autoencoder"] = (coder.kernel_size, _padded(coder, length))
    for section, (kernel_size, signal) in signals.items():
        if kernel_size > max(2 * signal, TAPS):
            yield (
                f"{section}.kernel_size: {kernel_size} is more than twice the {signal} positions "
                "that it slides over"
            )
    hint = "; autoencoder.kind: linear is meant for long subsets"
    for key, held in (numbers | _codec_numbers(params, count, length)).items():
        if held > MEMORY:
            yield too_much(key, held) + hint * ("subset.select" in key and length > LONG)
    for key, least in (seconds | _generator_seconds(params, length)).items():
        if least > DAY_S:
            days = least / DAY_S
            yield f"{key}: {days:,.0f} days or more would be needed on the fastest GPU; give less"


def _numbers(params: Params) -> dict[str, int]:
    """Numbers of 4 bytes that are held at once; the similarities of all pairs of models are."""
    baselines, count = params.baselines, params.finetune.checkpoints
    noised = baselines.noised_models * len(baselines.noise_levels)
    found = {
        "generate.models": 3 * params.generate.models**2,
        "baselines.noised_models": 3 * noised**2,
        "finetune.checkpoints": 3 * count**2,
        "base.batch_size, data.size": 3 * params.base.batch_size * params.data.size**2,
    }
    if params.novelty.audit:
        rivals = params.novelty.bootstrap * baselines.rival_models
        found["novelty.bootstrap, baselines.rival_models"] = 2 * rivals
    return found


def _codec_numbers(params: Params | LibraryParams, count: int, length: int) -> dict[str, int]:
    coder = params.autoencoder
    if coder.kind == "linear":
        return {}
    padded, ends = _padded(coder, length), _features(coder, length)
    widths = sum(width / 2 ** (i + 1) for i, width in enumerate(coder.channels))
    kept = 1 if coder.checkpointing or coder.micro_batch else 1 + widths
    each = 2 if coder.optimizer == "adafactor" else 4
    return {
        "autoencoder.latent_dim, subset.select": 2 * each * ends * coder.latent_dim,
        "autoencoder.batch_size, subset.select": int(coder.batch_size * padded * kept),
        "finetune.checkpoints, subset.select": 2 * count * length,
    }


def _seconds(params: Params) -> dict[str, float]:
    base, finetune = params.base, params.finetune
    batches = max((params.data.train_size or 0) // base.batch_size, 1)
    found = {
        "base.epochs": base.epochs * batches * STEP_S,
        "novelty.bootstrap": params.novelty.bootstrap * STEP_S,
    }
    if finetune.folder is None:
        saved = finetune.save_after + finetune.checkpoints_of_a_run * finetune.save_every
        key = "finetune.checkpoints, finetune.save_every, finetune.save_after"
        found[key] = finetune.runs * saved * STEP_S
    return found


def _generator_seconds(params: Params | LibraryParams, length: int) -> dict[str, float]:
    coder, ddpm, generate = params.autoencoder, params.ddpm, params.generate
    denoised = ddpm.kernel_size * coder.latent_dim * _products((1, *ddpm.channels, 1))
    sampled = {"ddpm": ddpm.timesteps, "ddim": generate.steps, "prior": 0}[generate.sampler]
    points = 1 + sampled // generate.trajectory_every

    def drawing(count: int) -> float:
        return 2 * count * sampled * denoised / PER_S + sampled * STEP_S

    found = {
        "ddpm.steps, ddpm.batch_size, ddpm.channels": _training(
            ddpm.steps, ddpm.batch_size, denoised
        ),
        "generate.models, generate.steps": drawing(generate.models),
        "generate.fit_latents, generate.steps": drawing(generate.fit_latents or 0),
        "generate.trajectories": generate.trajectories * points * STEP_S,
    }
    if coder.kind != "linear":
        ends, taps = _features(coder, length), coder.kernel_size
        layers = enumerate(pairwise((1, *coder.channels)))
        one = sum(_padded(coder, length) / 2 ** (i + 1) * a * b * taps for i, (a, b) in layers)
        work = 2 * (one + ends * coder.latent_dim)
        key = "autoencoder.steps, autoencoder.batch_size, autoencoder.channels"
        found[key] = _training(coder.steps, coder.batch_size, work)
    return found


def _training(steps: int, batch: int, multiplications: float | int) -> float:
    """Forward and backward pass: six operations for each multiplication of a sample."""
    return steps * max(STEP_S, 6 * batch * multiplications / PER_S)


def _padded(config: AutoencoderConfig, length: int) -> int:
    """P of `pdiff.autoencoder.net`."""
    multiple = max(64, 2 ** len(config.channels))
    return math.ceil(length / multiple) * multiple


def _features(config: AutoencoderConfig, length: int) -> int:
    return config.channels[-1] * _padded(config, length) // 2 ** len(config.channels)


def _products(widths: tuple[int, ...]) -> int:
    return sum(before * after for before, after in pairwise(widths))

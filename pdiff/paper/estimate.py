"""How long an experiment takes and how much memory it wants, from stages that were measured.

The work of a stage (floating-point operations, or the bytes that it moves) is counted from its
parameters; time is that of the measured stage of the same kind, on the same kind of device, whose
work is nearest, times the ratio of the two. Memory is that stage's peak plus what the tensors need
more. Measured are the stages that ran on this machine (`.work/runs`), and the machines of
`pdiff/reference/stage_times.json`. On a GPU on which nothing has been measured the time follows
from an assumed speed, and the estimate says so.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pdiff.autoencoder.net import Autoencoder
from pdiff.baselines.registry import made_by_codec, made_of_originals
from pdiff.config import Params, parse_params
from pdiff.diffusion.denoiser import Denoiser
from pdiff.nets.registry import build_net
from pdiff.paper.definitions import REFERENCE
from pdiff.paper.experiments import Experiment
from pdiff.paper.pipeline import stage_keys
from pdiff.parameters.subset import select_subset
from pdiff.system.errors import InputError
from pdiff.tracking import runs_folder

START_S = 8.0
"""Seconds that Python, its imports and DVC take for one stage; measured on two CPU cores."""
IMPORTS_MB = 600.0
"""Peak memory of a process that has only imported the package."""
ASSUMED = {"cuda": 1e13}
"""Operations a second that a device is taken to sustain until a stage has been measured on it."""
ON_THE_PROCESSOR = ("prepare_data", "novelty")
"""Stages that run on the processor whatever the device."""
CLASSES = {"cifar100": 100, "flowers102": 102, "pets": 37, "food101": 101, "imagenet": 1000}
IMAGES = {"digits": (897, 900)}
STORED = {"cifar10": 32, "cifar100": 32, "cifar10_images": 32, "stl10": 96, "mnist": 28, "svhn": 32}
"""Side in pixels of images that are kept as they are, in one tensor."""
LISTED = ("flowers102", "pets", "food101", "imagenet")
"""Sets of which only the paths are kept."""


@dataclass(frozen=True)
class Work:
    """What a stage has to do."""

    operations: int | float
    bytes: int | float
    """Of what it must hold in memory at once, beyond the imports."""

    def __post_init__(self) -> None:
        assert self.operations > 0 and self.bytes > 0


@dataclass(frozen=True)
class Measured:
    """One stage that ran somewhere."""

    stage: str
    device: str
    machine: str
    params: Mapping[str, Any]
    duration_s: float
    peak_memory_mb: float


@dataclass(frozen=True)
class Estimate:
    stage: str
    seconds: float
    memory_mb: float
    source: str
    """Which measured stage it was scaled from, and by how much."""


def estimate(
    experiments: Sequence[Experiment], device: str, done: Sequence[Experiment] = ()
) -> list[Estimate]:
    """One entry for each stage that has to run, each only once however many experiments share it.

    What the experiments in `done` have run is there already.
    Stages that have no measured run on `device` (`cpu` or `cuda`), and no assumed speed either,
    have an unknown time, NaN.
    """
    measured = [*_own(), *_reference()]
    found: list[Estimate] = []
    seen = {key for other in done for key in stage_keys(other.params).values()}
    for experiment in experiments:
        for stage, key in stage_keys(experiment.params).items():
            if key not in seen:
                seen.add(key)
                params = parse_params(experiment.params)
                found.append(_estimate(stage, params, measured, device))
    return found


def _estimate(stage: str, params: Params, measured: Iterable[Measured], device: str) -> Estimate:
    if stage == "check_params":  # it does nothing but start
        return Estimate(stage, START_S, IMPORTS_MB, "a stage's start")
    work = work_of(stage, params)
    candidates = []
    for run in measured:
        if run.stage == stage and (run.device == device or stage in ON_THE_PROCESSOR):
            known = work_of(stage, parse_params(dict(run.params)))
            ratio = work.operations / known.operations
            candidates.append((abs(math.log(ratio)), run.duration_s * ratio, ratio, known, run))
    if not candidates:
        return _unmeasured(stage, work, device)
    nearest = min(candidates, key=lambda candidate: candidate[0])[0]
    alike = sorted((c[1:] for c in candidates if c[0] <= nearest + 0.1), key=lambda c: c[0])
    scaled, ratio, known, run = alike[len(alike) // 2]  # the median of runs of about as much work
    seconds = START_S + scaled
    memory = max(run.peak_memory_mb + (work.bytes - known.bytes) / 2**20, IMPORTS_MB)
    source = f"{run.duration_s:.1f} s on {run.machine}, x {ratio:.3g} the work"
    return Estimate(stage, seconds, memory, source)


def _unmeasured(stage: str, work: Work, device: str) -> Estimate:
    speed = ASSUMED.get(device, math.nan)
    source = "no measured run on this kind of device"
    if device in ASSUMED:
        source = (
            f"not measured: {work.operations:.2g} operations at an assumed {speed:.0g} a second"
        )
    return Estimate(
        stage, START_S + work.operations / speed, IMPORTS_MB + work.bytes / 2**20, source
    )


def compare(runs: Iterable[Measured], known: Iterable[Measured]) -> list[tuple[Measured, float]]:
    """What was measured beside the seconds that are estimated for it from the runs in `known`."""
    known = list(known)
    pairs = []
    for run in runs:
        found = _estimate(run.stage, parse_params(dict(run.params)), known, run.device)
        pairs.append((run, found.seconds - START_S))
    return pairs


def _own() -> list[Measured]:
    """Stages that ran on this machine and went well."""
    found = []
    for path in runs_folder().glob("*/*.json"):
        record = json.loads(path.read_text())
        try:
            parse_params(record["all_params"])
        except InputError:
            continue  # of another version of the parameters
        if record["status"] == "FINISHED":
            found.append(measured_from(record, "this machine"))
    return found


def measured_from(record: Mapping[str, Any], machine: str) -> Measured:
    """What a stage's record (`pdiff.tracking`) says of its cost."""
    device = record["tags"].get("pdiff.device", "cpu").partition(":")[0]
    timing = record["timing"]
    memory = timing.get("peak_gpu_memory_mb") or timing["peak_memory_mb"]
    return Measured(
        record["stage"], device, machine, record["all_params"], timing["duration_s"], memory
    )


@cache
def _reference() -> tuple[Measured, ...]:
    path = REFERENCE / "stage_times.json"
    if not path.exists():
        return ()
    return tuple(Measured(**entry) for entry in json.loads(path.read_text()))


def work_of(stage: str, params: Params) -> Work:
    """Counted from the parameters alone; never zero."""
    return _WORK[stage](params)


def _image_counts(params: Params) -> tuple[int, int, int]:
    """Training, validation and test images."""
    data = params.data
    train, test = data.expect or IMAGES.get(data.reader, (50_000, 10_000))
    held = 0
    if data.split == "validation":
        size = data.validation_size
        held = size if isinstance(size, int) else round(size * train)
    return (
        min(data.train_size or train, train - held),
        held,
        min(data.test_size or test, test),
    )


@dataclass(frozen=True)
class _Net:
    whole: float
    """Operations of one image's forward pass."""
    suffix: float
    """Those from the first module on that holds a parameter of the subset."""
    parameters: int
    subset: int
    activations: float
    """Bytes of all layers' outputs for one image."""


def _net(params: Params) -> _Net:
    select = params.subset.select
    expression = select if isinstance(select, str) else tuple(select)
    classes = CLASSES.get(params.data.name, 10)
    return _count_net(params.base.net, classes, params.data.size, expression)


@cache
def _count_net(name: str, classes: int, size: int, select: str | tuple[str, ...]) -> _Net:
    with torch.device("meta"):
        net = build_net(name, classes, size).eval()
        image = torch.zeros(1, 3, size, size)
    subset = select_subset(net, select)
    layers = {parameter.rpartition(".")[0] for parameter in subset.names}
    counter = FlopCounterMode(display=False)
    before: list[int] = []
    held = _watch_outputs(net)
    for layer, module in net.named_modules():
        if layer in layers:
            module.register_forward_pre_hook(
                lambda *_: before.append(counter.get_total_flops()) if not before else None
            )
    with torch.no_grad(), counter:
        net(image)
    whole = float(counter.get_total_flops())
    prefix = before[0] if before else 0
    parameters = sum(parameter.numel() for parameter in net.parameters())
    # what is no matrix product (norms, activations) still takes time
    suffix = max(whole - prefix, 0.02 * whole)
    return _Net(whole, suffix, parameters, subset.length, float(sum(held)))


@cache
def _count_autoencoder(length: int, channels: tuple[int, ...], kernel: int, latent: int) -> Work:
    with torch.device("meta"):
        model, x = Autoencoder(length, channels, kernel, latent), torch.zeros(2, length)
    return _count(model, lambda: model(x))


@cache
def _count_denoiser(latent: int, channels: tuple[int, ...], kernel: int) -> Work:
    with torch.device("meta"):
        model = Denoiser(latent, channels, kernel)
        x, t = torch.zeros(2, latent), torch.zeros(2, dtype=torch.long)
    return _count(model, lambda: model(x, t))


def _count(model: nn.Module, forward: Callable[[], Any]) -> Work:
    """Operations of one sample's forward pass; bytes of the activations that training keeps."""
    held = _watch_outputs(model)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        forward()
    return Work(counter.get_total_flops() / 2, sum(held) / 2)


def _watch_outputs(model: nn.Module) -> list[int]:
    """A list that fills with the bytes of each layer's output when the model runs."""
    held: list[int] = []
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _m, _i, out: held.append(out.numel() * 4))
    return held


def _autoencoder(params: Params) -> tuple[Work, int]:
    config, length = params.autoencoder, _net(params).subset
    work = _count_autoencoder(length, config.channels, config.kernel_size, config.latent_dim)
    features = config.channels[-1] * length // 2 ** len(config.channels)
    return work, 2 * features * config.latent_dim


def _prepare_data(params: Params) -> Work:
    total, data = sum(_image_counts(params)), params.data
    pixels = STORED.get(data.name, data.resize) ** 2
    return Work(total, total * 2 * (100 if data.name in LISTED else 3 * pixels))


def _train_base(params: Params) -> Work:
    train, held, test = _image_counts(params)
    net, config = _net(params), params.base
    images = config.epochs * (3 * train + held) + held + test
    return Work(images * net.whole, 16 * net.parameters + config.batch_size * net.activations)


def _finetune(params: Params) -> Work:
    config = params.finetune
    return _finetune_run(params, config.checkpoints + config.held_back)


def _finetune_again(params: Params) -> Work:
    config = params.finetune
    wanted = params.novelty.audit and config.folder is None and config.second_run
    return _finetune_run(params, config.checkpoints) if wanted else Work(0, 0)


def _finetune_run(params: Params, checkpoints: int) -> Work:
    net, config = _net(params), params.finetune
    steps = config.save_after + checkpoints * config.save_every
    operations = steps * config.batch_size * (net.whole + 2 * net.suffix)
    stack = 4 * checkpoints * net.subset
    return Work(operations, 8 * net.parameters + stack + config.batch_size * net.activations)


def _train_autoencoder(params: Params) -> Work:
    forward, weights = _autoencoder(params)
    config = params.autoencoder
    stack = 4 * params.finetune.checkpoints * _net(params).subset
    encoded = params.finetune.checkpoints * forward.bytes / 8  # all at once, two layers at a time
    operations = 3 * config.steps * config.batch_size * forward.operations
    held = max(2 * config.batch_size * forward.bytes, encoded)
    return Work(operations, 16 * weights + stack + held)


def _denoiser(params: Params) -> Work:
    config = params.ddpm
    return _count_denoiser(params.autoencoder.latent_dim, config.channels, config.kernel_size)


def _train_ddpm(params: Params) -> Work:
    forward, config = _denoiser(params), params.ddpm
    operations = 3 * config.steps * config.batch_size * forward.operations
    return Work(operations, 2 * config.batch_size * forward.bytes)


def _generate(params: Params) -> Work:
    config, steps = params.generate, {"ddpm": params.ddpm.timesteps, "prior": 1}
    taken = steps.get(config.sampler, config.steps)
    models = config.models + config.trajectories
    decode, _ = _autoencoder(params)
    forward = _denoiser(params)
    operations = models * (taken * forward.operations + decode.operations)
    return Work(operations, models * max(forward.bytes / 8, decode.bytes))


def _evaluate(params: Params, models: int) -> Work:
    _, held, test = _image_counts(params)
    net = _net(params)
    operations = (held + test) * (net.whole + models * net.suffix)
    stack = 4 * models * net.subset
    return Work(operations, stack + params.evaluate.batch_size * net.activations / 8)


def _evaluate_originals(params: Params) -> Work:
    """The candidates of the greedy soup count by the images of one split."""
    _, held, test = _image_counts(params)
    candidates = min(params.baselines.soup_candidates, params.finetune.checkpoints)
    tried = candidates * held / (held + test) if params.novelty.audit else 0
    return _evaluate(params, made_of_originals(params) + round(tried))


def _evaluate_generated(params: Params) -> Work:
    followed = 0
    config = params.generate
    if config.trajectories:
        steps = params.ddpm.timesteps if config.sampler == "ddpm" else config.steps
        followed = config.trajectories * (steps // config.trajectory_every + 1)
    return _evaluate(params, made_by_codec(params) + followed)


def _novelty(params: Params) -> Work:
    _, _, test = _image_counts(params)
    originals, generated = params.finetune.checkpoints, params.generate.models
    pairs = originals * (originals + generated)
    patterns = 20 * test**0.5  # of errors, on which the bootstrap works in place of the images
    operations = pairs * (10 * test + params.novelty.bootstrap * patterns)
    return Work(operations, 8 * pairs + 2000 * test)


_WORK: dict[str, Callable[[Params], Work]] = {
    "prepare_data": _prepare_data,
    "train_base": _train_base,
    "finetune": _finetune,
    "finetune_again": _finetune_again,
    "train_autoencoder": _train_autoencoder,
    "train_ddpm": _train_ddpm,
    "generate": _generate,
    "evaluate_originals": _evaluate_originals,
    "evaluate_generated": _evaluate_generated,
    "novelty": _novelty,
}

"""Peak memory of a training: measured in a process of its own, or computed without running it.

A step is a forward pass, a backward pass and the optimiser's, whose state is there before, as from
the second step of a training on. Everything it holds counts: weights, gradients, optimiser state,
batch, activations.

Computed: PyTorch runs the step on fake tensors, which have shapes and types but no content, and
every storage counts from its birth to its end. What libraries take inside an operation (workspaces,
copies in another layout), what an allocator rounds up and cannot use again, and the driver's own
memory are not in it.
"""

import json
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pdiff.autoencoder.linear import round_trip
from pdiff.autoencoder.train import batch_loss, make_autoencoder
from pdiff.config import AutoencoderConfig, DdpmConfig, NoiseConfig
from pdiff.core.optimise import make_optimizer, train_step
from pdiff.core.runtime import get_device
from pdiff.diffusion.denoiser import Denoiser
from pdiff.diffusion.schedule import Diffusion
from pdiff.parameters.stack import write_rows
from pdiff.parameters.subset import Subset
from pdiff.system.errors import InputError

Precision = Literal["float32", "bfloat16"]
SOURCE = Path(__file__).resolve().parents[2]
NOISE = NoiseConfig(param=0.001, latent=0.1)


@dataclass(frozen=True)
class Start:
    """A training before a step."""

    optimizer: torch.optim.Optimizer
    loss: Callable[[], Tensor]

    def make_state(self) -> None:
        """Give the optimiser its state by a step that goes nowhere."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self) -> Tensor:
        return train_step(self.optimizer, self.loss)


def start_autoencoder(
    length: int, values: dict[str, Any], device: torch.device, precision: torch.autocast
) -> Start:
    """On vectors of `length`; `values` is the autoencoder's section of `params.yaml`."""
    config = AutoencoderConfig.model_validate(values)
    with device:
        model = make_autoencoder(length, config)
        matrix = torch.randn(config.batch_size, length)
    optimizer = make_optimizer(config.optimizer, model.parameters(), config.lr, config.weight_decay)
    generator = torch.Generator(device)
    return Start(optimizer, lambda: batch_loss(model, matrix, config, NOISE, generator, precision))


def start_denoiser(
    length: int, values: dict[str, Any], device: torch.device, precision: torch.autocast
) -> Start:
    """On latents of `length`; `values` is the section `ddpm`."""
    config = DdpmConfig.model_validate(values)
    diffusion = Diffusion(config.timesteps, config.beta_start, config.beta_end, device)
    with device:
        model = Denoiser(length, config.channels, config.kernel_size)
        latents = torch.randn(config.batch_size, length)
    generator = torch.Generator(device)

    def loss() -> Tensor:
        with precision:
            return diffusion.loss(model, latents, generator)

    optimizer = make_optimizer("adamw", model.parameters(), config.lr, config.weight_decay)
    return Start(optimizer, loss)


STARTS = {"autoencoder": start_autoencoder, "denoiser": start_denoiser}


@dataclass(frozen=True, eq=False)
class Training:
    """What to train; survives JSON."""

    net: str
    """A key of `STARTS`, or `linear`, the codec that has no steps and is measured whole."""
    length: int
    values: dict[str, Any]
    """The net's section of `params.yaml`; of `linear` checkpoints, models and latent_dim."""

    def start(self, device: torch.device, precision: Precision) -> Start:
        low = precision == "bfloat16"
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=low)
        return STARTS[self.net](self.length, self.values, device, autocast)


@dataclass(frozen=True)
class Peak:
    """Bytes; None is unknown."""

    peak: int | None
    before: int | None
    """Between two steps: weights, optimiser state, data."""
    reserved: int | None = None
    """What CUDA's allocator took from the device."""


class StorageCounter(TorchDispatchMode):
    """Adds up the storages that operations return, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._living: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            return 1.0  # Adafactor reads a tensor's size; any number will do
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key not in self._living:
            self._living.add(key)
            weakref.finalize(storage, self._end, key, size)
            self.now += size
            self.peak = max(self.peak, self.now)

    def _end(self, key: int, size: int) -> None:
        self._living.discard(key)
        self.now -= size


@cache
def compute_peak(training: Training, precision: Precision) -> Peak:
    """From fake tensors: no memory and little time, whatever the size."""
    with FakeTensorMode(), StorageCounter() as counter:
        start = training.start(torch.device("cpu"), precision)
        start.make_state()
        before = counter.peak = counter.now
        start.step()
    return Peak(counter.peak, before)


def measure_peak(training: Training) -> Peak:
    """Run it in a process of its own, on the GPU if there is one (bfloat16 autocast), else here.

    On the CPU it is what the process holds beyond its imports and a toy training, while the C
    library gives back freed memory at once.
    """
    command = [sys.executable, "-m", "pdiff.paper.training_memory", json.dumps(asdict(training))]
    paths = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise InputError(
            f"{training.net} of {training.length}: {done.stderr.strip().splitlines()[-1]}"
        )
    return Peak(**json.loads(done.stdout))


def available_memory() -> int:
    """Bytes that a training may take here without pushing others out: of the GPU or the machine."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable") * 1024


def _kilobytes(path: Path, key: str) -> int:
    """A line such as `VmHWM:  123 kB` of a file that Linux writes."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise InputError(f"{path} is missing: memory on the CPU is measured on Linux") from None
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _measure_here(training: Training) -> Peak:
    if training.net == "linear":
        return _measure_linear(training)
    device = get_device()
    toy = replace(training, length=64, values=training.values | {"channels": [2]})
    _prepare(toy, device).step()  # loads libraries
    if device.type == "cuda":
        return _measure_cuda(training, device)
    status = Path("/proc/self/status")
    imports = _kilobytes(status, "VmRSS")
    start = _prepare(training, device)
    before = _kilobytes(status, "VmRSS")
    start.step()
    peak = _kilobytes(status, "VmHWM")
    return Peak((peak - imports) * 1024, (before - imports) * 1024)


def _measure_linear(training: Training) -> Peak:
    """Fit to checkpoints on disk, encode them, decode some models to disk."""
    latent_dim, models = (training.values[name] for name in ("latent_dim", "models"))
    status = Path("/proc/self/status")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        stack, out = Path(folder) / "checkpoints", Path(folder) / "decoded"
        for length in (64, training.length):  # a toy first, which loads libraries
            imports = _kilobytes(status, "VmRSS")
            count = training.values["checkpoints"] if length > 64 else 3
            rows = (torch.randn(length) for _ in range(count))
            write_rows(stack, Subset({"values": (length,)}), count, rows)
            before = _kilobytes(status, "VmRSS")
            round_trip(stack, min(latent_dim, count - 1), models, out)
    return Peak((_kilobytes(status, "VmHWM") - imports) * 1024, (before - imports) * 1024)


def _measure_cuda(training: Training, device: torch.device) -> Peak:
    torch.cuda.empty_cache()
    start = _prepare(training, device)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    start.step()
    return Peak(torch.cuda.max_memory_allocated(), before, torch.cuda.max_memory_reserved())


def _prepare(training: Training, device: torch.device) -> Start:
    start = training.start(device, "bfloat16" if device.type == "cuda" else "float32")
    start.make_state()
    return start


if __name__ == "__main__":
    print(json.dumps(asdict(_measure_here(Training(**json.loads(sys.argv[1]))))))

"""Table 13: peak memory of training, computed from the step's tensors, and measured where it fits.

A step is a forward pass, a backward pass and the optimiser's, whose state is there before.
Computed: PyTorch runs the step on fake tensors, which have shapes and types but no content, and
every storage counts from its birth to its end. Measured: a process of its own runs the step, on
the GPU if there is one (bfloat16 autocast), else on the CPU (float32).
"""

import math
import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple
from weakref import WeakSet

import pandas as pd
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pdiff.autoencoder.linear import round_trip
from pdiff.autoencoder.net import Autoencoder
from pdiff.autoencoder.train import batch_loss, make_autoencoder
from pdiff.config import AutoencoderConfig, DdpmConfig, NoiseConfig
from pdiff.core.optimise import make_optimizer, train_step
from pdiff.core.runtime import get_device
from pdiff.diffusion.denoiser import Denoiser
from pdiff.diffusion.schedule import Diffusion
from pdiff.paper.definitions import DEFAULT, table
from pdiff.paper.experiments import make_experiment
from pdiff.parameters.stack import write_rows
from pdiff.parameters.subset import Subset
from pdiff.system.errors import InputError
from pdiff.system.progress import tqdm

Precision = Literal["float32", "bfloat16"]
CPU = torch.device("cpu")
NOISE = NoiseConfig(param=0.001, latent=0.1)
PAPERS = "as in the paper"
MODES: dict[str, dict[str, Any]] = {
    PAPERS: {},
    "checkpointing": {"checkpointing": True},
    "micro_batch 5": {"micro_batch": 5},
    "adafactor": {"optimizer": "adafactor"},
    "checkpointing, adafactor": {"checkpointing": True, "optimizer": "adafactor"},
    "micro_batch 5, adafactor": {"micro_batch": 5, "optimizer": "adafactor"},
}
"""Ways to train the autoencoder: what each changes in its section of `params.yaml`."""
RESIDENT = "with the autoencoder, as the authors measure"
"""The denoiser's step, before which a batch is encoded and after which it is decoded."""
CODEC = {"checkpoints": 300, "models": 200}
LINEAR = "300 checkpoints, 200 decoded"
LARGER = [[1_000_000, 1024, math.nan], [11_689_512, 1024, math.nan]]
"""Rows beyond the paper, as `tables.yaml` has its own; the second is a ResNet-18."""
LARGE = 300_288
"""Adafactor is shown from this many parameters on, the linear codec is measured up to it."""
SHOWN = ("net", "parameters", "latent", "mode", "paper")
SIZES = ["ours, bfloat16 (computed)", "ours, float32 (computed)", "of it between steps"]
SIZES += ["measured", "reserved"]
QUICK = 2048
"""The CPU measures vectors up to this length, unless all is asked for."""
NOTES = (
    "Peak memory of one full training step at batch 50, in MiB. Paper: read from nvidia-smi, with "
    "the driver's own memory and what the allocator keeps. Computed: the storages that live at "
    "once; workspaces and what the allocator loses are not in it. Between steps: weights, "
    "optimiser state and data. Measured: resident memory beyond the imports (CPU), or allocated "
    "and reserved memory (CUDA). The linear codec is fitted to 300 checkpoints on disk, encodes "
    "them and decodes 200 models."
)


@dataclass(frozen=True, eq=False)
class Training:
    """A row of the table: what is trained, and how."""

    net: str
    """`autoencoder`, `denoiser`, or `linear`, the codec that has no steps and is measured whole."""
    parameters: int
    latent: int
    values: Mapping[str, Any]
    """The net's section of `params.yaml`; numbers of checkpoints and models for `linear`."""
    mode: str = PAPERS
    paper: float | int = math.nan

    @property
    def label(self) -> str:
        return f"{self.net}, {self.parameters:,} parameters, {self.mode}"

    def prepare(
        self, device: torch.device, precision: Precision, folder: Path | None = None
    ) -> Callable[[], object]:
        """One step, with everything that is there before it; `linear` keeps files in `folder`."""
        if self.net == "linear":
            return self._round_trip(folder)
        half = partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bfloat16")
        autocast = half()
        generator, codec = torch.Generator(device), None
        with device:
            if self.net == "autoencoder":
                known = {**self.values, "latent_dim": self.latent}
                config = AutoencoderConfig.model_validate(known)
                model = make_autoencoder(self.parameters, config)
                batch = torch.randn(config.batch_size, self.parameters)
                loss = partial(batch_loss, model, batch, config, NOISE, generator, autocast)
            else:
                if self.mode == RESIDENT:
                    codec = self._codec()
                config = DdpmConfig.model_validate(self.values)
                diffusion = Diffusion(config.timesteps, config.beta_start, config.beta_end, device)
                model = Denoiser(self.latent, config.channels, config.kernel_size)
                batch = torch.randn(config.batch_size, self.latent)
                loss = autocast(partial(diffusion.loss, model, batch, generator))
        name = getattr(config, "optimizer", "adamw")
        optimizer = make_optimizer(name, model.parameters(), config.lr, config.weight_decay)
        for parameter in model.parameters():  # a step to nowhere gives the optimiser its state
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        step = partial(train_step, optimizer, loss)
        if codec is None:
            return step
        return half()(partial(self._within, codec, step, batch))  # one of its own: they nest

    def _codec(self) -> Autoencoder:
        """The autoencoder of Table 13's row with as many parameters."""
        section = make_experiment(("recipe=paper", *DEFAULT)).params["autoencoder"]
        known = AutoencoderConfig.model_validate({**section, "latent_dim": self.latent})
        return make_autoencoder(self.parameters, known)

    @torch.no_grad()
    def _within(self, codec: Autoencoder, step: Callable[[], object], batch: Tensor) -> None:
        codec.encode(torch.randn(len(batch), self.parameters, device=batch.device))
        with torch.enable_grad():
            step()
        codec.decode(batch)

    def _round_trip(self, folder: Path) -> Callable[[], object]:
        count, models = self.values["checkpoints"], self.values["models"]
        stack = folder / f"stack_{self.parameters}"
        rows = (torch.randn(self.parameters) for _ in range(count))
        write_rows(stack, Subset({"values": (self.parameters,)}), count, rows)
        return partial(round_trip, stack, self.latent, models, folder / "decoded")

    def toy(self) -> "Training":
        """The same in small, which loads the libraries."""
        small = {"channels": [2]} if self.net != "linear" else {"checkpoints": 9}
        return replace(self, parameters=64, latent=8, values={**self.values, **small})


class Peak(NamedTuple):
    """Bytes; None is unknown."""

    peak: int | None = None
    before: int | None = None
    """Between two steps: weights, optimiser state, data."""
    reserved: int | None = None
    """What CUDA's allocator took from the device."""


class StorageCounter(TorchDispatchMode):
    """Adds up the storages that operations return, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._living: WeakSet[torch.UntypedStorage] = WeakSet()

    @property
    def now(self) -> int:
        return sum(storage.nbytes() for storage in self._living)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            return 1.0  # Adafactor reads a tensor's size; any number will do
        result = function(*args, **(kwargs or {}))
        tensors = (value for value in tree_leaves(result) if isinstance(value, Tensor))
        self._living.update(tensor.untyped_storage() for tensor in tensors)
        self.peak = max(self.peak, self.now)
        return result


@cache
def compute_peak(training: Training, precision: Precision) -> Peak:
    """From fake tensors: no memory and little time, whatever the size."""
    with FakeTensorMode(), StorageCounter() as counter:
        step = training.prepare(CPU, precision)
        before = counter.peak = counter.now
        step()
    return Peak(counter.peak, before)


def measure_peak(training: Training) -> Peak:
    """Run it in a process of its own; on the CPU, what that holds beyond imports and a toy.

    Raises:
        InputError: the process was killed, as the system does when memory runs out.
    """
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "65536")  # freed memory goes back at once
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_measure_here, training).result()
        except BrokenExecutor:
            raise InputError(f"{training.label}: the process that measures was killed") from None


def _measure_here(training: Training) -> Peak:
    device = CPU if training.net == "linear" else get_device()
    cuda = device.type == "cuda"
    precision: Precision = "bfloat16" if cuda else "float32"

    def held() -> int:
        return torch.cuda.memory_allocated() if cuda else _bytes("self/status", "VmRSS")

    with tempfile.TemporaryDirectory(dir=".") as folder:
        training.toy().prepare(device, precision, Path(folder))()
        imports = held()
        step = training.prepare(device, precision, Path(folder))
        before = held() - imports
        step()
    peak = torch.cuda.max_memory_allocated() if cuda else _bytes("self/status", "VmHWM")
    return Peak(peak - imports, before, torch.cuda.max_memory_reserved() if cuda else None)


def available_memory() -> int:
    """Bytes that a training may take here without pushing others out: of the GPU or the machine."""
    cuda = torch.cuda.is_available()
    return torch.cuda.mem_get_info()[0] if cuda else _bytes("meminfo", "MemAvailable")


def _bytes(file: str, key: str) -> int:
    """A line such as `VmHWM:  123 kB` of a file in /proc."""
    path = Path("/proc", file)
    if not path.exists():
        raise InputError(f"{path} is missing: memory on the CPU is measured on Linux")
    lines = path.read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


@cache
def trainings() -> list[Training]:
    """The rows: the autoencoder's by size and mode with the linear codec, then the denoiser's."""
    params = make_experiment(("recipe=paper", *DEFAULT)).params
    papers = table("13").paper
    found = []
    for size, latent, paper in [row[:3] for row in papers] + LARGER:
        for mode, changes in MODES.items():
            if size >= LARGE or "adafactor" not in mode:
                known, values = math.nan if changes else paper, params["autoencoder"] | changes
                found.append(Training("autoencoder", size, latent, values, mode, known))
        few = min(latent, CODEC["checkpoints"] - 1)
        found.append(Training("linear", size, few, CODEC, LINEAR))
    for size, latent, _, paper in papers:
        found.append(Training("denoiser", size, latent, params["ddpm"]))
        found.append(Training("denoiser", size, latent, params["ddpm"], RESIDENT, paper))
    return found


def plan(full: bool) -> str:
    """What `memory_table` will do for each row."""
    return "\n".join(f"  {t.label}: {why_not(t, full) or 'measured'}" for t in trainings())


def memory_table(full: bool) -> pd.DataFrame:
    """What each training holds, in MiB: computed, and measured here or why not."""
    rows = tqdm(trainings(), "table 13", unit="row", disable=None)
    frame = pd.DataFrame([_row(training, full) for training in rows])
    frame[SIZES] = (frame[SIZES].astype("Float64") / 2**20).round()
    return frame.astype(dict.fromkeys(["parameters", "latent", "paper", *SIZES], "Int64"))


def why_not(training: Training, full: bool) -> str:
    """Why a row is not measured, empty if it is.

    Libraries may take as much again as is computed: that must be free.
    """
    codec, cuda = training.net == "linear", torch.cuda.is_available()
    alone = training.net == "denoiser" and training.mode != RESIDENT
    size = training.latent if alone else training.parameters
    if not (full or size <= (LARGE if codec else QUICK) or (cuda and not codec)):
        return "not measured without --full"
    if codec:
        return ""
    computed = compute_peak(training, "bfloat16" if cuda else "float32").peak
    return "" if 2 * computed < available_memory() else "too large for this machine"


def _row(training: Training, full: bool) -> dict[str, Any]:
    """Sizes in bytes."""
    reason, codec = why_not(training, full), training.net == "linear"
    half, single = (Peak() if codec else compute_peak(training, p) for p in ("bfloat16", "float32"))
    measured = Peak() if reason else measure_peak(training)
    sizes = (half.peak, single.peak, half.before, measured.peak, measured.reserved)
    where = "CPU, float64 and float32" if codec else "CPU, float32"
    if torch.cuda.is_available() and not codec:
        where = f"{torch.cuda.get_device_name()}, bfloat16"
    row = {name: getattr(training, name) for name in SHOWN}
    return row | dict(zip(SIZES, sizes, strict=True)) | {"how": reason or where}

"""Peak memory beyond the imports, each way in a process of its own: less memory for more time."""

import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.timing import duration, once, table
from pdiff.autoencoder.linear import round_trip
from pdiff.autoencoder.train import batch_loss, make_autoencoder
from pdiff.config import load_params
from pdiff.core.optimise import autocast
from pdiff.parameters.stack import load_stack, write_rows
from pdiff.parameters.subset import Subset

HEADER = ["what", "peak", "of the plain way's", "time"]
WAYS = {  # how activations are kept for the backward pass
    "all": {"checkpointing": False, "micro_batch": None},
    "between blocks": {"checkpointing": True, "micro_batch": None},
    "of 5 samples": {"checkpointing": False, "micro_batch": 5},
}


def run(length: int = 2**14, models: int = 50, parameters: int = 2**20) -> str:
    rows = _rows({f"autoencoder step, keep {way}": (_step, way, length) for way in WAYS})
    with tempfile.TemporaryDirectory() as folder:
        stack = Path(folder) / "stack.safetensors"
        vectors = (torch.randn(parameters) for _ in range(models))
        write_rows(stack, Subset({"all": (parameters,)}), models, vectors)
        what = f"principal components of {models} x {parameters}"
        ways = {f"{what}, whole matrix": (_whole, stack), f"{what}, by columns": (_columns, stack)}
        rows += _rows(ways)
    return table(HEADER, rows)


def _rows(ways: dict[str, tuple]) -> list[list[str]]:
    """A row for each way; the first is the plain one."""
    found = {}
    for name, (work, *arguments) in ways.items():
        with get_context("spawn").Pool(1) as pool:
            found[name] = pool.apply(_measure, (work, arguments))
    plain = max(next(iter(found.values()))[0], 0.1)
    return [[n, f"{m:.0f} MiB", f"{m / plain:.0%}", duration(s)] for n, (m, s) in found.items()]


def _measure(work: Callable[..., None], arguments: list) -> tuple[float, float]:
    """Peak of this process's resident memory beyond the present, in MiB; the seconds it took."""
    before = _resident("VmRSS")
    seconds = once(lambda: work(*arguments))
    return _resident("VmHWM") - before, seconds


def _resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def _step(way: str, length: int) -> None:
    """Forward and backward pass of the quick recipe's autoencoder on one batch."""
    params = load_params(Path(__file__).resolve().parents[1] / "params.yaml")
    config = params.autoencoder.model_copy(update=WAYS[way])
    model, matrix = make_autoencoder(length, config).train(), torch.randn(50, length)
    generator, precision = torch.Generator().manual_seed(0), autocast(matrix.device)
    batch_loss(model, matrix, config, params.noise, generator, precision).backward()


def _whole(stack: Path) -> None:
    """Fit, encode and decode, with all checkpoints in memory."""
    matrix = load_stack(stack)[1]
    mean = matrix.mean(0)
    latents, scale, components = torch.linalg.svd(matrix - mean, full_matrices=False)
    torch.addmm(mean, latents * scale, components)


def _columns(stack: Path) -> None:
    """The same with the linear codec, from disk to disk."""
    round_trip(stack, 10, 50, stack.with_name("out.safetensors"))

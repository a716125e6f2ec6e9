"""An experiment from images to tables, and what its parts would take the plain way.

    python -m benchmarks.pipeline [OVERRIDE ...]

runs the stages of one experiment, each once, in a folder of their own and prints the table; an
override is what follows `-S`: `recipe=paper data=cifar10_images data.root=/path data.size=224`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml

from benchmarks.timing import duration, matmul_peak, once, table
from pdiff.baselines.counts import made_by_codec, made_of_originals
from pdiff.config import PARAMS, Params, parse_params
from pdiff.core.runtime import get_device
from pdiff.diffusion.denoiser import Denoiser
from pdiff.diffusion.schedule import Diffusion
from pdiff.evaluation.predict import predict_plain
from pdiff.images.batches import EvaluationBatches, load_images
from pdiff.nets.registry import load_net
from pdiff.paper.estimate import work_of
from pdiff.paper.experiments import make_experiment
from pdiff.parameters.stack import StackFile

ROOT = Path(__file__).resolve().parents[1]
FEW_STEPS = 20


def stages() -> list[str]:
    """In the order of the pipeline, as dvc.yaml lists them."""
    return list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])


def run(overrides: tuple[str, ...] = ()) -> str:
    experiment = make_experiment(overrides)
    params = parse_params(experiment.params)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / PARAMS).write_text(yaml.safe_dump(experiment.params))
        shutil.copy(ROOT / "requirements.txt", here)
        seconds = {name: _stage(name, here) for name in stages()}
        plain = _plain(here, params)
    rows = [_row(name, ours, params, plain) for name, ours in seconds.items()]
    ours = sum(seconds.values())
    theirs = sum(plain.get(name, own) for name, own in seconds.items())
    rows.append(["all", duration(ours), "", f"{duration(theirs)}, {theirs / ours:.1f} x ours"])
    return table(["stage", "ours", "of the matmul peak", "the plain way, extrapolated"], rows)


def _stage(name: str, folder: Path) -> float:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PDIFF_TRACKING": "off"}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", f"stages.{name}"], cwd=folder, env=environment, check=True
    )
    return time.perf_counter() - start


def _row(name: str, seconds: float, params: Params, plain: dict[str, float]) -> list[str]:
    """Share of the peak by the stage's operations, start of the program and all else included."""
    share = "-"
    if name != "check_params":
        share = f"{100 * work_of(name, params).operations / seconds / matmul_peak():.0f} %"
    return [name, duration(seconds), share, duration(plain[name]) if name in plain else "as ours"]


def _plain(folder: Path, params: Params) -> dict[str, float]:
    """Seconds of evaluating each model whole, and of T steps for one latent after another."""
    each, generated = _whole_net(folder, params), params.generate.models
    device = get_device()
    ddpm, length = params.ddpm, params.autoencoder.latent_dim
    denoiser = Denoiser(length, ddpm.channels, ddpm.kernel_size).to(device).eval()
    diffusion = Diffusion(FEW_STEPS, ddpm.beta_start, ddpm.beta_end, device)
    generator = torch.Generator(device).manual_seed(0)

    def latent() -> None:
        diffusion.sample(denoiser, (1, length), generator, sampler="ddpm", steps=FEW_STEPS)

    latent()
    return {
        "generate": once(latent) * generated * ddpm.timesteps / FEW_STEPS,
        "evaluate_originals": each * made_of_originals(params),
        "evaluate_generated": each * made_by_codec(params),
    }


def _whole_net(folder: Path, params: Params) -> float:
    """Seconds for one model on both splits the plain way."""
    device = get_device()
    images = load_images(folder / "data/images.safetensors", device)
    net = load_net(folder / "models/base.safetensors", device)
    originals = StackFile(folder / "data/checkpoints.safetensors")
    one, size = [originals[0]], params.evaluate.batch_size

    def evaluate() -> None:
        for split in (images.validation, images.test):
            batches = EvaluationBatches(split, params.data, size)
            predict_plain(net, one, lambda batches=batches: batches)

    evaluate()
    return once(evaluate)


if __name__ == "__main__":
    print(run(tuple(sys.argv[1:])))

"""The default experiment from images to tables, and what its parts would take the plain way."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml

from benchmarks.timing import duration, once, table
from pdiff.config import PARAMS, load_params
from pdiff.data import EvaluationBatches, load_images
from pdiff.denoiser import Denoiser
from pdiff.diffusion import Diffusion
from pdiff.evaluation import predict_plain
from pdiff.nets import load_net
from pdiff.subset import Models, load_stack

ROOT = Path(__file__).resolve().parents[1]


def stages() -> list[str]:
    """In the order of the pipeline, as dvc.yaml lists them."""
    return list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])


def run() -> str:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        shutil.copy(ROOT / PARAMS, here / PARAMS)
        shutil.copy(ROOT / "requirements.txt", here)
        seconds = {name: _stage(name, here) for name in stages()}
        plain = _plain(here)
    rows = [
        [name, duration(ours), duration(plain[name]) if name in plain else "as ours"]
        for name, ours in seconds.items()
    ]
    ours = sum(seconds.values())
    theirs = sum(plain.get(name, ours) for name, ours in seconds.items())
    rows.append(["all", duration(ours), f"{duration(theirs)}, {theirs / ours:.1f} times ours"])
    return table(["stage", "ours", "the plain way, extrapolated"], rows)


def _stage(name: str, folder: Path) -> float:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PDIFF_TRACKING": "off"}
    command = [sys.executable, "-m", f"stages.{name}"]
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def _plain(folder: Path) -> dict[str, float]:
    """Seconds of evaluation model by model and of sampling one latent at a time, in 1,000 steps."""
    params = load_params(folder / PARAMS)
    images = load_images(folder / "data/images.safetensors")
    net = load_net(folder / "models/base.safetensors")
    subset, matrix = load_stack(folder / "data/checkpoints.safetensors")
    one = Models(subset, matrix[:1])
    each = sum(
        once(
            lambda split=split: predict_plain(
                net, one, lambda: EvaluationBatches(split, params.data, params.evaluate.batch_size)
            )
        )
        for split in (images.validation, images.test)
    )
    config = params.evaluate
    noised = len(config.noise_levels) * config.noised_models
    generated = params.generate.models
    denoiser = Denoiser(params.autoencoder.latent_dim, params.ddpm.channels, 7).eval()
    diffusion = Diffusion(20, 1e-4, 0.02)
    generator = torch.Generator().manual_seed(0)
    shape = (1, params.autoencoder.latent_dim)
    latent = once(lambda: diffusion.sample(denoiser, shape, generator, sampler="ddpm", steps=20))
    return {
        "generate": latent * generated * params.ddpm.timesteps / 20,
        "evaluate_originals": each * (len(matrix) + 1 + noised),
        "evaluate_generated": each * (generated + config.reconstructed_models),
    }

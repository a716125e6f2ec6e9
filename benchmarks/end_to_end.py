"""An experiment from images to tables, and what its parts would take the plain way."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

import torch
import yaml

from benchmarks.timing import duration, once, table
from pdiff import outputs
from pdiff.config import load_params
from pdiff.core.runtime import get_device
from pdiff.diffusion.latents import LatentModel
from pdiff.evaluation.predict import predict_plain
from pdiff.evaluation.predictions import load_predictions
from pdiff.images.batches import EvaluationBatches, load_images
from pdiff.nets.registry import load_net
from pdiff.parameters.stack import StackFile

ROOT = Path(__file__).resolve().parents[1]


def run(params: Path = ROOT / "params.yaml") -> str:
    """Each stage once, in a folder of its own and as a program of its own."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        shutil.copy(params, "params.yaml")
        ours = {name: once(lambda name=name: _stage(name)) for name in stages}
        plain = _plain()
    rows = [
        [name, duration(seconds), duration(plain[name]) if name in plain else "as ours"]
        for name, seconds in ours.items()
    ]
    total, theirs = sum(ours.values()), sum(plain.get(name, ours[name]) for name in ours)
    rows.append(["all", duration(total), f"{duration(theirs)}, {theirs / total:.1f} x ours"])
    return table(["stage", "ours", "the plain way, extrapolated"], rows)


def _stage(name: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PDIFF_TRACKING": "off"}
    command = [sys.executable, "-m", f"stages.{name}"]
    subprocess.run(command, env=environment | {"DVC_ROOT": str(Path.cwd())}, check=True)


def _plain() -> dict[str, float]:
    """Seconds of evaluating each model whole, and of T steps for one latent after another."""
    params, device = load_params(), get_device()
    images, net = load_images(outputs.IMAGES, device), load_net(outputs.BASE, device)
    model, one = LatentModel.load(outputs.DENOISER, device), [StackFile(outputs.CHECKPOINTS)[0]]
    config = params.generate.model_copy(update={"models": 1, "sampler": "ddim", "steps": 20})
    generator = torch.Generator(device).manual_seed(0)

    def evaluate() -> None:
        for split in (images.validation, images.test):
            batches = EvaluationBatches(split, params.data, params.evaluate.batch_size)
            predict_plain(net, one, lambda batches=batches: batches)

    evaluate(), model.sample(config, generator)
    each = once(evaluate)
    steps = once(lambda: model.sample(config, generator)) * params.ddpm.timesteps / config.steps
    counts = {
        path: sum(len(rows) for rows in load_predictions(path, "test")[0].values())
        for path in (outputs.PREDICTIONS_ORIGINALS, outputs.PREDICTIONS_GENERATED)
    }
    return {
        "generate": steps * params.generate.models,
        "evaluate_originals": each * counts[outputs.PREDICTIONS_ORIGINALS],
        "evaluate_generated": each * counts[outputs.PREDICTIONS_GENERATED],
    }

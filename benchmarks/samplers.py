"""Whether a faster sampler is as good as DDPM's thousand steps, on finished runs of the pipeline.

    python -m benchmarks.samplers RUN [RUN ...]

Each RUN is a folder in which the stages up to `train_ddpm` and `evaluate_originals` ran, one for
each model seed, with the same images and base net. "As good" means that the 95 % intervals of the
differences to DDPM, paired on the test images and over the seeds, lie within BOUNDS.
Rewrites the section `samplers` of docs/performance.md.

Axes: G generated, K originals, N test images, R replicates.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from benchmarks.__main__ import PAGE, write_section
from benchmarks.timing import duration, once, table
from pdiff.autoencoder.codec import load_codec
from pdiff.config import load_params
from pdiff.core.runtime import get_device, make_generator
from pdiff.diffusion.latents import LatentModel
from pdiff.evaluation.predict import CutNet, predict, wrong
from pdiff.evaluation.predictions import load_predictions
from pdiff.images.batches import EvaluationBatches, load_images
from pdiff.nets.registry import load_net
from pdiff.novelty.bootstrap import interval, weighted_iou
from pdiff.parameters.subset import Models

REFERENCE = ("ddpm", 1000)
CANDIDATES = (
    ("ddpm", 1000),  # the same once more, with other noise: what chance alone does
    ("ddim", 10),
    ("ddim", 20),
    ("ddim", 50),
    ("ddim", 100),
    ("dpm_solver", 10),
    ("dpm_solver", 20),
    ("dpm_solver", 50),
)
BOUNDS = {"accuracy, %": 0.1, "maximum similarity": 0.02, "similarity within": 0.02}
REPLICATES = 300


@dataclass(frozen=True)
class Errors:
    """What the generated models of one sampler and seed, and the originals, get wrong."""

    generated: Bool[Tensor, "G N"]
    originals: Bool[Tensor, "K N"]


def numbers(
    errors: Errors, weights: Float[Tensor, " N"], drawn: Float[Tensor, " G"]
) -> Float[Tensor, "3"]:
    """Mean accuracy in %, mean maximum similarity and similarity within, as BOUNDS names them.

    `weights` say how often each image was drawn, `drawn` how often each model.
    """
    g, o = errors.generated.float(), errors.originals.float()
    share = drawn / drawn.sum()
    accuracy = 100 * (1 - (g @ weights) @ share / weights.sum())
    nearest = weighted_iou(g, o, weights).amax(1) @ share
    among = weighted_iou(g, g, weights).fill_diagonal_(0)
    pairs = torch.outer(drawn, drawn).fill_diagonal_(0)
    return torch.stack([accuracy, nearest, (among * pairs).sum() / pairs.sum()])


def differences(found: list[Errors], reference: list[Errors]) -> Float[Tensor, "R 3"]:
    """Replicates of `numbers` less those of the reference, averaged over the seeds.

    Row 0 is the sample itself. The images are drawn once for all, the models for each side.
    """
    generator = torch.Generator().manual_seed(0)
    images, rows = found[0].generated.shape[1], []
    for replicate in range(REPLICATES + 1):
        weights = _draw(images, generator) if replicate else torch.ones(images)
        row = torch.zeros(3)
        for sign, side in ((1, found), (-1, reference)):
            for errors in side:
                models = len(errors.generated)
                drawn = _draw(models, generator) if replicate else torch.ones(models)
                row += sign * numbers(errors, weights, drawn) / len(side)
        rows.append(row)
    return torch.stack(rows)


def _draw(count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
    """How often each of `count` comes up in as many draws with replacement."""
    drawn = torch.randint(count, (count,), generator=generator)
    return torch.bincount(drawn, minlength=count).float()


def generate(folder: Path, sampler: str, steps: int, attempt: int) -> tuple[Errors, float]:
    """Errors of the models that this sampler makes in a run, and the seconds it took to sample."""
    params, device = load_params(folder / "params.yaml"), get_device()
    images = load_images(folder / "data/images.safetensors", device)
    net = load_net(folder / "models/base.safetensors", device)
    checkpoints = folder / "data/checkpoints.safetensors"
    codec = load_codec(folder / "models/autoencoder.safetensors", checkpoints, device)
    model = LatentModel.load(folder / "models/denoiser.safetensors", device)
    config = params.generate.model_copy(update={"sampler": sampler, "steps": steps})
    generator = make_generator(params.seed.model, "samplers", attempt, device=device)
    latents: list[Tensor] = []
    seconds = once(lambda: latents.append(model.sample(config, generator)))
    blocks = [block for _, block in codec.decode(latents[0])]
    models = Models(codec.subset, torch.cat(blocks, 1))
    batches = EvaluationBatches(images.test, params.data, params.evaluate.batch_size)
    cut = CutNet(net, codec.subset.names, next(iter(batches))[:2])
    boundary_mib = params.evaluate.boundary_mib
    predicted = predict(cut, models, lambda: batches, boundary_mib=boundary_mib)
    labels = images.test.labels.cpu()
    originals = load_predictions(folder / "data/predictions_originals.safetensors", "test")[0]
    return Errors(wrong(predicted, labels), wrong(originals["original"], labels)), seconds


def row(
    sampler: str, steps: int, found: Float[Tensor, "R 3"], seconds: list[float], base: float
) -> list[str]:
    cells, good = [], True
    for values, bound in zip(found.T, BOUNDS.values(), strict=True):
        low, high = interval(values[1:].numpy())
        good &= -bound <= low and high <= bound
        cells.append(f"{values[0]:+.3f} [{low:+.3f}, {high:+.3f}]")
    taken = sum(seconds) / len(seconds)
    speed = f"{duration(taken)}, {base / taken:.0f} x"
    return [f"{sampler} {steps}", *cells, "yes" if good else "**no**", speed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    runs = parser.parse_args().runs
    reference, times = zip(*(generate(run, *REFERENCE, 0) for run in runs), strict=True)
    base = sum(times) / len(times)
    rows = []
    for sampler, steps in CANDIDATES:
        attempt = 1 if (sampler, steps) == REFERENCE else 0
        found, seconds = zip(*(generate(run, sampler, steps, attempt) for run in runs), strict=True)
        between = differences(list(found), list(reference))
        rows.append(row(sampler, steps, between, list(seconds), base))
        print(rows[-1], flush=True)
    images, models = reference[0].generated.shape[1], len(reference[0].generated)
    mean = sum(numbers(e, torch.ones(images), torch.ones(models)) for e in reference) / len(runs)
    header = ["sampler", *BOUNDS, "as good", "200 latents, times faster"]
    text = (
        f"{len(runs)} model seeds, {models} generated models each, {images} test images; DDPM with "
        f"1000 steps: accuracy {mean[0]:.2f} %, maximum similarity {mean[1]:.3f}, similarity "
        f"within {mean[2]:.3f}. Differences to it:\n\n{table(header, rows)}"
    )
    write_section(PAGE, "samplers", text)


if __name__ == "__main__":
    main()

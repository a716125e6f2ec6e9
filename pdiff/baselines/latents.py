"""Baselines that the codec decodes: latents made of the originals' without a diffusion model.

Axes: K originals, M models, L latent length, D parameters;
S samples that are followed, P points on the way of each.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jaxtyping import Float, Int16, Int64
from torch import Tensor

from pdiff.autoencoder.codec import Codec
from pdiff.baselines.originals import gaussian, normal, turns
from pdiff.baselines.registry import Draw, baseline
from pdiff.core.curve import Curve
from pdiff.core.optimise import Log
from pdiff.core.runtime import derive_seed
from pdiff.evaluation.predictions import Evaluation
from pdiff.parameters.stack import StackFile, temporary_stack
from pdiff.parameters.subset import spread_evenly


@contextmanager
def decoded(
    codec: Codec, groups: Mapping[str, Float[Tensor, "_ L"]], folder: Path
) -> Iterator[dict[str, StackFile]]:
    """The parameters of each group, in temporary files in `folder`."""
    with ExitStack() as files:
        stacks = {}
        for group, own in groups.items():
            stack = temporary_stack(folder, codec.subset, len(own), codec.decode(own))
            stacks[group] = files.enter_context(stack)
        yield stacks


def follow(
    codec: Codec,
    latents: Float[Tensor, "S P L"],
    steps: Int64[Tensor, " P"],
    evaluation: Evaluation,
    log: Log,
    folder: Path,
) -> Curve:
    """Test accuracy of samples on their way from noise to latent: each one's, and their mean.

    S is 0 where no sample was followed; `steps` are the sampler's at each of the P points.
    """
    curve = Curve(log, "trajectory", "mean", *map(str, range(len(latents))))
    if not len(steps):
        return curve
    with decoded(codec, {"trajectory": latents.flatten(0, 1)}, folder) as groups:
        found = evaluation.predict("test", groups["trajectory"], "evaluate the trajectories")
    along = evaluation.accuracy("test", found).view(len(latents), -1)  # (S, P)
    for step, values in zip(steps.tolist(), along.T.tolist(), strict=True):
        points = {str(i): value for i, value in enumerate(values)}
        curve({"mean": sum(values) / len(values), **points}, step)
    return curve


def reconstruction(evaluation: Evaluation, originals: Int16[Tensor, "K N"]) -> dict[str, float]:
    """Mean test accuracy of the reconstructed checkpoints, and how much these had before.

    `originals` are the predictions of all originals on the test split.
    """
    found = evaluation.predictions["test"]["reconstructed"]
    before = originals[spread_evenly(len(originals), len(found))]
    after, before = (evaluation.accuracy("test", each).mean().item() for each in (found, before))
    return {"reconstructed_accuracy": after, "accuracy_drop": before - after}


@baseline("reconstructed", order=40, paper=True, codec=True)
def reconstructed(latents: Float[Tensor, "K L"], draw: Draw) -> Float[Tensor, "M L"]:
    """Originals, encoded and decoded: what the codec alone does."""
    return latents[spread_evenly(len(latents), draw.config.reconstructed_models)]


@baseline("reconstructed, latent noise {}", order=50, codec=True, levels="latent_noise")
def reconstructed_noise(latents: Float[Tensor, "K L"], draw: Draw) -> Float[Tensor, "M L"]:
    """Originals whose latents get Gaussian noise of this std before they are decoded."""
    count, seed = len(latents), derive_seed(draw.run_seed, draw.family)  # the same at every level
    sources = latents[turns(count, draw.models, seed).to(latents.device)]
    return sources + draw.level * _normal(latents, draw)


@baseline("Gaussian of latents", order=60, codec=True)
def latent_gaussian(latents: Float[Tensor, "K L"], draw: Draw) -> Float[Tensor, "M L"]:
    """Decoded from a Gaussian fitted to the latents."""
    weights = gaussian(len(latents), draw.models, draw.seed)
    return (weights @ latents.double().cpu()).to(latents)


@baseline("VAE prior", order=70, codec=True, kind="vae")
def vae_prior(latents: Float[Tensor, "K L"], draw: Draw) -> Float[Tensor, "M L"]:
    """Decoded from N(0, I): the VAE as a generator."""
    return _normal(latents, draw)


def _normal(latents: Float[Tensor, "K L"], draw: Draw) -> Float[Tensor, "M L"]:
    return normal(draw.models, latents.shape[1], draw.seed).to(latents)

"""Predict with the generated models, and with the checkpoints as the autoencoder returns them.

images, base net, autoencoder, checkpoints with their latents, generated, originals' predictions
-> predictions of generated, reconstructed and the rivals that the codec decodes; accuracy along
the trajectories
"""

from contextlib import ExitStack
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from pdiff import tracking
from pdiff.autoencoder.codec import load_codec
from pdiff.baselines.rivals import latents_of_rivals
from pdiff.config import load_params
from pdiff.core.curve import Curve
from pdiff.core.files import load_tensor, write_json
from pdiff.core.runtime import get_device
from pdiff.evaluation.predict import accuracy
from pdiff.evaluation.predictions import (
    EVALUATED,
    TRAJECTORY,
    load_predictions,
    predict_groups,
    save_predictions,
)
from pdiff.images.batches import load_images
from pdiff.nets.registry import load_net
from pdiff.parameters.stack import StackFile, temporary_stack
from pdiff.parameters.subset import spread_evenly
from pdiff.system.paths import root
from stages import stage, warn

IMAGES = Path("data/images.safetensors")
BASE = Path("models/base.safetensors")
CHECKPOINTS = Path("data/checkpoints.safetensors")
AUTOENCODER = Path("models/autoencoder.safetensors")
GENERATED = Path("data/generated.safetensors")
LATENTS = Path("data/latents.safetensors")
GENERATED_LATENTS = Path("data/generated_latents.safetensors")
ORIGINALS = Path("data/predictions_originals.safetensors")
PREDICTIONS = Path("data/predictions_generated.safetensors")
METRICS = Path("metrics/evaluate_generated.json")
PLOT = Path("plots/evaluate_generated.csv")


def main() -> None:
    params = load_params()
    device = get_device()
    images = load_images(IMAGES, device)
    net = load_net(BASE, device)
    generated = StackFile(GENERATED)
    codec = load_codec(AUTOENCODER, CHECKPOINTS, device)
    config = params.evaluate

    steps = load_tensor(GENERATED_LATENTS, "trajectory_steps").tolist()
    trajectories = load_tensor(GENERATED_LATENTS, "trajectories", device)  # (S, P, L)

    with (
        tracking.run("evaluate_generated", params, "seed", "evaluate") as log,
        ExitStack() as files,
    ):

        def decoded(latents: Float[Tensor, "M L"]) -> StackFile:
            columns = codec.decode(latents)
            stack = temporary_stack(root() / ".work", codec.subset, len(latents), columns)
            return files.enter_context(stack)

        latents = load_tensor(LATENTS, "latents", device)  # (K, L)
        chosen = spread_evenly(len(latents), config.reconstructed_models)
        groups = {"generated": generated, "reconstructed": decoded(latents[chosen])}
        if params.novelty.audit:
            kind = params.autoencoder.kind
            rivals = latents_of_rivals(latents, config, kind, params.seed.model)
            groups |= {group: decoded(own) for group, own in rivals.items()}
        if steps:
            groups[TRAJECTORY] = decoded(trajectories.flatten(0, 1))
        predictions = predict_groups(
            net,
            codec.subset.names,
            groups,
            images,
            params.data,
            config.batch_size,
            config.boundary_mib,
        )
        labels = images.test.labels.cpu()
        followed = [predictions.pop(f"{TRAJECTORY}.{split}", None) for split in EVALUATED]
        curve = Curve(log, TRAJECTORY, "mean", *map(str, range(len(trajectories))))
        if steps:
            along = accuracy(followed[-1], labels).view(len(trajectories), -1)  # (S, P)
            for step, values in zip(steps, along.T.tolist(), strict=True):
                points = {str(i): value for i, value in enumerate(values)}
                curve({"mean": sum(values) / len(values), **points}, step)
        before = accuracy(load_predictions(ORIGINALS, "test")[0]["original"][chosen], labels)
        before = before.mean().item()
        after = accuracy(predictions["reconstructed.test"], labels).mean().item()
        if before - after > config.max_accuracy_drop:
            warn(
                f"reconstructed checkpoints lose {before - after:.4f} of mean test accuracy "
                f"({before:.4f} to {after:.4f}), more than evaluate.max_accuracy_drop: "
                f"{config.max_accuracy_drop}"
            )
        metrics = {"reconstructed_accuracy": after, "accuracy_drop": before - after}
        log.summary(metrics)
        save_predictions(PREDICTIONS, predictions, images)
        write_json(METRICS, metrics)
        curve.write(PLOT)


if __name__ == "__main__":
    stage(main)

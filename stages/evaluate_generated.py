"""Predict with the generated models, and with the checkpoints as the autoencoder returns them.

images, base net, autoencoder, checkpoints, generated, the originals' predictions
-> predictions of generated, reconstructed
"""

from pathlib import Path

from pdiff import tracking
from pdiff.codec import Codec
from pdiff.config import load_params
from pdiff.data import load_images
from pdiff.evaluation import accuracy
from pdiff.files import write_json
from pdiff.groups import load_predictions, predict_groups, save_predictions
from pdiff.nets import load_net
from pdiff.runtime import get_device
from pdiff.subset import Models, load_stack
from stages import stage, warn

IMAGES = Path("data/images.safetensors")
BASE = Path("models/base.safetensors")
CHECKPOINTS = Path("data/checkpoints.safetensors")
AUTOENCODER = Path("models/autoencoder.safetensors")
GENERATED = Path("data/generated.safetensors")
ORIGINALS = Path("data/predictions_originals.safetensors")
PREDICTIONS = Path("data/predictions_generated.safetensors")
METRICS = Path("metrics/evaluate_generated.json")


def main() -> None:
    params = load_params()
    device = get_device()
    images = load_images(IMAGES, device)
    net = load_net(BASE, device)
    subset, originals = load_stack(CHECKPOINTS)
    _, generated = load_stack(GENERATED)
    codec = Codec.load(AUTOENCODER, device)
    config = params.evaluate

    with tracking.run("evaluate_generated", params, "evaluate") as log:
        reconstructed = codec.decode(codec.encode(originals.to(device)))
        groups = {
            "generated": Models(subset, generated),
            "reconstructed": Models(subset, reconstructed),
        }
        predictions = predict_groups(
            net, subset.names, groups, images, params.data, config.batch_size
        )
        labels = images.test.labels.cpu()
        before = accuracy(load_predictions(ORIGINALS, "test")[0]["original"], labels).mean().item()
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


if __name__ == "__main__":
    stage(main)

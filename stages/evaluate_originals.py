"""Predict with the checkpoints and with what is made from them without a generator.

images, base net, checkpoints -> predictions of original, ensemble, noised_LEVEL
"""

from pathlib import Path

from pdiff import tracking
from pdiff.baselines import Noised, ensemble
from pdiff.config import load_params
from pdiff.data import load_images
from pdiff.evaluation import accuracy
from pdiff.groups import noised_name, predict_groups, save_predictions
from pdiff.nets import load_net
from pdiff.runtime import derive_seed, get_device
from pdiff.stack import StackFile
from stages import stage

IMAGES = Path("data/images.safetensors")
BASE = Path("models/base.safetensors")
CHECKPOINTS = Path("data/checkpoints.safetensors")
PREDICTIONS = Path("data/predictions_originals.safetensors")


def main() -> None:
    params = load_params()
    device = get_device()
    images = load_images(IMAGES, device)
    net = load_net(BASE, device)
    originals = StackFile(CHECKPOINTS)
    config = params.evaluate

    groups = {"original": originals, "ensemble": ensemble(originals)}
    for level in config.noise_levels:
        seed = derive_seed(params.seed.base, "noised", repr(level))
        groups[noised_name(level)] = Noised(originals, level, config.noised_models, seed)

    with tracking.run("evaluate_originals", params, "seed", "evaluate") as log:
        predictions = predict_groups(
            net,
            originals.subset.names,
            groups,
            images,
            params.data,
            config.batch_size,
            config.boundary_mib,
        )
        labels = images.test.labels.cpu()
        log.summary({g: accuracy(predictions[f"{g}.test"], labels).mean().item() for g in groups})
        save_predictions(PREDICTIONS, predictions, images)


if __name__ == "__main__":
    stage(main, shared=True)

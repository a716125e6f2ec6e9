"""Go on training the subset alone and keep it after every few steps.

images, base net -> checkpoints (K, D)
"""

from pathlib import Path

from pdiff import tracking
from pdiff.config import load_params
from pdiff.curve import Curve
from pdiff.data import load_images
from pdiff.nets import load_net
from pdiff.runtime import get_device, make_generator
from pdiff.subset import save_stack, select_subset
from pdiff.training import finetune
from stages import stage

IMAGES = Path("data/images.safetensors")
BASE = Path("models/base.safetensors")
CHECKPOINTS = Path("data/checkpoints.safetensors")
PLOT = Path("plots/finetune.csv")


def main() -> None:
    params = load_params()
    device = get_device()
    images = load_images(IMAGES, device)
    net = load_net(BASE, device)
    subset = select_subset(net, params.subset.select)
    generator = make_generator(params.seed.base, "finetune", device=device)

    with tracking.run("finetune", params, "seed", "data", "subset", "finetune") as log:
        curve = Curve(log, "finetune")
        matrix = finetune(net, subset, images.train, params.data, params.finetune, generator, curve)
        log.summary({"checkpoints": len(matrix), "parameters": subset.length})
        save_stack(CHECKPOINTS, subset, matrix)
        curve.write(PLOT)


if __name__ == "__main__":
    stage(main)

"""Go on training the subset alone and keep it after every few steps, train a zoo of nets, or take
given checkpoints.

images, base net -> checkpoints (K, D), those that follow them in the last run and are held back
"""

from itertools import islice

from pdiff import outputs, tracking
from pdiff.config import load_params
from pdiff.core.curve import Curve
from pdiff.core.runtime import get_device, run_generators
from pdiff.images.batches import load_images
from pdiff.nets.finetune import finetune_runs
from pdiff.nets.given import list_checkpoints, load_checkpoints
from pdiff.nets.registry import load_net
from pdiff.nets.zoo import align_zoo, zoo_runs
from pdiff.parameters.stack import write_rows
from pdiff.parameters.subset import select_subset
from pdiff.system.hub import fetched
from pdiff.tasks.registry import make_task
from stages import stage


def main() -> None:
    params, device = load_params(), get_device()
    config, count = params.finetune, params.finetune.checkpoints
    task = make_task(params.task, params.data)
    net = load_net(outputs.BASE, device, task.build)
    subset = select_subset(net, params.subset.select)

    with tracking.run("finetune", params, "seed", "task", "data", "subset", "finetune") as log:
        curve = Curve(log, "finetune", "loss", "lr")
        if config.folder is not None:
            folder = fetched(config.folder, "finetune.folder")
            paths = list_checkpoints(folder, count, config.held_back)
            held_back = len(paths) - count
            rows = load_checkpoints(paths, subset)
        elif config.zoo is not None:
            images = load_images(outputs.IMAGES, device).train
            generators = run_generators(params.seed.base, "finetune", config.zoo_nets, device)
            rows = zoo_runs(net, subset, images, task, config, generators, curve)
            if config.zoo.align:
                rows = align_zoo(rows, net, subset, images, task, count)
            held_back = config.held_back
        else:
            images = load_images(outputs.IMAGES, device)
            generators = run_generators(params.seed.base, "finetune", config.runs, device)
            rows = finetune_runs(net, subset, images.train, task, config, generators, curve)
            held_back = config.held_back
        write_rows(outputs.CHECKPOINTS, subset, count, islice(rows, count))
        write_rows(outputs.HELD_BACK, subset, held_back, rows)
        log.summary({"checkpoints": count, "parameters": subset.length})
        curve.write(outputs.FINETUNE_CURVE)


if __name__ == "__main__":
    stage(main)

"""Fine-tune afresh with other orders of images: checkpoints that no autoencoder has seen.

images, base net, checkpoints (a zoo is aligned with their mean)
-> checkpoints spread evenly over the fresh runs; none without an audit
"""

from pdiff import outputs, tracking
from pdiff.config import load_params
from pdiff.core.runtime import get_device, run_generators
from pdiff.images.batches import load_images
from pdiff.nets.finetune import finetune_runs
from pdiff.nets.registry import load_net
from pdiff.nets.zoo import align_zoo, zoo_runs
from pdiff.parameters.stack import StackFile, write_rows
from pdiff.parameters.subset import select_subset, spread_evenly
from pdiff.tasks.registry import make_task
from stages import stage


def main() -> None:
    params, device = load_params(), get_device()
    config = params.finetune.model_copy(update={"held_back": 0})
    made = config.fresh_runs * min(
        config.checkpoints // config.fresh_runs, config.checkpoints_of_a_run
    )
    task = make_task(params.task, params.data)
    net = load_net(outputs.BASE, device, task.build)
    subset = select_subset(net, params.subset.select)
    # checkpoints from elsewhere were trained in a way that is not known here
    wanted = config.fresh_checkpoints if params.novelty.audit and config.folder is None else 0

    with tracking.run(
        "finetune_again", params, "seed", "task", "data", "subset", "finetune"
    ) as log:
        kept = spread_evenly(made, wanted)
        images = load_images(outputs.IMAGES, device).train
        generators = run_generators(params.seed.base, "finetune_again", config.fresh_runs, device)
        make = finetune_runs if config.zoo is None else zoo_runs
        rows = make(net, subset, images, task, config, generators, lambda *_: None)
        if config.zoo is not None and config.zoo.align:
            rows = align_zoo(rows, net, subset, images, task, StackFile(outputs.CHECKPOINTS))
        chosen = (row for index, row in enumerate(rows if kept else ()) if index in kept)
        write_rows(outputs.FRESH, subset, len(kept), chosen)
        log.summary({"checkpoints": len(kept)})


if __name__ == "__main__":
    stage(main)

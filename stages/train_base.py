"""Train the base net and keep its best validation epoch.

images -> base net, its norms and biases at each epoch
"""

from pdiff import outputs, tracking
from pdiff.config import load_params
from pdiff.core.curve import Curve
from pdiff.core.files import save_tensors, write_json
from pdiff.core.optimise import seeded
from pdiff.core.runtime import get_device, make_generator
from pdiff.images.batches import load_images
from pdiff.nets.base import train_base
from pdiff.nets.own import is_own, own_file
from pdiff.nets.registry import save_net
from pdiff.system.hub import fetched
from pdiff.system.resume import make_checkpointer
from pdiff.tasks.registry import make_task
from stages import stage, warn


def main() -> None:
    params, device = load_params(), get_device()
    task = make_task(params.task, params.data)
    images = load_images(outputs.IMAGES, device)
    generator = make_generator(params.seed.base, "train_base", device=device)
    config, classes, size = params.base, len(images.classes), params.data.size
    weights = fetched(config.weights, "base.weights") if config.weights else None
    options = {"pretrained": config.pretrained, "weights": weights, "new_head": config.epochs > 0}
    net = seeded(lambda: task.build(config.net, classes, size, **options), generator).to(device)

    inputs = [outputs.IMAGES] + ([weights] if weights else [])
    inputs += [own_file(config.net)] if is_own(config.net) else []
    sections = [params.seed, params.task, params.data, config]
    with (
        tracking.run("train_base", params, "seed", "task", "data", "base") as log,
        make_checkpointer("train_base", sections, inputs, device) as resume,
    ):
        curve = Curve(log, "base", "loss", f"validation_{task.metric}")
        best, epochs = train_base(net, images, task, config, generator, curve, resume)
        test, metric = task.score(net, images.test, config.batch_size), task.metric
        guess = task.chance(images.test)
        if task.larger_is_better and test <= guess:
            warn(f"the base net's test {metric} is {test:.4f}; guessing reaches {guess:.4f}")
        metrics = {f"base_validation_{metric}": best, f"base_test_{metric}": test}
        log.summary(metrics)
        save_net(outputs.BASE, net, config.net, classes, size)
        save_tensors(outputs.BASE_EPOCHS, epochs)
        curve.write(outputs.BASE_CURVE)
        write_json(outputs.BASE_METRICS, metrics)


if __name__ == "__main__":
    stage(main)

"""Train the base net and keep its best validation epoch.

images -> base net, its norms and biases at each epoch
"""

from pdiff import outputs, tracking
from pdiff.config import load_params
from pdiff.core.curve import Curve
from pdiff.core.files import save_tensors, write_json
from pdiff.core.optimise import seeded
from pdiff.core.runtime import get_device, make_generator
from pdiff.images.batches import chance, load_images
from pdiff.nets.base import measure_accuracy, train_base
from pdiff.nets.own import is_own, own_file
from pdiff.nets.registry import build_net, save_net
from pdiff.system.hub import fetched
from pdiff.system.resume import make_checkpointer
from stages import stage, warn


def main() -> None:
    params, device = load_params(), get_device()
    images = load_images(outputs.IMAGES, device)
    generator = make_generator(params.seed.base, "train_base", device=device)
    config, classes, size = params.base, len(images.classes), params.data.size
    weights = fetched(config.weights, "base.weights") if config.weights else None
    options = {"pretrained": config.pretrained, "weights": weights, "new_head": config.epochs > 0}
    net = seeded(lambda: build_net(config.net, classes, size, **options), generator).to(device)

    inputs = [outputs.IMAGES] + ([weights] if weights else [])
    inputs += [own_file(config.net)] if is_own(config.net) else []
    sections = [params.seed, params.data, config]
    with (
        tracking.run("train_base", params, "seed", "data", "base") as log,
        make_checkpointer("train_base", sections, inputs, device) as resume,
    ):
        curve = Curve(log, "base", "loss", "validation_accuracy")
        best, epochs = train_base(net, images, params.data, config, generator, curve, resume)
        test = measure_accuracy(net, images.test, params.data, config.batch_size)
        if test <= (guess := chance(images.test.labels)):
            warn(f"the base net's test accuracy is {test:.4f}; guessing reaches {guess:.4f}")
        metrics = {"base_validation_accuracy": best, "base_test_accuracy": test}
        log.summary(metrics)
        save_net(outputs.BASE, net, config.net, classes, size)
        save_tensors(outputs.BASE_EPOCHS, epochs)
        curve.write(outputs.BASE_CURVE)
        write_json(outputs.BASE_METRICS, metrics)


if __name__ == "__main__":
    stage(main)

"""Predict with the generated models, and with the checkpoints as the autoencoder returns them.

images, base net, autoencoder, checkpoints with their latents, generated, originals' predictions
-> predictions of `generated` and of all that the codec decodes; accuracy along the trajectories
"""

from pdiff import outputs, tracking
from pdiff.autoencoder.codec import load_codec
from pdiff.baselines.latents import decoded, follow, reconstruction
from pdiff.baselines.registry import draw_groups
from pdiff.baselines.zoos import Zoo, keep_best
from pdiff.config import load_params
from pdiff.core.files import load_tensor, write_json
from pdiff.core.runtime import get_device
from pdiff.evaluation import predictions
from pdiff.images.batches import load_images
from pdiff.nets.registry import load_net
from pdiff.parameters.stack import StackFile
from pdiff.system.paths import root
from pdiff.tasks.registry import make_task
from stages import stage, warn


def main() -> None:
    params, device, work = load_params(), get_device(), root() / ".work"
    task, images = make_task(params.task, params.data), load_images(outputs.IMAGES, device)
    net = load_net(outputs.BASE, device, task.build)
    codec = load_codec(outputs.AUTOENCODER, outputs.CHECKPOINTS, device)
    latents = load_tensor(outputs.LATENTS, "latents", device)  # (K, L)
    names, path = ("trajectories", "trajectory_steps"), outputs.GENERATED_LATENTS
    samples = [load_tensor(path, name, device) for name in names]
    sizes = params.evaluate.batch_size, params.evaluate.boundary_mib
    evaluation = task.evaluation(net, codec.subset.names, images, sizes)
    kind, audit = params.autoencoder.kind, params.novelty.audit
    made = draw_groups(latents, params.baselines, params.seed.model, audit=audit, kind=kind)
    known, labels = predictions.load_predictions(outputs.PREDICTIONS_ORIGINALS, "validation")
    zoo = Zoo(StackFile(outputs.CHECKPOINTS), evaluation.accuracy("validation", known["original"]))
    with tracking.run("evaluate_generated", params, "seed", "task", "evaluate", "baselines") as log:
        with decoded(codec, made, work) as groups:
            groups["generated"] = StackFile(outputs.GENERATED)
            groups |= draw_groups(zoo, params.baselines, params.seed.model, audit=audit, rated=True)
            evaluation.predict_groups("validation", groups)
            evaluation.predict_groups("test", groups)
            shown = [StackFile(outputs.CHECKPOINTS)[0], groups["generated"][0]]
            predictions.save_picture(outputs.EXAMPLES, *evaluation.picture(shown))
        keep_best(evaluation.predictions, labels)
        curve = follow(codec, *samples, evaluation, log, work)
        originals, _ = predictions.load_predictions(outputs.PREDICTIONS_ORIGINALS, "test")
        metrics = reconstruction(evaluation, originals["original"])
        if broken := predictions.not_finite(evaluation.predictions["test"]):
            warn(f"logits are not finite, and count as wrong, of {predictions.numbered(broken)}")
        metrics["generated_not_finite"] = len(broken.get("generated", ()))
        log.summary(metrics)
        predictions.save_predictions(outputs.PREDICTIONS_GENERATED, evaluation)
        write_json(outputs.TRAJECTORY_METRICS, metrics)
        curve.write(outputs.TRAJECTORY_CURVE)


if __name__ == "__main__":
    stage(main)

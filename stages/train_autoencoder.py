"""Train the parameter autoencoder, or find the checkpoints' principal components.

checkpoints (K, D) -> autoencoder with its normalisation statistics, latents (K, L)
"""

from pdiff import outputs, tracking
from pdiff.autoencoder.train import fit_codec
from pdiff.config import load_params
from pdiff.core.curve import Curve
from pdiff.core.files import save_tensors, write_json
from pdiff.core.runtime import get_device, make_generator
from pdiff.parameters.stack import StackFile
from pdiff.system.resume import make_checkpointer
from stages import stage, warn


def main() -> None:
    params, device = load_params(), get_device()
    config = params.autoencoder
    sections, inputs = [params.seed, config, params.noise], [outputs.CHECKPOINTS]

    with (
        tracking.run("train_autoencoder", params, "seed", "noise", "autoencoder") as log,
        make_checkpointer("train_autoencoder", sections, inputs, device) as resume,
    ):
        curve, checkpoints = Curve(log, "autoencoder", "loss", "lr"), StackFile(outputs.CHECKPOINTS)
        generator = make_generator(params.seed.model, "train_autoencoder", device=device)
        fitted = fit_codec(checkpoints, config, params.noise, generator, curve, resume)
        codec, latents, metrics = fitted
        if not metrics["r2"] >= config.min_r2:  # also where it is nan: equal checkpoints
            place = "farther away than" if metrics["r2"] < 0 else "close to"
            warn(
                f"the autoencoder's R2 is {metrics['r2']:.3f}, less than autoencoder.min_r2: "
                f"{config.min_r2}; what it decodes is {place} the mean checkpoint"
            )
        log.summary(metrics)
        codec.save(outputs.AUTOENCODER)
        save_tensors(outputs.LATENTS, {"latents": latents})
        curve.write(outputs.AUTOENCODER_CURVE)
        write_json(outputs.AUTOENCODER_METRICS, metrics)


if __name__ == "__main__":
    stage(main)

"""Train the parameter autoencoder.

checkpoints (K, D) -> autoencoder with its normalisation statistics, latents (K, L)
"""

from pathlib import Path

from pdiff import tracking
from pdiff.autoencoder import r_squared, train_autoencoder
from pdiff.codec import Codec
from pdiff.config import load_params
from pdiff.curve import Curve
from pdiff.files import save_tensors, write_json
from pdiff.novelty import spread
from pdiff.resume import make_checkpointer
from pdiff.runtime import get_device, make_generator
from pdiff.subset import Normalisation, load_stack
from stages import stage, warn

CHECKPOINTS = Path("data/checkpoints.safetensors")
AUTOENCODER = Path("models/autoencoder.safetensors")
LATENTS = Path("data/latents.safetensors")
METRICS = Path("metrics/train_autoencoder.json")
PLOT = Path("plots/train_autoencoder.csv")


def main() -> None:
    params = load_params()
    device = get_device()
    subset, matrix = load_stack(CHECKPOINTS)
    matrix = matrix.to(device)
    generator = make_generator(params.seed.model, "train_autoencoder", device=device)
    config = params.autoencoder
    sections = [params.seed, config, params.noise]

    with (
        tracking.run("train_autoencoder", params, "seed", "noise", "autoencoder") as log,
        make_checkpointer("train_autoencoder", sections, [CHECKPOINTS], device) as resume,
    ):
        curve = Curve(log, "autoencoder", "loss", "lr")
        normalisation = Normalisation.fit(subset, matrix)
        normalised = normalisation.apply(matrix)
        model = train_autoencoder(normalised, config, params.noise, generator, curve, resume=resume)
        codec = Codec(subset, model, normalisation, config.encode_norm, config.decode_norm)
        latents = codec.encode(matrix)
        reconstructed = normalisation.apply(codec.decode(latents))
        metrics = {
            "r2": r_squared(normalised, reconstructed),
            "mse": (normalised - reconstructed).square().mean().item(),
            "latent_spread": spread(latents),
        }
        if not metrics["r2"] >= config.min_r2:  # also where it is nan: equal checkpoints
            warn(
                f"the autoencoder explains R2 = {metrics['r2']:.3f} of the checkpoints' deviation "
                f"from their mean, less than autoencoder.min_r2: {config.min_r2}; what it decodes "
                "is close to the mean checkpoint, whatever the latent"
            )
        log.summary(metrics)
        codec.save(AUTOENCODER)
        save_tensors(LATENTS, {"latents": latents})
        curve.write(PLOT)
        write_json(METRICS, metrics)


if __name__ == "__main__":
    stage(main)

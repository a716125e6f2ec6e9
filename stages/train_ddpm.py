"""Train the denoising diffusion model on the latents.

latents (K, L), and with `encode_norm: minibatch` also checkpoints (K, D) and autoencoder
-> denoiser with its schedule and latent statistics
"""

from pdiff import outputs, tracking
from pdiff.autoencoder.codec import load_codec, minibatch_encoder
from pdiff.config import load_params
from pdiff.core.curve import Curve
from pdiff.core.files import load_tensor
from pdiff.core.runtime import get_device, make_generator
from pdiff.diffusion.train import fit_latents
from pdiff.parameters.stack import StackFile
from pdiff.system.resume import make_checkpointer
from stages import stage


def main() -> None:
    params, device = load_params(), get_device()
    latents = load_tensor(outputs.LATENTS, "latents", device)  # (K, L)
    codec = load_codec(outputs.AUTOENCODER, outputs.CHECKPOINTS, device)
    generator = make_generator(params.seed.model, "train_ddpm", device=device)
    config = params.ddpm
    sections, inputs = [params.seed, config], [outputs.LATENTS, outputs.AUTOENCODER]

    with (
        tracking.run("train_ddpm", params, "seed", "ddpm") as log,
        make_checkpointer("train_ddpm", sections, inputs, device) as resume,
    ):
        curve = Curve(log, "ddpm", "loss", "lr")
        encode = minibatch_encoder(codec, StackFile(outputs.CHECKPOINTS))
        model = fit_latents(latents, config, generator, curve, resume=resume, encode=encode)
        model.save(outputs.DENOISER)
        curve.write(outputs.DDPM_CURVE)


if __name__ == "__main__":
    stage(main)

"""Train the denoising diffusion model on the latents.

latents (K, L), and with `encode_norm: minibatch` also checkpoints (K, D) and autoencoder
-> denoiser with its schedule and latent statistics
"""

from jaxtyping import Float, Int64
from torch import Tensor

from pdiff import outputs, tracking
from pdiff.autoencoder.codec import ConvCodec, load_codec
from pdiff.config import load_params
from pdiff.core.curve import Curve
from pdiff.core.files import load_tensor
from pdiff.core.runtime import get_device, make_generator
from pdiff.diffusion.latents import LatentModel, LatentStatistics, held_out_rows
from pdiff.diffusion.schedule import Diffusion
from pdiff.diffusion.train import train_denoiser
from pdiff.parameters.stack import load_stack
from pdiff.parameters.subset import Models
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
        held_out = held_out_rows(len(latents), config.held_out).to(device)
        seen = latents[~held_out]
        statistics = LatentStatistics.fit(seen, config.standardise)
        encode = None
        if isinstance(codec, ConvCodec) and codec.encode_norm == "minibatch":
            matrix = load_stack(outputs.CHECKPOINTS)[1][~held_out.cpu()].to(device)

            def encode(rows: Int64[Tensor, " B"]) -> Float[Tensor, "B R"]:
                return statistics.apply(codec.encode(Models(codec.subset, matrix[rows])))

        denoiser = train_denoiser(
            statistics.apply(seen), config, generator, curve, resume=resume, encode=encode
        )
        LatentModel(denoiser, statistics, Diffusion.of(config), held_out).save(outputs.DENOISER)
        curve.write(outputs.DDPM_CURVE)


if __name__ == "__main__":
    stage(main)

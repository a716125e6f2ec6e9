"""A generator of parameters that is fitted to checkpoints: the pipeline's, without its files.

It does what the stages `train_autoencoder`, `train_ddpm` and `generate` do, and gives the same
numbers. Axes: K checkpoints, G generated models, D values, L latent length, R directions.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pdiff.api.checkpoints import STACK, Checkpoints, State
from pdiff.autoencoder.codec import Codec, load_codec, minibatch_encoder
from pdiff.autoencoder.linear import LinearCodec
from pdiff.autoencoder.train import fit_codec
from pdiff.config import LibraryParams, library_params
from pdiff.core.files import load_json, write_json
from pdiff.core.optimise import check_finite
from pdiff.core.runtime import get_device, make_generator
from pdiff.diffusion.bars import conclusion, missed_bars, one_line
from pdiff.diffusion.denoiser import Denoiser
from pdiff.diffusion.fit import latent_fit
from pdiff.diffusion.latents import LatentModel
from pdiff.diffusion.train import fit_latents
from pdiff.limits import check_generator
from pdiff.parameters.subset import Models
from pdiff.system.progress import bars

if TYPE_CHECKING:
    from pdiff.api.audit import Audit

CODEC, DENOISER, FACTS = "autoencoder.safetensors", "denoiser.safetensors", "pdiff.json"


@dataclass(frozen=True)
class PDiff:
    """Checkpoints, the codec and the diffusion model that were fitted to them."""

    checkpoints: Checkpoints
    codec: Codec
    latents: LatentModel
    params: LibraryParams
    """The sections of `params.yaml` that it was fitted with."""
    seed: int
    fit_numbers: dict[str, Any]
    """R² and mean squared error of the codec, and the numbers of `pdiff.diffusion.fit`."""

    @classmethod
    def fit(
        cls, checkpoints: Any, seed: int = 0, *, progress: bool = True, **sections: Any
    ) -> "PDiff":
        """Fit to state dicts of one net or a part of it, a folder of them, or a matrix (K, D).

        Of state dicts all weights are generated that differ among the checkpoints. It warns if the
        generator does not fit: its models then prove nothing.

        Args:
            seed: what `seed.model` is to the pipeline.
            progress: show bars, or lines where there is neither terminal nor notebook.
            sections: changes of `params.yaml`'s defaults: `ddpm={"steps": 400}`.

        Raises:
            InputError: checkpoints that do not belong together, unknown or wrong parameters, or
                what no machine can hold or end in a day.
        """
        params = library_params(sections)
        Denoiser(params.autoencoder.latent_dim, params.ddpm.channels, params.ddpm.kernel_size)
        given, device = Checkpoints.read(checkpoints), get_device()
        check_generator(params, *given.matrix.shape)
        with bars(progress):
            models = Models(given.subset, given.matrix)
            own = make_generator(seed, "train_autoencoder", device=device)
            fitted = fit_codec(models, params.autoencoder, params.noise, own, _no_log)
            codec, encoded, numbers = fitted
            encoded, encode = encoded.to(device), minibatch_encoder(codec, models)
            own = make_generator(seed, "train_ddpm", device=device)
            latents = fit_latents(encoded, params.ddpm, own, _no_log, encode=encode)
            with TemporaryDirectory() as folder:
                # as the pipeline does: layouts in memory move last bits
                latents.save(Path(folder) / DENOISER)
                latents = LatentModel.load(Path(folder) / DENOISER, device)
            drawn = latents.sample(params.generate, make_generator(seed, "generate", device=device))
        own = make_generator(seed, "latent_fit", device=device)
        numbers |= latent_fit(latents, encoded, drawn, params.generate, own)
        made = cls(given, codec, latents, params, seed, numbers)
        if made.missed:
            warnings.warn(conclusion(made.missed), stacklevel=2)
        return made

    @property
    def missed(self) -> list[str]:
        """Each bar that the fit misses, in words; empty if the generator fits."""
        numbers = {**self.fit_numbers, "reconstructed_more_alike": None}
        return missed_bars(numbers, self.params.generate, self.params.autoencoder.min_r2)

    def sample(self, count: int, seed: int | None = None) -> list[State] | Float[Tensor, "G D"]:
        """`count` new models: state dicts as the checkpoints are, or rows if those were rows.

        What is not generated is the last checkpoint's. Equal seeds give equal models; without one
        it is the seed of the fit.
        """
        changed = {**self.params.generate.model_dump(), "models": count}
        config = library_params({**self.params.model_dump(), "generate": changed}).generate
        seed, device = self.seed if seed is None else seed, self.latents.held_out.device
        with bars(False):
            drawn = self.latents.sample(config, make_generator(seed, "generate", device=device))
            check_finite(drawn, "generated latents")
            decoded = [block for _, block in self.codec.decode(drawn)]
        matrix = torch.cat(decoded, 1).cpu()
        return matrix if self.checkpoints.rows else self.checkpoints.with_generated(matrix)

    def audit(
        self, new: Any, net: nn.Module, loader: Iterable[Any], *, progress: bool = True
    ) -> "Audit":
        """What is new about models beside the checkpoints; see `pdiff.api.audit.audit`."""
        from pdiff.api.audit import audit

        return audit(new, self.checkpoints, net, loader, progress=progress)

    def save(self, folder: str | Path) -> None:
        """Write a folder of safetensors and JSON; its files are those of the pipeline."""
        folder = Path(folder)
        self.checkpoints.save(folder)
        self.codec.save(folder / CODEC)
        self.latents.save(folder / DENOISER)
        facts = {"params": self.params.model_dump(mode="json"), "seed": self.seed}
        write_json(folder / FACTS, facts | {"fit": self.fit_numbers})

    @classmethod
    def load(cls, folder: str | Path) -> "PDiff":
        """What `save` wrote; `InputError` if anything of it is missing or broken."""
        folder, device = Path(folder), get_device()
        facts, given = load_json(folder / FACTS), Checkpoints.load(folder)
        codec = load_codec(folder / CODEC, folder / STACK, device)
        if isinstance(codec, LinearCodec):  # the folder may be moved
            codec = replace(codec, checkpoints=Models(given.subset, given.matrix))
        latents = LatentModel.load(folder / DENOISER, device)
        params = library_params(facts["params"])
        return cls(given, codec, latents, params, facts["seed"], facts["fit"])

    def __repr__(self) -> str:
        count, length = self.checkpoints.matrix.shape
        fit = one_line(self.fit_numbers, self.missed)
        return f"PDiff of {count:,} checkpoints, {length:,} values each; {fit}"


def _no_log(_metrics: dict[str, float], _step: int) -> None:
    """The bars show the losses."""

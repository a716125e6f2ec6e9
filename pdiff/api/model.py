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
from jaxtyping import Float, Int64
from torch import Tensor, nn

from pdiff.api.checkpoints import STACK, Checkpoints, State
from pdiff.autoencoder.codec import (
    Codec,
    ConvCodec,
    load_codec,
    normalised_pairs,
    reconstruction_error,
)
from pdiff.autoencoder.linear import LinearCodec
from pdiff.autoencoder.train import train_autoencoder
from pdiff.config import LibraryParams, library_params
from pdiff.core.files import load_json, write_json
from pdiff.core.optimise import check_finite
from pdiff.core.runtime import get_device, make_generator
from pdiff.diffusion.bars import conclusion, missed_bars, one_line
from pdiff.diffusion.denoiser import Denoiser
from pdiff.diffusion.fit import latent_fit, measured_latents
from pdiff.diffusion.latents import LatentModel, LatentStatistics, held_out_rows
from pdiff.diffusion.schedule import Diffusion
from pdiff.diffusion.train import train_denoiser
from pdiff.limits import check_generator
from pdiff.parameters.normalisation import Normalisation
from pdiff.parameters.subset import Models, Rows
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
            models, codec, encoded = _fit_codec(given, params, seed, device)
            latents = _fit_latents(models, codec, encoded.to(device), params, seed)
            drawn = latents.sample(params.generate, make_generator(seed, "generate", device=device))
        own = make_generator(seed, "latent_fit", device=device)
        numbers = reconstruction_error(normalised_pairs(codec, models, encoded))
        measured = measured_latents(latents, params.generate, drawn, own)
        numbers |= latent_fit(latents, encoded.to(device), measured, own)
        fitted = cls(given, codec, latents, params, seed, numbers)
        if fitted.missed:
            warnings.warn(conclusion(fitted.missed), stacklevel=2)
        return fitted

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


def _fit_codec(
    given: Checkpoints, params: LibraryParams, seed: int, device: torch.device
) -> tuple[Rows, Codec, Float[Tensor, "K L"]]:
    """The checkpoints where the codec wants them, the codec, and their latents."""
    config = params.autoencoder
    if config.kind == "linear":
        models = Models(given.subset, given.matrix)
        codec = LinearCodec.fit(models, config.latent_dim, config.normalise)
        return models, codec, codec.latents
    models = Models(given.subset, given.matrix.to(device))
    normalisation = Normalisation.fit(models, config.normalise)
    normalised = normalisation.apply(given.matrix.to(device))
    generator = make_generator(seed, "train_autoencoder", device=device)
    net = train_autoencoder(normalised, config, params.noise, generator, _no_log)
    norms = config.encode_norm, config.decode_norm
    codec = ConvCodec(given.subset, net, normalisation, *norms)
    return models, codec, codec.encode(models)


def _fit_latents(
    models: Rows,
    codec: Codec,
    latents: Float[Tensor, "K L"],
    params: LibraryParams,
    seed: int,
) -> LatentModel:
    """The diffusion model of the latents."""
    config, device = params.ddpm, latents.device
    held_out = held_out_rows(len(latents), config.held_out).to(device)
    statistics = LatentStatistics.fit(latents[~held_out], config.standardise)
    encode = None
    if isinstance(codec, ConvCodec) and codec.encode_norm == "minibatch":
        matrix = models.block(slice(0, models.subset.length))[~held_out]

        def encode(rows: Int64[Tensor, " B"]) -> Float[Tensor, "B R"]:
            return statistics.apply(codec.encode(Models(codec.subset, matrix[rows])))

    generator = make_generator(seed, "train_ddpm", device=device)
    scaled = statistics.apply(latents[~held_out])
    denoiser = train_denoiser(scaled, config, generator, _no_log, encode=encode)
    model = LatentModel(denoiser, statistics, Diffusion.of(config, device), held_out)
    with TemporaryDirectory() as folder:  # the pipeline's way: layouts in memory move last bits
        model.save(path := Path(folder) / DENOISER)
        return LatentModel.load(path, device)


def _no_log(_metrics: dict[str, float], _step: int) -> None:
    """The bars show the losses."""

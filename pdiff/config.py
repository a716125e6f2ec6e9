"""`params.yaml` as typed, frozen, validated sections; the only reader of that file.

Every value stands in `params.yaml` and none here, so DVC sees each change. Rates, noise levels and
thresholds are plain numbers, noise levels are standard deviations, sizes are pixels, `steps` are
optimiser steps and `epochs` passes over the training images.
"""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from pdiff.system.errors import InputError

PARAMS = Path("params.yaml")

Optimizer = Literal["sgd", "adam", "adamw"]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
AtLeastTwo = Annotated[int, Field(ge=2)]
"""Batch norm needs two images to train on."""
Channels = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
RGB = tuple[float, float, float]


class Section(BaseModel):
    """A section of `params.yaml`: unknown keys are refused, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SeedConfig(Section):
    base: NonNegativeInt
    """Seed of the images, the base net, its checkpoints and the rivals made from them."""
    model: NonNegativeInt
    """Seed of the autoencoder, the denoiser, the generated models and the codec's rivals."""


class DataConfig(Section):
    name: str
    """What tables and figures call the image set."""
    reader: str
    """How it is read: `digits`, `folder`, or a class of `torchvision.datasets` (`CIFAR100`)."""
    root: str
    """Where its files are or are downloaded to; a relative path starts at the project's folder."""
    watch: str
    """File or folder that DVC watches: that of your own images, else `requirements.txt`."""
    train_options: dict[str, str | bool]
    test_options: dict[str, str | bool]
    """Arguments of the torchvision class that choose the split, for example `{train: false}`."""
    expect: tuple[PositiveInt, PositiveInt] | None
    """Numbers of training and test images in a whole copy; null allows any."""
    size: PositiveInt
    """Side of the square images that the net sees, in pixels."""
    resize: PositiveInt
    """Evaluation: the shorter side is brought to this before the centre crop to `size`."""
    split: Literal["validation", "paper"]
    """What chooses the base net: `validation`, a split of its own, or `paper`, the test split."""
    train_size: AtLeastTwo | None
    """Number of training images; null takes all."""
    validation_size: PositiveInt | Fraction
    """Number (or fraction) of training images held back to choose the base net."""
    test_size: PositiveInt | None
    """Number of test images; null takes all."""
    mean: RGB
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    crop_scale: tuple[Share, Share] | None
    """Training: least and largest share of the area in a random resized crop; null for none."""
    shift: NonNegativeInt
    """Training: largest random shift in pixels, the border repeated."""
    flip: bool
    """Training: mirror half of the images."""
    noise: NonNegativeFloat
    """Std of Gaussian pixel noise (pixels in [0, 1]): fresh in training, fixed in evaluation."""

    @model_validator(mode="after")
    def _scale_rises(self) -> "DataConfig":
        if self.crop_scale is not None and self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"data.crop_scale: {list(self.crop_scale)} must be [low, high]")
        return self


class BaseConfig(Section):
    net: str
    """A timm name, one of `pdiff.nets.minis`, or `FILE.py:NAME` for a net of your own.

    NAME is a class or function of that file; `NAME(num_classes=N)` returns the net.
    """
    watch: str
    """File or folder that DVC watches: FILE.py or its folder, else `requirements.txt`."""
    pretrained: bool
    """Start from timm's pretrained weights (downloaded once)."""
    weights: str | None
    """Start from the state dict in this file instead (.safetensors or .pth).

    DVC sees the name, not the content: give a changed file a new name.
    """
    epochs: NonNegativeInt
    """0 keeps the weights of `pretrained` or `weights`."""
    batch_size: AtLeastTwo
    optimizer: Optimizer
    lr: PositiveFloat
    weight_decay: NonNegativeFloat

    @model_validator(mode="after")
    def _one_start(self) -> "BaseConfig":
        if self.pretrained and self.weights:
            raise ValueError("base.pretrained and base.weights exclude each other: give one")
        if self.epochs == 0 and not (self.pretrained or self.weights):
            raise ValueError("base.epochs: 0 needs trained weights: base.pretrained or .weights")
        return self


class SubsetConfig(Section):
    select: str | tuple[str, ...]
    """`last_norms:N`, `all`, or names and patterns of layers or parameters."""


class FinetuneConfig(Section):
    folder: str | None
    """Take the checkpoints from the state dicts in this folder instead: nothing is trained."""
    watch: str
    """File or folder that DVC watches: `folder`, else `requirements.txt`."""
    steps: PositiveInt
    """Length of the rate's cosine; training ends with the last checkpoint."""
    save_after: NonNegativeInt
    """First steps without a checkpoint; the authors' default skips one."""
    save_every: PositiveInt
    """Steps between two saved checkpoints."""
    checkpoints: AtLeastTwo
    """K, the number of checkpoints that the autoencoder learns from."""
    held_back: NonNegativeInt
    """Checkpoints after the K, for `novelty.audit` alone. Past `steps` the rate stays `lr_end`."""
    second_run: NonNegativeInt
    """Checkpoints of a second run with another order of images, spread evenly over its K
    checkpoints. Only `novelty.audit` uses them."""
    batch_size: AtLeastTwo
    optimizer: Optimizer
    lr: PositiveFloat
    lr_end: PositiveFloat
    """The rate after the last step, reached along a cosine; the authors keep it at `lr`."""
    weight_decay: NonNegativeFloat
    batch_norm: Literal["train", "eval", "eval_after_1", "eval_after_2"]
    """Batch statistics always, never, or in the first steps only (the authors': two)."""

    @model_validator(mode="after")
    def _enough_steps(self) -> "FinetuneConfig":
        available = max(self.steps - self.save_after, 0) // self.save_every
        if self.checkpoints > available and self.folder is None:
            raise ValueError(
                f"finetune.checkpoints: {self.checkpoints} is more than the {available} that "
                f"finetune.steps: {self.steps} with finetune.save_every: {self.save_every} and "
                f"finetune.save_after: {self.save_after} leave"
            )
        return self


class NoiseConfig(Section):
    param: NonNegativeFloat
    """Std of the noise on normalised parameters while the autoencoder trains."""
    latent: NonNegativeFloat
    """Std of the noise on latents while the autoencoder trains."""


class AutoencoderConfig(Section):
    kind: Literal["conv", "vae", "linear"]
    """`conv`: the paper's autoencoder. `vae`: a variational one, with variance head and KL term.

    `linear`: the checkpoints' principal components, for subsets of millions of parameters. Nothing
    is trained; only `latent_dim` (at most K - 1), `normalise` and `min_r2` have an effect.

    The paper's Table 8 has `vae` with `noise.param: 0`, `decode_norm: running` and
    `generate.sampler: prior`.
    """
    channels: Channels
    kernel_size: PositiveInt
    latent_dim: PositiveInt
    steps: PositiveInt
    batch_size: AtLeastTwo
    optimizer: Literal["adamw", "adafactor"]
    """`adamw` is the authors'. `adafactor` has little state; its rate is relative (0.01)."""
    lr: PositiveFloat
    weight_decay: NonNegativeFloat
    checkpointing: bool
    """Training keeps only the activations between blocks and computes the others again."""
    micro_batch: PositiveInt | None
    """Training passes this number of samples at a time; null passes the batch at once.

    Batch norms still see the whole batch, so the gradients are the same. It takes several times as
    long, keeps less than `checkpointing` does, and excludes it.
    """
    normalise: Literal["tensor", "parameter"]
    """What has its own mean and std: each tensor (the authors'), or each parameter over the
    checkpoints, so that the codec sees only how checkpoints differ."""
    kl_weight: NonNegativeFloat
    """Weight of the KL term; only `vae` has one."""
    encode_norm: Literal["batch", "running", "minibatch"]
    """Batch-norm statistics while encoding: of all checkpoints at once, or the running ones.

    `minibatch` (the authors'): as `batch`, but the diffusion model's latents are encoded anew in
    each of its steps with the statistics of that random batch.
    """
    decode_norm: Literal["sample", "running"]
    """While decoding: of each sample over its length (the authors'), or the running ones."""
    min_r2: float
    """Warn when the reconstruction explains less of the deviation from the mean checkpoint."""

    @model_validator(mode="after")
    def _one_way_to_save_memory(self) -> "AutoencoderConfig":
        if self.micro_batch is None:
            return self
        if self.checkpointing:
            raise ValueError(
                "autoencoder.checkpointing: true adds nothing to autoencoder.micro_batch: "
                f"{self.micro_batch}, which keeps less; give one: false or null"
            )
        if self.micro_batch > self.batch_size:
            raise ValueError(
                f"autoencoder.micro_batch: {self.micro_batch} is more than "
                f"autoencoder.batch_size: {self.batch_size}"
            )
        return self


class DdpmConfig(Section):
    channels: Channels
    kernel_size: PositiveInt
    timesteps: PositiveInt
    """T."""
    beta_start: Fraction
    beta_end: Fraction
    steps: PositiveInt
    batch_size: AtLeastTwo
    lr: PositiveFloat
    weight_decay: NonNegativeFloat
    standardise: Literal["none", "dimension", "whiten"]
    """Scale of the latents that the denoiser sees: as they are (the authors'); each dimension with
    mean 0 and std 1; or rotated to their principal directions, each with mean 0 and std 1."""
    prediction: Literal["epsilon", "v"]
    """What the denoiser predicts: the noise (the authors'), or the velocity of Salimans and Ho
    (2022, arXiv 2202.00512), which weighs nearly clean and nearly noisy steps alike."""
    held_out: Annotated[float, Field(ge=0, lt=1)]
    """Share of the latents, evenly spread, that the denoiser does not learn from; `generate`
    measures its loss there. The authors' is 0."""
    ema: Annotated[float, Field(ge=0, lt=1)]
    """Share that an exponential average of the weights keeps of itself at each step; sampling uses
    the average. 0 takes the last weights (the authors')."""


class GenerateConfig(Section):
    models: PositiveInt
    """G, the number of generated models."""
    sampler: Literal["ddpm", "ddim", "prior"]
    """`ddpm`: ancestral sampling, all T steps. `ddim`: deterministic, `steps` of them.

    `prior`: no diffusion, latents from N(0, I), for a `vae`.
    """
    steps: PositiveInt
    """Steps of `ddim`; `ddpm` always takes all T."""
    variance_ratio: tuple[NonNegativeFloat, PositiveFloat]
    """Warn when generated over original latents' variance leaves this range along a principal
    direction that holds more than 1 % of it."""
    max_outside: Share
    """Warn when more than this share of the generated latents' variance lies outside the principal
    directions that hold 99 % of the originals'."""
    trajectories: NonNegativeInt
    """Number of further samples that are followed along the reverse process (Figure 5b)."""
    trajectory_every: PositiveInt
    """Steps of the sampler between two points of a trajectory that are evaluated."""


class EvaluateConfig(Section):
    batch_size: PositiveInt
    boundary_mib: PositiveInt
    """Most memory of the activations before the subset's first layer, in MiB, but at least one
    batch. Results do not depend on it."""
    max_accuracy_drop: NonNegativeFloat
    """Warn when reconstructed checkpoints lose more mean test accuracy than this."""


class BaselinesConfig(Section):
    noise_levels: tuple[NonNegativeFloat, ...]
    """Noise-added copies of originals: std in units of each tensor's own std."""
    noised_models: PositiveInt
    """Number of noise-added models at each level; the originals take turns."""
    reconstructed_models: PositiveInt
    """Number of originals whose reconstruction is evaluated, spread evenly; all if fewer."""
    rival_models: PositiveInt
    """Number of models of each baseline below, which `novelty.audit` adds."""
    noise_ladder: tuple[PositiveFloat, ...]
    """Further levels of noise; levels already in `noise_levels` are not repeated."""
    absolute_noise: tuple[PositiveFloat, ...]
    """Noise-added copies of originals: std in the units of the parameters themselves."""
    soups: tuple[AtLeastTwo, ...]
    """Each N of means of N random originals; those above K are left out."""
    ranks: tuple[PositiveInt, ...]
    """Numbers of principal components that originals are projected on; K - 1 and more, which would
    give the originals back, are left out."""
    soup_candidates: PositiveInt
    """Number of originals that the greedy soup tries, the best on validation; all if fewer."""
    ema_decay: Fraction
    """Share that the exponential average along the run keeps of itself at each checkpoint."""
    latent_noise: tuple[PositiveFloat, ...]
    """Reconstructions of originals whose latents get noise of this std, as in `noise.latent`."""

    @model_validator(mode="after")
    def _levels_have_names(self) -> "BaselinesConfig":
        levels = {
            "noise_levels, noise_ladder": {*self.noise_levels, *self.noise_ladder},
            "absolute_noise": {*self.absolute_noise},
            "latent_noise": {*self.latent_noise},
        }
        for key, values in levels.items():
            if len({f"{value:g}" for value in values}) < len(values):
                raise ValueError(
                    f"baselines.{key}: {sorted(values)} are not all different in six digits, which "
                    "name the groups"
                )
        return self


class NoveltyConfig(Section):
    split: Literal["validation", "test"]
    """The split that is reported; the other one chooses."""
    bootstrap: PositiveInt
    """Bootstrap replicates behind the 95 % intervals, over images and models."""
    audit: bool
    """Also evaluate the rivals, and ask whether the generated models are new or copies."""
    margin_accuracy: PositiveFloat
    """Mean accuracies that differ by less, as fractions, count as equal; only the verdict asks."""
    margin_similarity: PositiveFloat
    """Mean maximum similarities (IoU) that differ by less count as equal; only the verdict asks."""


class Params(Section):
    """All of `params.yaml`."""

    seed: SeedConfig
    data: DataConfig
    base: BaseConfig
    subset: SubsetConfig
    finetune: FinetuneConfig
    noise: NoiseConfig
    autoencoder: AutoencoderConfig
    ddpm: DdpmConfig
    generate: GenerateConfig
    evaluate: EvaluateConfig
    baselines: BaselinesConfig
    novelty: NoveltyConfig

    @model_validator(mode="after")
    def _sections_agree(self) -> "Params":
        if self.ddpm.beta_start > self.ddpm.beta_end:
            raise ValueError("ddpm.beta_start is larger than ddpm.beta_end")
        if self.generate.trajectories and self.generate.sampler == "prior":
            raise ValueError("generate.trajectories: the sampler `prior` has no steps to follow")
        if self.generate.sampler == "ddim" and self.generate.steps > self.ddpm.timesteps:
            raise ValueError(
                f"generate.steps: {self.generate.steps} is more than the {self.ddpm.timesteps} "
                "that the sampler ddim can take (ddpm.timesteps)"
            )
        kind, components = self.autoencoder.kind, self.autoencoder.latent_dim
        if kind == "linear" and components >= self.finetune.checkpoints:
            raise ValueError(
                f"autoencoder.latent_dim: {components} is more than the "
                f"{self.finetune.checkpoints - 1} components that finetune.checkpoints: "
                f"{self.finetune.checkpoints} have with autoencoder.kind: linear"
            )
        if kind == "linear" and self.autoencoder.encode_norm == "minibatch":
            raise ValueError(
                "autoencoder.encode_norm: minibatch needs a batch norm, and linear has none; "
                "give batch"
            )
        for name in ("autoencoder", "ddpm"):
            if getattr(self, name).kernel_size % 2 == 0:
                raise ValueError(f"{name}.kernel_size must be odd")
        return self


def load_params(path: Path = PARAMS) -> Params:
    """Read and check `params.yaml`; raise `InputError` in one line if anything is wrong."""
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} is missing; `git checkout {path}` restores it") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return parse_params(raw, str(path))


def parse_params(raw: object, source: str = "params") -> Params:
    """Check the nested dict `raw`; raise `InputError` naming every wrong key in one line."""
    missing = [f"{key}={key.split('.')[1].upper()}" for key in _missing(raw)]
    if missing:
        raise InputError(f"{source}: these presets want more: -S {' -S '.join(missing)}")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{source}: " + "; ".join(_problems(error))) from None


def _missing(raw: object) -> list[str]:
    """Keys that a preset leaves to the user, which Hydra writes as ???.

    `watch` is skipped: it copies another key, so it is missing only when that key is.
    """
    sections = raw.items() if isinstance(raw, dict) else []
    return [
        f"{section}.{key}"
        for section, values in sections
        if isinstance(values, dict)
        for key, value in values.items()
        if value == "???" and key != "watch"
    ]


def _problems(error: ValidationError) -> list[str]:
    problems = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"] if isinstance(part, str | int))
        if problem["type"] == "extra_forbidden":
            text = f"unknown key {key}; {_allowed(problem['loc'])}"
        elif problem["type"] == "value_error":
            text = problem["msg"].removeprefix("Value error, ")
        elif problem["type"] == "missing":
            text = f"{key} is missing"
        else:
            text = f"{key}: {problem['input']!r} is refused: {problem['msg']}"
        problems.append(text)
    return problems


def _allowed(location: tuple[str | int, ...]) -> str:
    section = Params
    for part in location[:-1]:
        section = section.model_fields[str(part)].annotation
    return "known: " + ", ".join(sorted(section.model_fields))

"""`params.yaml` as typed, frozen, validated sections; the only reader of that file.

Every value stands in `params.yaml` and none here, so DVC sees each change. Rates, noise levels and
thresholds are plain numbers, noise levels are standard deviations, sizes are pixels, `steps` are
optimiser steps and `epochs` passes over the training images.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from pdiff.system.errors import InputError

PARAMS = Path("params.yaml")
PRESETS = Path(__file__).with_name("conf")

Optimizer = Literal["sgd", "adam", "adamw"]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
MOST = 2**32 - 1
"""NumPy's largest seed; no count comes near."""
MEMORY = 2**35
"""Most numbers of 4 bytes that one part of a run may hold, 128 GiB: few GPUs have more."""
MOST_LR, MOST_NOISE, LEAST_STD = 1000, 1000, 1e-4
MOST_DECAY = 80
"""Sampling divides by what is left of a latent, and e^-87 is the smallest fp32."""
PositiveInt = Annotated[int, Field(gt=0, le=MOST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MOST)]
AtLeastTwo = Annotated[int, Field(ge=2, le=MOST)]
"""Batch norm needs two images to train on."""
Channels = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
RGB = tuple[float, float, float]


class Section(BaseModel):
    """A section of `params.yaml`: unknown keys are refused, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, value: Any, info: Any) -> Any:
        found = value if isinstance(value, list) else [value]
        if "bool" not in str(cls.model_fields[info.field_name].annotation) and any(
            isinstance(item, bool) for item in found
        ):
            raise ValueError("Input should not be true, false, yes or no")
        return value


P = TypeVar("P", bound=Section)


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


class TaskConfig(Section):
    name: str
    """A file of `pdiff/tasks`."""
    options: dict[str, Any]
    """What reading and training of that task alone ask; its file says what there is."""
    judging: dict[str, Any]
    """What only evaluation asks: a change of it trains nothing anew."""


class BaseConfig(Section):
    net: str
    """A timm name, one of `pdiff.nets.minis`, or `FILE.py:NAME`: NAME(num_classes=N) makes it."""
    watch: str
    """File or folder that DVC watches: FILE.py or its folder, else `requirements.txt`."""
    pretrained: bool
    """Start from timm's pretrained weights (downloaded once)."""
    weights: str | None
    """Start from the state dict in this file (.safetensors, .pth) instead. DVC sees the name, not
    the content: give a changed file a new name. `hf://USER/NAME@COMMIT/FILE` is one of the hub."""
    epochs: NonNegativeInt
    """0 keeps the weights of `pretrained` or `weights`."""
    batch_size: AtLeastTwo
    optimizer: Optimizer
    lr: PositiveFloat
    weight_decay: NonNegativeFloat


class SubsetConfig(Section):
    select: str | tuple[str, ...]
    """`last_norms:N`, `all`, or names and patterns of layers or parameters."""


class ZooConfig(Section):
    align: bool
    """Bring the neurons of all nets to one order, with equal signs and scales where that leaves the
    logits as they are."""
    at_once: PositiveInt
    """Nets that are trained at once; fewer need less memory."""


class FinetuneConfig(Section):
    zoo: ZooConfig | None
    """Null fine-tunes the base net. Else each of `runs` nets starts from new weights, and leaves
    all the checkpoints that `steps`, `save_after` and `save_every` give. Held back are further
    nets, and so are the fresh ones."""
    folder: str | None
    """Take the checkpoints from the state dicts in this folder instead: nothing is trained.
    `hf://USER/NAME@COMMIT` is a repository of the hub."""
    watch: str
    """File or folder that DVC watches: a local `folder`, else `requirements.txt`."""
    steps: PositiveInt
    """Length of the rate's cosine; training ends with the last checkpoint."""
    save_after: NonNegativeInt
    """First steps without a checkpoint; the authors' default skips one."""
    save_every: PositiveInt
    """Steps between two saved checkpoints."""
    checkpoints: AtLeastTwo
    """K, the number of checkpoints that the autoencoder learns from."""
    runs: PositiveInt
    """Fine-tuning runs of the same base net that the K come from, each with its own order of images
    and an equal share of the K: of one run (the paper's) the first K, of several those spread
    evenly over `steps`."""
    held_back: NonNegativeInt
    """Checkpoints after the last run, for `novelty.audit`. Past `steps` the rate stays `lr_end`."""
    fresh_runs: PositiveInt
    """Further runs that nothing learns from: an ideal generator makes what a fresh run makes."""
    fresh_checkpoints: NonNegativeInt
    """Checkpoints of all fresh runs, spread evenly over them, for `novelty.audit` alone."""
    batch_size: AtLeastTwo
    optimizer: Optimizer
    lr: PositiveFloat
    lr_end: PositiveFloat
    """The rate after the last step, reached along a cosine; the authors keep it at `lr`."""
    weight_decay: NonNegativeFloat
    batch_norm: Literal["train", "eval", "eval_after_1", "eval_after_2"]
    """Batch statistics always, never, or in the first steps only (the authors': two)."""

    @property
    def available(self) -> int:
        """Checkpoints that a run of `steps` can leave."""
        return max(self.steps - self.save_after, 0) // self.save_every

    @property
    def zoo_nets(self) -> int:
        """Nets of a zoo that the stage finetune trains, those held back included."""
        return self.runs + self.held_back // self.available

    @property
    def checkpoints_of_a_run(self) -> int:
        """How many a run goes through, of which it leaves K / `runs`."""
        return self.checkpoints if self.runs == 1 else self.available


class NoiseConfig(Section):
    param: NonNegativeFloat
    """Std of the noise on normalised parameters while the autoencoder trains."""
    latent: NonNegativeFloat
    """Std of the noise on latents while the autoencoder trains."""


class AutoencoderConfig(Section):
    kind: Literal["conv", "vae", "linear"]
    """`conv`: the paper's autoencoder. `vae`: a variational one, with variance head and KL term;
    Table 8 has it with `noise.param: 0`, `decode_norm: running` and `generate.sampler: prior`.

    `linear`: the checkpoints' principal components, for subsets of millions of parameters. Nothing
    is trained; only `latent_dim` (at most K - 1), `normalise` and `min_r2` have an effect.
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
    """Training passes this number of samples at a time; null passes the batch at once. Gradients
    are the same. It takes several times as long, keeps less than `checkpointing`, and excludes it.
    """
    normalise: Literal["tensor", "parameter"]
    """What has its own mean and std: each tensor (the authors'), or each parameter over the
    checkpoints, so that the codec sees only how checkpoints differ."""
    kl_weight: NonNegativeFloat
    """Weight of the KL term; only `vae` has one."""
    encode_norm: Literal["batch", "running", "minibatch"]
    """Batch-norm statistics while encoding: of all checkpoints at once, or the running ones.
    `minibatch` (the authors'): as `batch`, but the diffusion model's latents are encoded anew in
    each of its steps with the statistics of that random batch."""
    decode_norm: Literal["sample", "running"]
    """While decoding: of each sample over its length (the authors'), or the running ones."""
    min_r2: float
    """Warn when the reconstruction explains less of the deviation from the mean checkpoint."""


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
    """`ddpm`: ancestral sampling, all T steps. `ddim`: deterministic, `steps` of them. `prior`: no
    diffusion, latents from N(0, I), for a `vae`."""
    steps: PositiveInt
    fit_latents: AtLeastTwo | None
    """Further latents that only the fit is measured on; null measures those of the generated
    models. The variance of n of them along a direction has a standard error of sqrt(2 / n)."""
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


class ZooRivalsConfig(Section):
    steps: PositiveInt
    """Training steps of each of the two autoencoders, S_KDE's and SANE's."""
    kde_seed: Literal["shared", "independent"]
    """`shared`: one draw for all latent dimensions (or tokens), as both released codes have it, so
    that a sample is a training latent plus one constant. `independent`: a draw for each."""


class BaselinesConfig(Section):
    zoo: ZooRivalsConfig | None
    """Generators of the zoo's literature, and soups of nets that are not aligned; null for none."""
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
    neighbours: NonNegativeInt
    """Optimiser steps: originals of one run that lie no further apart are left out where the audit
    compares originals with each other a second time. 0 leaves out each original itself."""


class Params(Section):
    """All of `params.yaml`."""

    seed: SeedConfig
    task: TaskConfig
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
    def _values_agree(self) -> "Params":
        if conflicts := "; ".join(_conflicts(self)):
            raise ValueError(conflicts)
        return self


class LibraryParams(Section):
    """The sections that `pdiff.api` reads: it has neither images nor base net."""

    noise: NoiseConfig
    autoencoder: AutoencoderConfig
    ddpm: DdpmConfig
    generate: GenerateConfig
    evaluate: EvaluateConfig

    @model_validator(mode="after")
    def _values_agree(self) -> "LibraryParams":
        if conflicts := "; ".join([*_conflicts_of_generator(self), *_divergent(self)]):
            raise ValueError(conflicts)
        return self


def _conflicts(params: Params) -> Iterator[str]:
    """Values that are allowed alone and exclude each other."""
    data, base, finetune = params.data, params.base, params.finetune
    autoencoder = params.autoencoder
    yield from _conflicts_of_generator(params)
    if min(data.std) < LEAST_STD:
        yield f"data.std: {min(data.std):g} is less than {LEAST_STD}; pixels lie in [0, 1]"
    if data.crop_scale and data.crop_scale[0] > data.crop_scale[1]:
        yield f"data.crop_scale: {list(data.crop_scale)} must be [low, high]"
    if data.resize < data.size:
        yield f"data.resize: {data.resize} is smaller than data.size: {data.size}, the centre crop"
    if base.pretrained and base.weights:
        yield "base.pretrained and base.weights exclude each other: give one"
    if base.epochs == 0 and not (base.pretrained or base.weights):
        yield "base.epochs: 0 needs trained weights: base.pretrained or .weights"
    available = finetune.runs * finetune.available
    if finetune.checkpoints > available and finetune.folder is None:
        yield (
            f"finetune.checkpoints: {finetune.checkpoints} is more than the {available} that "
            f"finetune.runs: {finetune.runs}, finetune.steps: {finetune.steps}, "
            f"finetune.save_every: {finetune.save_every} and finetune.save_after: "
            f"{finetune.save_after} leave"
        )
    for key, runs in (("runs", finetune.runs), ("fresh_runs", finetune.fresh_runs)):
        if finetune.checkpoints % runs:
            yield f"finetune.{key}: {runs} must divide finetune.checkpoints: {finetune.checkpoints}"
    if finetune.runs > 1 and finetune.folder is not None:
        yield f"finetune.runs: {finetune.runs} runs cannot be told apart in finetune.folder; give 1"
    yield from _conflicts_of_zoo(params)
    if autoencoder.kind == "linear" and autoencoder.latent_dim >= finetune.checkpoints:
        yield (
            f"autoencoder.latent_dim: {autoencoder.latent_dim} is more than the "
            f"{finetune.checkpoints - 1} components that finetune.checkpoints: "
            f"{finetune.checkpoints} have with autoencoder.kind: linear"
        )
    baselines = params.baselines
    named = {
        "noise_levels, noise_ladder": {*baselines.noise_levels, *baselines.noise_ladder},
        "absolute_noise": {*baselines.absolute_noise},
        "latent_noise": {*baselines.latent_noise},
    }
    for key, levels in named.items():
        if len({f"{level:g}" for level in levels}) < len(levels):
            yield (
                f"baselines.{key}: {sorted(levels)} are not all different in six digits, which "
                "name the groups"
            )

    for key, count in _least_numbers(params).items():
        if count > MEMORY:
            yield too_much(key, count)
    yield from _divergent(params)


def _conflicts_of_zoo(params: Params) -> Iterator[str]:
    """What a zoo of independent nets needs, and its rivals."""
    finetune = params.finetune
    if finetune.zoo is None:
        if params.baselines.zoo is not None:
            yield "baselines.zoo: needs independent nets, finetune.zoo; give null"
        return
    if finetune.folder is not None:
        yield "finetune.zoo and finetune.folder exclude each other: give one"
    if params.subset.select != "all":
        yield f"subset.select: {params.subset.select} must be all with finetune.zoo"
    each = finetune.available
    if finetune.checkpoints != finetune.runs * each:
        yield (
            f"finetune.checkpoints: {finetune.checkpoints} must be {finetune.runs * each}: with "
            f"finetune.zoo each of finetune.runs: {finetune.runs} nets leaves {each}"
        )
    if each and finetune.held_back % each:
        yield f"finetune.held_back: {finetune.held_back} must be a multiple of {each}, whole nets"
    if finetune.fresh_runs > finetune.runs:
        yield (
            f"finetune.fresh_runs: {finetune.fresh_runs} is more than finetune.runs: "
            f"{finetune.runs}, which a zoo cannot have"
        )


def too_much(key: str, count: int) -> str:
    """What is said of a parameter that asks for `count` numbers in memory."""
    wanted, most = count / 2**28, MEMORY // 2**28
    need = f"at least {wanted:,.0f} GiB of memory would be needed"
    return f"{key}: {need}, of at most {most}; give less"


def _divergent(params: Params | LibraryParams) -> Iterator[str]:
    """Values with which no training or sampling stays finite."""
    for name in ("base", "finetune", "autoencoder", "ddpm"):
        config = getattr(params, name, None)
        if config is None:
            continue
        if config.lr > MOST_LR:
            yield f"{name}.lr: {config.lr:g} is more than {MOST_LR}"
        elif config.lr * config.weight_decay >= 1:
            yield (
                f"{name}.weight_decay: {config.weight_decay:g} times {name}.lr: {config.lr:g} is 1 "
                "or more, so a step would take away more than the weights"
            )
    for name, level in (("param", params.noise.param), ("latent", params.noise.latent)):
        if level > MOST_NOISE:
            yield f"noise.{name}: {level:g} is more than {MOST_NOISE} times what it is added to"
    ddpm = params.ddpm
    ends = [(1 - beta) * math.log1p(-beta) + beta for beta in (ddpm.beta_start, ddpm.beta_end)]
    width = ddpm.beta_end - ddpm.beta_start
    decay = (ends[1] - ends[0]) / width if width > 1e-6 else -math.log1p(-ddpm.beta_end)
    if decay * ddpm.timesteps > MOST_DECAY:
        yield (
            f"ddpm.beta_end: with {ddpm.beta_end:g} and ddpm.timesteps: {ddpm.timesteps} a latent "
            f"fades to e^-{decay * ddpm.timesteps:,.0f} of its variance; at most e^-{MOST_DECAY}"
        )


def _conflicts_of_generator(params: Params | LibraryParams) -> Iterator[str]:
    """Those of the sections that a library fit has too."""
    autoencoder, ddpm, generate = params.autoencoder, params.ddpm, params.generate
    if autoencoder.micro_batch and autoencoder.checkpointing:
        yield (
            "autoencoder.checkpointing: true adds nothing to autoencoder.micro_batch: "
            f"{autoencoder.micro_batch}, which keeps less; give one: false or null"
        )
    if (autoencoder.micro_batch or 0) > autoencoder.batch_size:
        yield (
            f"autoencoder.micro_batch: {autoencoder.micro_batch} is more than "
            f"autoencoder.batch_size: {autoencoder.batch_size}"
        )
    if autoencoder.kind == "linear" and autoencoder.encode_norm == "minibatch":
        yield "autoencoder.encode_norm: minibatch needs a batch norm, linear has none; give batch"
    for name, config in (("autoencoder", autoencoder), ("ddpm", ddpm)):
        if config.kernel_size % 2 == 0:
            yield f"{name}.kernel_size: {config.kernel_size} must be odd"
    if ddpm.beta_start > ddpm.beta_end:
        yield f"ddpm.beta_start: {ddpm.beta_start} is larger than ddpm.beta_end: {ddpm.beta_end}"
    if generate.trajectories and generate.sampler == "prior":
        yield "generate.trajectories: the sampler `prior` has no steps to follow"
    if generate.sampler == "ddim" and generate.steps > ddpm.timesteps:
        yield (
            f"generate.steps: {generate.steps} is more than the {ddpm.timesteps} that the sampler "
            "ddim can take (ddpm.timesteps)"
        )


def _least_numbers(params: Params) -> dict[str, int]:
    """Lower bounds, for every net and subset, on the numbers of 4 bytes that a run holds at once.

    A weight that is trained has a gradient, with AdamW two moments too; a GPU may halve what a
    layer makes.
    """
    coder, ddpm, generate = params.autoencoder, params.ddpm, params.generate
    rank = params.finetune.checkpoints - 1  # of the latents, all that `whiten` leaves of them
    length = min(coder.latent_dim, rank) if ddpm.standardise == "whiten" else coder.latent_dim
    widest = length * max(ddpm.channels) // 2  # what a layer makes of one latent
    sampled = coder.latent_dim if generate.sampler == "prior" else widest
    numbers = {
        "data.size": 2 * 3 * params.data.size**2,  # the smallest batch
        "ddpm.channels, ddpm.kernel_size": 4 * ddpm.kernel_size * _products(ddpm.channels),
        "ddpm.batch_size": ddpm.batch_size * widest,
        "ddpm.timesteps": 10 * ddpm.timesteps,
        "generate.models": generate.models * sampled,
        "novelty.bootstrap": 2 * params.novelty.bootstrap * generate.models,
    }
    if coder.kind != "linear":  # the others pad vectors to 64 numbers or more
        each = 2 if coder.optimizer == "adafactor" else 4
        numbers |= {
            "autoencoder.latent_dim": each * coder.latent_dim**2,
            "autoencoder.channels, autoencoder.kernel_size": (
                each * coder.kernel_size * _products(coder.channels)
            ),
            "autoencoder.batch_size": 2 * 64 * coder.batch_size,
        }
    return numbers


def _products(channels: tuple[int, ...]) -> int:
    """Weights of convolutions in a row, for each position of the kernel."""
    return sum(before * after for before, after in pairwise((1, *channels)))


def load_params(path: Path = PARAMS) -> Params:
    """Read and check `params.yaml`; raise `InputError` in one line if anything is wrong."""
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} is missing; `git checkout {path}` restores it") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return parse_params(raw, str(path))


def library_params(changes: Mapping[str, Any]) -> LibraryParams:
    """The defaults of `recipe=quick`, which `params.yaml` holds too, with changed values.

    `changes` is {section: {key: value}}; raises `InputError` as `parse_params`.
    """
    files = ("config.yaml", "recipe/quick.yaml")
    presets = [yaml.safe_load((PRESETS / name).read_text()) for name in files]
    raw = {
        name: {**presets[0].get(name, {}), **presets[1].get(name, {})}
        for name in LibraryParams.model_fields
    }
    for name, values in changes.items():
        raw[name] = {**raw.get(name, {}), **values} if isinstance(values, Mapping) else values
    return parse_params(raw, "PDiff", LibraryParams)


def parse_params(raw: object, source: str = "params", kind: type[P] = Params) -> P:
    """Check the nested dict `raw`; raise `InputError` naming every wrong key in one line."""
    missing = [  # what presets leave to the user, which Hydra writes as ???
        f"{section}.{key}={key.upper()}"
        for section, values in (raw.items() if isinstance(raw, dict) else ())
        for key, value in (values.items() if isinstance(values, dict) else ())
        if value == "???" and key != "watch"  # `watch` copies another key
    ]
    if missing:
        raise InputError(f"{source}: these presets want more: -S {' -S '.join(missing)}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        found = (_named(problem, kind) for problem in error.errors())
        raise InputError(f"{source}: " + "; ".join(found)) from None


def _named(problem: Mapping[str, Any], kind: type[Section]) -> str:
    """One problem that pydantic found: the key, and what is wrong or allowed."""
    location = problem["loc"]
    key = ".".join(map(str, location))
    if problem["type"] == "extra_forbidden":
        owner = kind
        for part in location[:-1]:
            found = owner.model_fields[part].annotation
            owner = next(t for t in (*get_args(found), found) if t is not type(None))
        return f"unknown key {key}; known: {', '.join(sorted(owner.model_fields))}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error" and len(location) < 2:  # of several values together
        return message
    if not location:
        return "sections with keys are expected: `git checkout params.yaml` restores them"
    if problem["type"] == "missing":
        return f"{key} is missing"
    return f"{key}: {problem['input']!r} is refused: {message}"

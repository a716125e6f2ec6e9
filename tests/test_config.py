"""`params.yaml`: typed, without defaults, every mistake named in one line."""

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pdiff.config import Params, load_params, parse_params
from pdiff.system.errors import InputError
from tests.conftest import ROOT, change


def composed(*overrides: str) -> dict:
    with initialize_config_dir(str(ROOT / "pdiff/conf"), version_base=None):
        config = compose("config", overrides=list(overrides))
    OmegaConf.resolve(config)  # as DVC does it
    return OmegaConf.to_container(config)


def test_the_committed_params_are_the_composed_default(raw):
    assert composed() == raw


def test_the_committed_params_are_valid(params):
    assert params.noise.param == 0.001
    assert params.noise.latent == 0.1


def test_no_field_has_a_default():
    def fields(model: type[BaseModel]):
        for name, field in model.model_fields.items():
            yield f"{model.__name__}.{name}", field
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from fields(field.annotation)

    assert [name for name, field in fields(Params) if field.default is not PydanticUndefined] == []


def test_parameters_cannot_be_changed(params):
    with pytest.raises(Exception, match="frozen"):
        params.noise.latent = 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise.latent": -1}, r"noise\.latent: -1 is refused: .*greater than or equal to 0"),
        ({"noise.latnet": 0.1}, r"unknown key noise\.latnet; known: latent, param"),
        ({"noise.latent": float("nan")}, r"noise\.latent: nan is refused"),
        ({"noise.latent": "much"}, r"noise\.latent: 'much' is refused"),
        (
            {"generate.sampler": "euler"},
            r"generate\.sampler: 'euler' .*'ddim' or 'prior'",
        ),
        (
            {"data.crop_scale": [0.9, 0.1]},
            r"crop_scale: \[0\.9, 0\.1\] must be \[low, high\]",
        ),
        (
            {"autoencoder.checkpointing": True, "autoencoder.micro_batch": 5},
            r"checkpointing: true adds nothing to autoencoder\.micro_batch: 5",
        ),
        ({"autoencoder.micro_batch": 51}, r"micro_batch: 51 is more than .*batch_size: 50"),
        ({"autoencoder.optimizer": "lion"}, r"optimizer: 'lion' .*'adamw' or 'adafactor'"),
        ({"finetune.batch_size": 1}, r"finetune\.batch_size: 1 is refused: .*than or equal to 2"),
        ({"data.root": "???"}, r"these presets want more: -S data\.root=ROOT$"),
        ({"finetune.checkpoints": 301}, r"checkpoints: 301 is more than the 300"),
        ({"finetune.save_every": 2}, r"checkpoints: 300 is more than the 150"),
        ({"finetune.save_after": 1}, r"checkpoints: 300 is more than the 299"),
        ({"finetune.save_after": 400}, r"checkpoints: 300 is more than the 0"),
        ({"base.epochs": 0}, r"base\.epochs: 0 needs trained weights"),
        (
            {"generate.trajectories": 2, "generate.sampler": "prior"},
            r"generate\.trajectories: the sampler `prior` has no steps",
        ),
        ({"generate.steps": 1001}, r"steps: 1001 is more than the 1000 .*sampler ddim"),
        (
            {"autoencoder.kind": "linear", "autoencoder.latent_dim": 300},
            r"autoencoder\.latent_dim: 300 is more than the 299 components that "
            r"finetune\.checkpoints: 300 have",
        ),
        ({"ddpm.beta_start": 0.5}, r"ddpm\.beta_start is larger"),
        ({"autoencoder.kernel_size": 6}, r"autoencoder\.kernel_size must be odd"),
        ({"base.pretrained": True, "base.weights": "x.pth"}, r"exclude each other"),
        ({"baselines.soups": [2, 1]}, r"baselines\.soups\.1: 1 is refused: .*or equal to 2"),
        ({"baselines.noise_ladder": [0.1, 0.0]}, r"noise_ladder\.1: 0\.0 is refused: .*than 0"),
        ({"baselines.latent_noise": [-1.0]}, r"latent_noise\.0: -1\.0 is refused: .*than 0"),
        ({"baselines.ema_decay": 1.0}, r"baselines\.ema_decay: 1\.0 is refused: .*less than 1"),
        ({"baselines.rival_models": 0}, r"baselines\.rival_models: 0 is refused: .*than 0"),
        (
            {"baselines.absolute_noise": [0.06, 0.06000001]},
            r"baselines\.absolute_noise: \[0\.06, 0\.06000001\] are not all different in six",
        ),
        ({"seed.base": 1.5}, r"seed\.base: 1\.5 is refused"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(raw, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_params(change(raw, **changes))
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named(raw):
    broken = change(raw)
    del broken["noise"]["latent"]
    with pytest.raises(InputError, match=r"noise\.latent is missing"):
        parse_params(broken)


def test_an_unknown_section_is_named(raw):
    with pytest.raises(InputError, match=r"unknown key nosie; known: .*noise"):
        parse_params(raw | {"nosie": {}})


def test_a_rate_that_yaml_reads_as_a_string_is_a_number(tmp_path, raw):
    path = tmp_path / "params.yaml"
    text = yaml.safe_dump(raw).replace("latent: 0.1", "latent: 1e-05")
    path.write_text(text)
    assert yaml.safe_load(text)["noise"]["latent"] == "1e-05"
    assert load_params(path).noise.latent == 1e-5


@pytest.mark.parametrize("text", ["", "a: [", "- 1"])
def test_a_file_that_is_not_a_mapping_is_refused(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"params\.yaml"):
        load_params(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"params\.yaml is missing"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("recipe", ["quick", "paper"])
@pytest.mark.parametrize(
    "overrides",
    [
        ["data=digits", "net=resnet18"],
        ["checkpoints=folder", "finetune.folder=/checkpoints", "base.weights=/base.pth"],
        ["data=folder", "data.root=/images", "net=timm", "base.net=vit_tiny_patch16_224"],
        ["net=own", "base.net=my_net.py:MyNet", "base.watch=my_net.py"],
        ["net=cifar_resnet20"],
    ],
)
def test_every_combination_of_presets_is_valid(recipe, overrides):
    parse_params(composed(f"recipe={recipe}", *overrides))


@pytest.mark.parametrize(
    ("preset", "wanted"),
    [
        ("data=folder", "-S data.root=ROOT"),
        ("net=own", "-S base.net=NET"),
        ("checkpoints=folder", "-S base.weights=WEIGHTS -S finetune.folder=FOLDER"),
    ],
)
def test_what_a_preset_leaves_open_is_asked_for(preset, wanted):
    with pytest.raises(InputError) as caught:
        parse_params(composed(preset))
    assert str(caught.value) == f"params: these presets want more: {wanted}"


@pytest.mark.parametrize("recipe", ["quick", "paper"])
@pytest.mark.parametrize("pair", [[], ["data=cifar10_images", "data.root=/images"]])
def test_own_checkpoints_win_over_recipe_and_pair(recipe, pair):
    own = ["checkpoints=folder", "finetune.folder=/checkpoints", "base.weights=/base.pth"]
    params = parse_params(composed(f"recipe={recipe}", *pair, *own))
    assert (params.finetune.folder, params.finetune.watch) == ("/checkpoints", "/checkpoints")
    assert (params.base.weights, params.base.epochs, params.base.pretrained) == (
        "/base.pth",
        0,
        False,
    )


def test_own_checkpoints_may_be_more_than_there_are_steps(raw):
    parse_params(change(raw, finetune__folder="/checkpoints", finetune__checkpoints=1000))


def test_the_paper_recipe_is_the_authors_default():
    """The row main/cifar100_resnet18 of their 81 experiments."""
    params = parse_params(composed("recipe=paper"))
    assert (params.base.epochs, params.base.lr, params.base.weight_decay) == (10, 5e-4, 5e-4)
    finetune = params.finetune
    assert (finetune.lr, finetune.lr_end) == (0.03, 0.03)
    assert (finetune.save_after, finetune.checkpoints, finetune.steps) == (1, 300, 301)
    assert finetune.batch_norm == "eval_after_2"
    assert params.autoencoder.channels == (64, 128, 256, 256, 32)
    assert (params.autoencoder.steps, params.autoencoder.lr) == (500, 2e-5)
    assert params.ddpm.channels == (64, 128, 256, 512, 256, 128, 64)
    assert (params.ddpm.steps, params.ddpm.lr, params.ddpm.timesteps) == (1000, 1e-4, 1000)
    assert (params.generate.models, params.generate.sampler) == (200, "ddpm")


def test_only_config_reads_params_yaml():
    """What else is YAML: dvc.lock, results of experiments, the paper's tables."""
    readers = [
        path.name
        for path in [*(ROOT / "pdiff").rglob("*.py"), *(ROOT / "stages").glob("*.py")]
        if "yaml.safe_load" in path.read_text()
        and path.name != "export.py"
        and path.parent.name not in ("tracking", "paper")
    ]
    assert readers == ["config.py"]

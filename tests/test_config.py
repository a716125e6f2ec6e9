"""`params.yaml`: typed, without defaults, every mistake named in one line."""

import os
import subprocess
import sys

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pdiff.config import Params, load_params, parse_params
from pdiff.system.errors import InputError
from tests.conftest import ROOT, change, composed


def test_the_committed_params_are_the_composed_default(raw):
    assert composed() == raw


def test_no_field_has_a_default():
    def fields(model: type[BaseModel]):
        for name, field in model.model_fields.items():
            yield f"{model.__name__}.{name}", field
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from fields(field.annotation)

    assert [name for name, field in fields(Params) if field.default is not PydanticUndefined] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise.latent": -1}, r"noise\.latent: -1 is refused: .*greater than or equal to 0"),
        ({"noise.latnet": 0.1}, r"unknown key noise\.latnet; known: latent, param"),
        ({"noise.latent": float("nan")}, r"noise\.latent: nan is refused"),
        ({"generate.sampler": "euler"}, r"generate\.sampler: 'euler' .*'ddim' or 'prior'"),
        ({"baselines.soups": [2, 1]}, r"baselines\.soups\.1: 1 is refused: .*or equal to 2"),
        ({"data.crop_scale": [0.9, 0.1]}, r"crop_scale: \[0\.9, 0\.1\] must be \[low, high\]"),
        (
            {"autoencoder.checkpointing": True, "autoencoder.micro_batch": 5},
            r"checkpointing: true adds nothing to autoencoder\.micro_batch: 5",
        ),
        ({"autoencoder.micro_batch": 51}, r"micro_batch: 51 is more than .*batch_size: 50"),
        ({"autoencoder.kernel_size": 6}, r"autoencoder\.kernel_size: 6 must be odd"),
        (
            {"autoencoder.kind": "linear", "autoencoder.latent_dim": 300},
            r"latent_dim: 300 is more than the 299 components that finetune\.checkpoints: 300 have",
        ),
        ({"data.size": 33}, r"data\.resize: 32 is smaller than data\.size: 33"),
        (
            {"autoencoder.encode_norm": "minibatch", "autoencoder.kind": "linear"},
            r"encode_norm: minibatch needs a batch norm",
        ),
        (
            {"ddpm.kernel_size": 6, "ddpm.beta_end": 0.00001},
            r"ddpm\.kernel_size: 6 must be odd; ddpm\.beta_start: 0\.0001 is larger",
        ),
        ({"data.root": "???"}, r"these presets want more: -S data\.root=ROOT$"),
        ({"finetune.checkpoints": 301}, r"checkpoints: 301 is more than the 300"),
        ({"finetune.save_every": 2}, r"checkpoints: 300 is more than the 150"),
        ({"finetune.save_after": 1}, r"checkpoints: 300 is more than the 299"),
        ({"finetune.save_after": 400}, r"checkpoints: 300 is more than the 0"),
        ({"base.epochs": 0}, r"base\.epochs: 0 needs trained weights"),
        ({"base.pretrained": True, "base.weights": "x.pth"}, r"exclude each other"),
        (
            {"generate.trajectories": 2, "generate.sampler": "prior"},
            r"generate\.trajectories: the sampler `prior` has no steps",
        ),
        ({"ddpm.steps": True}, r"ddpm\.steps: True is refused: .*not be true, false, yes or no"),
        ({"base.lr": True}, r"base\.lr: True is refused"),
        ({"ddpm.channels": [8, True, 8]}, r"ddpm\.channels: \[8, True, 8\] is refused"),
        ({"data.validation_size": True}, r"data\.validation_size: True is refused"),
        ({"ddpm.steps": 10**400}, r"ddpm\.steps: 10+ is refused: .*equal to 4294967295"),
        ({"autoencoder.latent_dim": 10**5}, r"latent_dim: at least 149 GiB of mem.* at most 128;"),
        (
            {"autoencoder.latent_dim": 4 * 10**9},
            r"autoencoder\.latent_dim: at least 238,418,579,102",
        ),
        (
            {"autoencoder.channels": [10**6] * 2},
            r"autoencoder\.channels, autoencoder\.kernel_size:",
        ),
        ({"autoencoder.batch_size": 10**9}, r"autoencoder\.batch_size: at least 477 GiB"),
        ({"ddpm.channels": [10**6] * 3}, r"ddpm\.channels, ddpm\.kernel_size: at least"),
        ({"ddpm.batch_size": 10**9}, r"ddpm\.batch_size: at least 9,537 GiB"),
        ({"ddpm.timesteps": 4 * 10**9}, r"ddpm\.timesteps: at least 149 GiB"),
        ({"generate.models": 10**9}, r"generate\.models: at least 9,537 GiB"),
        ({"novelty.bootstrap": 10**9}, r"novelty\.bootstrap: at least 1,490 GiB"),
        ({"data.size": 10**5, "data.resize": 10**5}, r"data\.size: at least 224 GiB"),
        ({"generate.steps": 1001}, r"steps: 1001 is more than the 1000 .*sampler ddim"),
        (
            {"baselines.absolute_noise": [0.06, 0.06000001]},
            r"absolute_noise: \[0\.06, 0\.06000001\] are not all different in six",
        ),
    ],
)
def test_a_wrong_value_is_named_in_one_line(raw, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_params(change(raw, **changes))
    assert "\n" not in str(caught.value)


def test_a_missing_key_and_an_unknown_section_are_named(raw):
    with pytest.raises(InputError, match=r"noise\.latent is missing"):
        parse_params(raw | {"noise": {"param": 0.001}})
    with pytest.raises(InputError, match=r"unknown key nosie; known: .*noise"):
        parse_params(raw | {"nosie": {}})


def test_parameters_without_sections_are_named():
    with pytest.raises(InputError, match=r"^params: sections with keys are expected"):
        parse_params([])


@pytest.mark.parametrize("text", [None, "", "a: [", "- 1"])
def test_a_file_that_is_missing_or_not_a_mapping_is_named(tmp_path, text):
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"params\.yaml" + " is missing" * (text is None)):
        load_params(path)


def test_a_rate_that_yaml_reads_as_a_string_is_a_number(tmp_path, raw):
    path = tmp_path / "params.yaml"
    text = yaml.safe_dump(raw).replace("latent: 0.1", "latent: 1e-05")
    path.write_text(text)
    assert yaml.safe_load(text)["noise"]["latent"] == "1e-05"
    assert load_params(path).noise.latent == 1e-5


@pytest.mark.parametrize("recipe", ["quick", "paper"])
@pytest.mark.parametrize(
    "overrides",
    [
        ["data=digits", "net=resnet18"],
        ["checkpoints=folder", "finetune.folder=/checkpoints", "base.weights=/base.pth"],
        ["checkpoints=hub", "finetune.folder=hf://a/b@c0", "base.weights=hf://a/b@c0/net.pth"],
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
        ("checkpoints=hub", "-S base.weights=WEIGHTS -S finetune.folder=FOLDER"),
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
    assert params.finetune.folder == params.finetune.watch == "/checkpoints"
    base = params.base
    assert (base.weights, base.epochs, base.pretrained) == ("/base.pth", 0, False)


@pytest.mark.parametrize(
    "changes",
    [
        {"finetune.folder": "/checkpoints", "finetune.checkpoints": 1000},
        {"generate.sampler": "ddpm", "generate.steps": 1001},
        {"autoencoder.micro_batch": 50},
        {"autoencoder.kind": "linear", "autoencoder.channels": [10**6] * 2},
        {"generate.sampler": "prior", "generate.models": 10**6, "novelty.bootstrap": 1},
        {"data.crop_scale": [0.5, 0.5], "ddpm.beta_end": 0.0001},
    ],
)
def test_values_that_do_not_exclude_each_other_are_allowed(raw, changes):
    parse_params(change(raw, **changes))


def test_a_wrong_value_is_told_without_torch(tmp_path, raw):
    """Which takes seconds to import."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(change(raw, noise__latent=-1)))
    code = "import sys; from stages import check_params, stage\ntry: stage(check_params.main)\n"
    code += "finally: sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert "noise.latent: -1 is refused" in done.stderr

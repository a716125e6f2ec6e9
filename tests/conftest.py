"""What several tests need: the default parameters, shrunk ones, small images, a quiet machine."""

import fcntl
import os

import pdiff.system.portable  # noqa: F401 - first, for it must come before torch

os.environ.setdefault("PDIFF_TRACKING", "off")  # test_tracking.py switches it on where it is meant
os.environ.setdefault("PDIFF_DEVICE", "cpu")

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pdiff.config import Params, parse_params

if TYPE_CHECKING:
    from tests.toys.hub import Hub

ROOT = Path(__file__).resolve().parents[1]

TINY = {  # the default with a few values shrunk: seconds in all, and nets that learn (85 %)
    "seed.base": 3,
    "seed.model": 5,
    "data.train_size": 120,
    "data.validation_size": 60,
    "data.test_size": 80,
    "data.noise": 0.1,
    "base.net": "test_resnet",
    "base.epochs": 12,
    "base.lr": 0.005,
    "finetune.steps": 12,
    "finetune.checkpoints": 12,
    "finetune.batch_size": 40,
    "finetune.held_back": 3,
    "finetune.fresh_checkpoints": 5,
    "autoencoder.channels": [4, 8, 8],
    "autoencoder.latent_dim": 16,
    "autoencoder.steps": 20,
    "autoencoder.batch_size": 6,
    "autoencoder.min_r2": -10.0,
    "ddpm.channels": [4, 8, 4],
    "ddpm.steps": 20,
    "ddpm.batch_size": 6,
    "generate.models": 6,
    "generate.steps": 5,
    "baselines.noised_models": 4,
    "baselines.reconstructed_models": 4,
    "baselines.rival_models": 3,
    "baselines.noise_ladder": [0.05, 0.5],
    "baselines.absolute_noise": [0.06],
    "baselines.soups": [2, 8, 16],
    "baselines.ranks": [1, 4],
    "baselines.soup_candidates": 5,
    "baselines.latent_noise": [1.0],
    "novelty.bootstrap": 20,
    "evaluate.max_accuracy_drop": 1.0,
}


def change(raw: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy of nested parameters with `section__key=value` (or {"section.key": value}) changed."""
    copy = deepcopy(raw)
    for name, value in changes.items():
        *sections, key = name.replace("__", ".").split(".")
        inner = copy
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[key] = value
    return copy


def composed(*overrides: str, presets: Path = ROOT / "pdiff/conf") -> dict[str, Any]:
    """The parameters that presets give."""
    from hydra import compose, initialize_config_dir  # tests of the library do without
    from omegaconf import OmegaConf

    with initialize_config_dir(str(presets), version_base=None):
        config = compose("config", overrides=list(overrides))
    OmegaConf.resolve(config)  # as DVC does it
    return OmegaConf.to_container(config)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Threads cost more than they give at toy sizes."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def raw() -> dict[str, Any]:
    """The committed `params.yaml`, as nested dicts."""
    return yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.fixture(scope="session")
def params(raw: dict[str, Any]) -> Params:
    return parse_params(raw)


@pytest.fixture(scope="session")
def tiny_raw(raw: dict[str, Any]) -> dict[str, Any]:
    return change(raw, **TINY)


@pytest.fixture(scope="session")
def tiny(tiny_raw: dict[str, Any]) -> Params:
    return parse_params(tiny_raw)


@pytest.fixture(scope="session")
def finished(tiny_raw: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole pipeline ran at toy sizes; tests copy it before they write.

    The processes of pytest-xdist share it: the first that wants it makes it.
    """
    from tests.toys.pipeline import run_stages

    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    folder, done = shared / "finished", shared / "finished.done"
    with (shared / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            run_stages(folder, tiny_raw)
            done.touch()
    return folder


@pytest.fixture
def rerun(finished: Path, tiny_raw: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """`rerun(changes, *stages)`: a copy of `finished` in which they ran with other parameters."""
    from tests.toys.pipeline import go_on

    return lambda changes, *stages: go_on(
        finished, tmp_path / "run", change(tiny_raw, **changes), *stages
    )


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Own images of mixed sizes and kinds: train/ and test/ with the classes cat and dog."""
    random = np.random.default_rng(0)
    root = tmp_path / "images"
    for part, count in (("train", 8), ("test", 4)):
        for name, bright in (("cat", 60), ("dog", 190)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                height, width = random.integers(20, 60, 2)
                pixels = random.normal(bright, 20, (height, width, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.{('png', 'jpg')[i % 2]}")
    return root


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Hub"]:
    """A Hugging Face Hub on this machine, for this process and those it starts."""
    from huggingface_hub import constants

    from tests.toys.hub import TOKEN, serve

    with serve() as hub:
        home = tmp_path / "huggingface"
        template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        read_before = {  # constants that huggingface_hub reads once
            "ENDPOINT": hub.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_DISABLE_TELEMETRY": False,
            "AGENT_HARNESSES_PATH": str(home / "harnesses.json"),
        }
        for name, value in read_before.items():
            monkeypatch.setattr(constants, name, value)
        for name, value in (
            ("HF_ENDPOINT", hub.endpoint),
            ("HF_HOME", str(home)),
            ("HF_TOKEN", TOKEN),
        ):
            monkeypatch.setenv(name, value)
        yield hub

"""`predict` equals the plain way for every net that has a preset, trained to tell digits apart.

Each net has its preset's subset, and two of them are generated whole as well.
"""

from dataclasses import dataclass
from functools import lru_cache

import pytest
import torch
import yaml
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from pdiff.evaluation.predict import CutNet, predict, predict_plain
from pdiff.nets.minis import MINIS
from pdiff.nets.registry import build_net
from pdiff.parameters.subset import select_subset
from tests.conftest import ROOT
from tests.toys.nets import noised
from tests.toys.training import one_thread  # noqa: F401

pytestmark = pytest.mark.filterwarnings("error:.*cannot be cut")

RECIPES = {  # steps of 50 images, rate
    "cnn_medium": (40, 3e-3),
    "convnet_mini": (40, 3e-3),
    "mlp_mini": (50, 3e-3),
    "resnet_mini": (50, 3e-3),
    "vit_mini": (50, 2e-3),
    "convnext_mini": (30, 3e-3),
    "examples/cifar_resnet.py:resnet20": (40, 3e-3),
    "resnet18": (12, 1e-3),
    "vit_tiny_patch16_224": (12, 3e-4),
    "convnext_tiny": (20, 1e-3),
    "resnet50": (15, 1e-3),
    "vit_base_patch16_224": (15, 1e-4),
    "convnext_base": (20, 5e-4),
}
SLOW = ("resnet50", "vit_base_patch16_224", "convnext_base")
LEVELS = {"all": (0.0, 0.1, 0.3), "last_norms:2": (0.0, 2.0, 6.0)}  # noise of the three models
SMALL_LEVELS = {"examples/cifar_resnet.py:resnet20": (0.0, 1.0, 3.0)}  # its logits grow faster
TRAINING, IMAGES = 1200, 500


def presets() -> dict[str, str]:
    """What `pdiff/conf/net` selects of each net."""
    selects = {}
    for path in sorted((ROOT / "pdiff/conf/net").glob("*.yaml")):
        preset = yaml.safe_load(path.read_text())
        selects[preset["base"]["net"]] = preset.get("subset", {}).get("select", "last_norms:2")
    del selects["???"]  # any net of timm, and of one's own
    return selects


CASES = sorted([*presets().items(), ("resnet18", "all"), ("vit_tiny_patch16_224", "all")])
MARKED = [
    pytest.param(case, marks=pytest.mark.slow if case[0] in SLOW else (), id="-".join(case))
    for case in CASES
]


@dataclass(frozen=True)
class Case:
    net: nn.Module
    cut: CutNet
    models: list[dict[str, Tensor]]
    images: Tensor
    labels: Tensor
    predictions: Tensor
    """The plain way's."""

    def batches(self) -> tuple[Tensor, ...]:
        return self.images.split(150)  # the last one is smaller


@pytest.fixture(scope="module", params=MARKED)
def case(request) -> Case:
    name, select = request.param
    net, (images, labels) = trained(name), digits(name)
    images, labels = images[TRAINING:][:IMAGES], labels[TRAINING:][:IMAGES]
    names = select_subset(net, select).names
    models = noised(net, list(names), SMALL_LEVELS.get(name, LEVELS[select]))
    found = predict_plain(net, models, lambda: images.split(250))
    return Case(net, CutNet(net, names, images[:2]), models, images, labels, found)


def digits(name: str) -> tuple[Tensor, Tensor]:
    """Images of the side that the net takes, and their labels."""
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None]
    side = MINIS[name][1] if name in MINIS else 32
    images = functional.interpolate((images - images.mean()) / images.std(), side, mode="bilinear")
    return images.repeat(1, 3, 1, 1), torch.from_numpy(data.target).long()


@lru_cache(maxsize=1)  # the cases of a net follow each other
def trained(name: str) -> nn.Module:
    images, labels = (values[:TRAINING] for values in digits(name))
    steps, rate = RECIPES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build_net(name, 10, images.shape[2]).train()
        optimiser = torch.optim.AdamW(net.parameters(), lr=rate)
        for _ in range(steps):
            index = torch.randint(len(images), (50,))
            loss = functional.cross_entropy(net(images[index]), labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    net.requires_grad_(False)
    for module in net.modules():  # so few steps leave running statistics behind
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    for batch in images[:300].split(100):
        net(batch)
    return net.eval()


def test_every_net_with_a_preset_has_a_recipe_here():
    assert presets().keys() == RECIPES.keys()


def test_the_net_is_trained(case):
    predicted = case.predictions[0]
    assert (predicted == case.labels).float().mean() >= 0.3  # three times chance
    assert len(predicted.unique()) >= 5


def test_the_models_predict_different_classes(case):
    assert len(case.predictions.unique(dim=0)) == len(case.models)


def test_predictions_equal_the_plain_way(case):
    predictions = predict(case.cut, case.models, case.batches, boundary_mib=64)
    assert predictions.shape == (len(case.models), IMAGES)
    assert (predictions != case.predictions).sum() == 0


def test_logits_equal_the_whole_nets(case):
    images = case.images[:50]
    boundary = case.cut.prefix(images)
    for model in case.models:
        expected = functional_call(case.net, model, images)
        assert 0.5 < expected.abs().max() < 100
        torch.testing.assert_close(case.cut.suffix(model, boundary), expected, atol=1e-4, rtol=0)

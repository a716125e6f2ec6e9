"""`Predictor` equals the plain way for every net that has a preset, with random weights.

Each net has its preset's subset, and two of them are generated whole as well. The last layer is
scaled so that each class's logits have mean 0 and std 1 over digits: many classes are predicted.
"""

import copy
from dataclasses import dataclass
from functools import lru_cache

import pytest
import torch
import yaml
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from pdiff.evaluation.predict import CutNet, Predictor, predict_plain
from pdiff.nets.minis import MINIS
from pdiff.nets.registry import build_net
from pdiff.parameters.subset import select_subset
from tests.conftest import ROOT
from tests.toys.nets import noised
from tests.toys.training import one_thread  # noqa: F401

pytestmark = pytest.mark.filterwarnings("error:.*cannot be cut")

SLOW = ("resnet50", "vit_base_patch16_224", "convnext_tiny", "convnext_base")
LEVELS = {"all": (0.0, 0.1, 0.3), "last_norms:2": (0.0, 2.0, 6.0)}  # noise of the three models
SMALL_LEVELS = {"examples/cifar_resnet.py:resnet20": (0.0, 1.0, 3.0)}  # its logits grow faster
IMAGES, BATCH = 200, 75  # the last batch is smaller


def presets() -> dict[str, str]:
    """What `pdiff/conf/net` selects of each net."""
    selects = {}
    for path in sorted((ROOT / "pdiff/conf/net").glob("*.yaml")):
        preset = yaml.safe_load(path.read_text())
        selects[preset["base"]["net"]] = preset.get("subset", {}).get("select", "last_norms:2")
    del selects["???"]  # any net of timm, and of one's own
    return selects


WHOLE = [("resnet18", "all"), ("vit_tiny_patch16_224", "all")]  # the mini nets are whole, too
MARKED = [
    pytest.param(case, marks=[pytest.mark.slow] * slow, id="-".join(case))
    for case in sorted([*presets().items(), *WHOLE])
    for slow in [case[0] in SLOW or case in WHOLE]
]


@dataclass(frozen=True)
class Case:
    net: nn.Module
    cut: CutNet
    models: list[dict[str, Tensor]]
    images: Tensor
    predictions: Tensor
    """The plain way's."""

    def batches(self) -> tuple[Tensor, ...]:
        return self.images.split(BATCH)


@pytest.fixture(scope="module", params=MARKED)
def case(request) -> Case:
    name, select = request.param
    images = digits(MINIS[name][1] if name in MINIS else 32)
    net = random_net(name, images.shape[2])
    names = select_subset(net, select).names
    models = noised(net, list(names), SMALL_LEVELS.get(name, LEVELS[select]))
    found = predict_plain(net, models, lambda: images.split(100))
    return Case(net, CutNet(net, names, images[:2]), models, images, found)


def digits(side: int) -> Tensor:
    images = torch.from_numpy(load_digits().images[:IMAGES]).float()[:, None]
    images = functional.interpolate((images - images.mean()) / images.std(), side, mode="bilinear")
    return images.repeat(1, 3, 1, 1)


@lru_cache(maxsize=1)  # the cases of a net follow each other
def random_net(name: str, side: int) -> nn.Module:
    torch.manual_seed(0)
    images = digits(side)
    net = build_net(name, 10, side).requires_grad_(False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # running statistics are the mean over all batches
    net.train()(images)
    net.eval()
    head = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    logits = net(images)
    head.weight /= logits.std(0)[:, None]
    head.bias.copy_((head.bias - logits.mean(0)) / logits.std(0))
    return net


def test_the_models_predict_different_classes(case):
    assert len(case.predictions[0].unique()) >= 5
    assert len(case.predictions.unique(dim=0)) == len(case.models)


def test_predictions_equal_the_plain_way(case):
    predictions = Predictor(case.cut, case.batches, 64).predict(case.models)
    assert predictions.shape == (len(case.models), IMAGES)
    assert (predictions != case.predictions).sum() == 0


def test_logits_equal_the_whole_nets(case):
    images = case.images[:20]
    boundary = case.cut.prefix(images)
    for model in case.models:
        expected = functional_call(case.net, model, images)
        assert expected.abs().max() > 0.5
        logits = case.cut.suffix(model, boundary)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_predictions_on_a_gpu_equal_the_plain_way(case):
    net = copy.deepcopy(case.net).cuda()
    batches = lambda: (images.cuda() for images in case.batches())  # noqa: E731
    cut = CutNet(net, list(case.models[0]), next(iter(batches())))
    predictions = Predictor(cut, batches, 64).predict(case.models)  # models are on the CPU
    assert predictions.device.type == "cpu"
    same = predictions == predict_plain(net, case.models, batches)
    assert same.float().mean() > 0.99  # ties may round to either side

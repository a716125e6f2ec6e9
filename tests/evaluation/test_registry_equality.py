"""`Predictor` equals the plain way for every net that has a preset, with random weights.

Each net has its preset's subset, and two of them are generated whole as well. The last layer is
scaled so that each class's logits have mean 0 and std 1 over digits: many classes are predicted.
"""

import copy
from functools import lru_cache

import pytest
import torch
import yaml
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from pdiff.evaluation.predict import CutNet, Predictor, predict_plain
from pdiff.nets.minis import MINIS
from pdiff.nets.registry import build_net
from pdiff.parameters.subset import select_subset
from tests.conftest import ROOT
from tests.toys.nets import noised

pytestmark = pytest.mark.filterwarnings("error:.*cannot be cut")

SLOW = ("resnet50", "vit_tiny_patch16_224", "resnet18-all")
NIGHTLY = ("vit_base_patch16_224", "convnext_tiny", "convnext_base")
LEVELS = {"all": (0.0, 0.1, 0.3), "last_norms:2": (0.0, 2.0, 6.0)}  # noise of the three models
SMALL_LEVELS = {"examples/cifar_resnet.py:resnet20": (0.0, 1.0, 3.0)}  # its logits grow faster
IMAGES, BATCH = 200, 75  # the last batch is smaller


def cases() -> list:
    """Each net with what `pdiff/conf/net` selects of it; two are whole, as the mini nets are."""
    found = {("resnet18", "all"), ("vit_tiny_patch16_224", "all")}
    for path in (ROOT / "pdiff/conf/net").glob("*.yaml"):
        preset = yaml.safe_load(path.read_text())
        if "defaults" in preset:  # a net of another task
            continue
        found.add((preset["base"]["net"], preset.get("subset", {}).get("select", "last_norms:2")))
    return [
        pytest.param(
            case,
            id=name,
            marks=[pytest.mark.slow] * name.startswith(SLOW)
            + [pytest.mark.nightly] * name.startswith(NIGHTLY),
        )
        for case, name in ((case, "-".join(case)) for case in sorted(found))
        if case[0] != "???"  # any net of timm, and own ones
    ]


@pytest.fixture(scope="module", params=cases())
def case(request):
    """A net, images, three models of its subset, and what these predict in the plain way."""
    name, select = request.param
    images = digits(MINIS[name][1] if name in MINIS else 32)
    net = random_net(name, images.shape[2])
    names = list(select_subset(net, select).names)
    models = noised(net, names, SMALL_LEVELS.get(name, LEVELS[select]))
    return net, images, models, predict_plain(net, models, lambda: images.split(100))


def digits(side: int) -> torch.Tensor:
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


def test_logits_and_predictions_equal_the_plain_way(case):
    net, images, models, plain = case
    assert len(plain[0].unique()) >= 5 and len(plain.unique(dim=0)) == len(models)
    cut = CutNet(net, list(models[0]), images[:2])
    assert torch.equal(Predictor(cut, lambda: images.split(BATCH), 64).predict(models), plain)
    boundary = cut.prefix(images[:20])
    for model in models:
        logits, expected = (
            cut.run(cut.load(model), boundary),
            functional_call(net, model, images[:20]),
        )
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_predictions_on_a_gpu_equal_the_plain_way(case):
    net, images, models, _ = case
    net, batches = copy.deepcopy(net).cuda(), lambda: images.cuda().split(BATCH)
    cut = CutNet(net, list(models[0]), batches()[0])
    predictions = Predictor(cut, batches, 64).predict(models)  # models are on the CPU
    assert predictions.device.type == "cpu"
    same = predictions == predict_plain(net, models, batches)
    assert same.float().mean() > 0.99  # ties may round to either side

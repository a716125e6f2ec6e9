"""`predict` equals the plain way on small nets, and runs nothing more often than it needs to."""

import math
import re
import weakref
from collections import Counter

import pytest
import timm
import torch
from torch import Tensor, nn

from pdiff.evaluation.predict import CutNet, Predictor, accuracy, predict_plain, wrong
from pdiff.system.errors import InputError
from tests.toys.nets import (
    Branching,
    assert_logits_equal,
    noised,
    products,
    small_images,
    small_net,
    small_vit,
)

pytestmark = pytest.mark.filterwarnings("error:.*cannot be cut")  # unless a test expects it


def predict(net, names, models, batches, boundary_mib: int = 64) -> Tensor:
    cut = CutNet(net, names, next(iter(batches())))
    return Predictor(cut, batches, boundary_mib).predict(models)


# Equal to the plain way


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_any_batch_size_gives_the_same(batch):
    net = small_net(nn.BatchNorm2d(4), nn.ReLU())
    names = ["1.weight", "1.bias"]
    models, batches = noised(net, names), lambda: small_images().split(batch)
    plain = predict_plain(net, models, batches)
    assert plain.shape == (len(models), 7)
    assert len(plain.unique(dim=0)) > 1
    assert torch.equal(predict(net, names, models, batches), plain)


def test_a_class_token_takes_the_size_of_each_batch():
    net = small_vit()
    cut = CutNet(net, ["norm.weight"], torch.randn(7, 3, 32, 32))
    for count in (1, 2, 5):
        images = torch.randn(count, 3, 32, 32)
        assert_logits_equal(net, ["norm.weight"], noised(net, ["norm.weight"]), images, cut)


def test_a_suffix_in_place_leaves_the_boundary_as_it_is():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net(nn.BatchNorm2d(4))

        def forward(self, images: Tensor) -> Tensor:
            conv, norm, flatten, linear = self.net
            maps = conv(images)
            maps += norm(maps)
            return linear(flatten(maps))

    names = ["net.1.weight", "net.1.bias"]
    net = InPlace()
    assert_logits_equal(net, names, noised(net, names), small_images())


def test_a_parameter_used_twice_changes_in_both_places():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(24, 24), nn.Linear(24, 24)
            self.second.weight = self.first.weight

        def forward(self, images: Tensor) -> Tensor:
            return self.second(self.first(images.mean(2).flatten(1)).relu())

    net = Tied().eval()
    assert_logits_equal(net, ["first.weight"], noised(net, ["first.weight"]), small_images())


def test_another_memory_layout_or_precision_of_images_and_models_makes_no_difference():
    net, names = small_net(nn.BatchNorm2d(4), nn.ReLU()), ["0.weight", "1.bias"]
    models, images = noised(net, names), small_images().to(memory_format=torch.channels_last)
    cut = CutNet(net, names, images)
    assert_logits_equal(net, names, models, images, cut)
    for model in models:
        weight = model["0.weight"].double().to(memory_format=torch.channels_last)
        logits = cut.run(cut.load(model | {"0.weight": weight}), cut.prefix(images))
        expected = cut.run(cut.load(model), cut.prefix(images))
        torch.testing.assert_close(logits, expected, atol=0, rtol=0)


def test_a_net_in_training_mode_is_evaluated_in_eval_mode():
    net = small_net(nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.9))
    names = ["1.weight", "1.bias"]
    models, batches = noised(net, names), lambda: small_images().split(3)
    expected = predict_plain(net, models, batches)
    net.train()
    with torch.inference_mode():  # is no obstacle
        assert torch.equal(predict(net, names, models, batches), expected)
    assert torch.equal(predict_plain(net, models, batches), expected)


# What runs how often


def test_the_suffix_computes_only_what_follows_the_subset():
    net = timm.create_model("resnet18", num_classes=10).eval()
    names = ["layer4.1.bn1.weight", "layer4.1.bn2.weight"]
    last_conv, head = 512 * 512, 512 * 10  # maps of one pixel: a matrix without padding
    assert products(net, names, torch.zeros(2, 3, 32, 32)) == last_conv + head


@pytest.fixture
def large_images() -> Tensor:
    return torch.randn(300, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def seen(monkeypatch) -> dict[str, list[int]]:
    """Of each batch: bytes of boundaries that are alive, and its size; each model's load."""
    seen, alive = {"held": [], "images": [], "loads": []}, weakref.WeakSet()
    prefix, load = CutNet.prefix, CutNet.load

    def spy_prefix(cut, images):
        boundary = prefix(cut, images)
        alive.update(value for value in boundary if isinstance(value, Tensor))
        seen["held"].append(sum(value.nbytes for value in alive))
        seen["images"].append(len(images))
        return boundary

    def spy_load(cut, model):
        seen["loads"].append(id(model))
        return load(cut, model)

    monkeypatch.setattr(CutNet, "prefix", spy_prefix)
    monkeypatch.setattr(CutNet, "load", spy_load)
    return seen


@pytest.mark.parametrize(
    ("batch", "mib", "loads"), [(68, 64, 1), (68, 3, 2), (68, 2, 3), (68, 1, 5), (150, 1, 2)]
)
def test_boundaries_stay_below_their_limit_or_are_one_batch(large_images, seen, batch, mib, loads):
    """The batch norm sees 4 x 31 x 31 values of an image of 64 pixels: 68 images are 1 MiB."""
    net = small_net(nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    names = ["1.weight", "1.bias"]
    models, batches = noised(net, names), lambda: large_images.split(batch)
    predictions = predict(net, names, models, batches, mib)
    assert max(seen["held"]) <= max(mib * 2**20, batch * 4 * 31 * 31 * 4)
    assert sum(seen["images"]) == 2 + 300  # two when the net is cut, and each image once
    assert Counter(seen["loads"][1:]) == {id(model): loads for model in models}
    assert torch.equal(predictions, predict_plain(net, models, batches))


# Nets that cannot be cut


def test_a_net_that_cannot_be_traced_is_run_whole_and_says_so_once():
    net, names, images = Branching(), ["net.1.weight", "net.1.bias"], small_images()
    models = noised(net, names)
    with pytest.warns(UserWarning, match="Branching cannot be cut") as caught:
        cut = CutNet(net, names, images)
        predictions = Predictor(cut, lambda: images.split(3), 64).predict(models)
    assert sum("cannot be cut" in str(warning.message) for warning in caught) == 1
    assert not cut.traced and cut.prefix(images) == (images,)
    plain = predict_plain(net, models, lambda: images.split(3))
    assert torch.equal(predictions, plain)
    assert len(plain.unique(dim=0)) > 1


def test_a_net_that_is_another_one_when_exported_is_run_whole():
    class Exportable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net(nn.BatchNorm2d(4))

        def forward(self, images: Tensor) -> Tensor:
            logits = self.net(images)
            return logits.softmax(1) if torch.compiler.is_exporting() else logits

    with pytest.warns(UserWarning, match="logits are off by"):
        cut = CutNet(Exportable(), ["net.1.weight"], small_images())
    assert not cut.traced


# Values and errors


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_is_not_finite_is_wrong_on_every_image(value):
    net = small_net(nn.BatchNorm2d(4))
    good, bad = noised(net, ["1.bias"], levels=(0.0, 1.0))
    bad["1.bias"][0] = value
    batches = lambda: small_images().split(3)  # noqa: E731
    predictions = predict(net, ["1.bias"], [good, bad], batches)
    assert torch.equal(predictions, predict_plain(net, [good, bad], batches))
    assert (predictions[0] >= 0).all()
    assert (predictions[1] == -1).all()
    assert accuracy(predictions, predictions[0].long()).tolist() == [1.0, 0.0]


def test_one_infinite_logit_is_enough_to_be_no_class():
    """Also where it is -inf, which the largest logit would hide."""
    predictions = predict(
        nn.Sequential(nn.Flatten(), nn.Linear(2, 3, bias=False)),
        ["1.weight"],
        [{"1.weight": torch.tensor([[1.0, 0], [0, 1], [value, 0]])} for value in (0, -math.inf)],
        lambda: [torch.tensor([[[[1.0, 2.0]]], [[[2.0, 1.0]]]])],
    )
    assert predictions.tolist() == [[1, 0], [-1, -1]]


def test_only_images_whose_logits_are_not_finite_are_no_class():
    net = small_net(nn.BatchNorm2d(4))
    images = small_images()
    images[2, 0, 0, 0] = float("nan")
    predictions = predict(net, ["1.bias"], noised(net, ["1.bias"]), lambda: images.split(3))
    assert ((predictions == -1).sum(0) > 0).tolist() == [n == 2 for n in range(7)]


@pytest.mark.parametrize("names", [["1.gamma"], ["1.running_mean"], []])
def test_a_wrong_subset_is_refused(names):
    message = re.escape(f"Sequential lacks parameters of the subset: {names}")
    with pytest.raises(InputError, match=message):
        CutNet(small_net(nn.BatchNorm2d(4)), names, small_images())


WEIGHT = {"1.weight": torch.ones(4)}
BOTH = WEIGHT | {"1.bias": torch.zeros(4)}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (WEIGHT, r"missing: \[\('1.bias', \(4,\)\)\], unknown: \[\]"),
        (BOTH | {"0.bias": torch.zeros(4)}, r"missing: \[\], unknown: \[\('0.bias', \(4,\)\)\]"),
        (BOTH | {"1.bias": torch.zeros(1)}, r"unknown: \[\('1.bias', \(1,\)\)\]"),
    ],
)
def test_a_model_of_another_subset_is_refused(model, message):
    cut = CutNet(small_net(nn.BatchNorm2d(4)), ["1.weight", "1.bias"], small_images())
    with pytest.raises(InputError, match=message):
        cut.load(model)


def test_wrong_and_accuracy_by_hand():
    predictions = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 2], [-1, -1, -1, 2]], dtype=torch.int16)
    labels = torch.tensor([0, 1, 2, 2])
    assert wrong(predictions, labels).tolist() == [
        [False, False, False, True],
        [False, False, False, False],
        [True, True, True, False],
    ]
    assert accuracy(predictions, labels).tolist() == [0.75, 1.0, 0.25]

"""`predict` equals the plain way on small nets, and runs nothing more often than it needs to."""

import math
import re
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call

from pdiff.evaluation.predict import CutNet, Predictor, accuracy, predict_plain, wrong
from pdiff.evaluation.rewrites.small_maps import _multiply
from pdiff.system.errors import InputError
from tests.toys.nets import Branching, assert_logits_equal, noised, small_images, small_net
from tests.toys.training import one_thread  # noqa: F401

pytestmark = pytest.mark.filterwarnings("error:.*cannot be cut")  # unless a test expects it


def state(net: nn.Module) -> list:
    modes = [module.training for module in net.modules()]
    return [modes, {name: value.clone() for name, value in net.state_dict().items()}]


def assert_same_state(before: list, after: list) -> None:
    assert before[0] == after[0]
    torch.testing.assert_close(before[1], after[1], rtol=0, atol=0)


def predict(net, names, models, batches, boundary_mib: int = 64) -> Tensor:
    cut = CutNet(net, names, next(iter(batches())))
    return Predictor(cut, batches, boundary_mib).predict(models)


# Equal to the plain way


def test_a_net_for_images_of_any_size_can_be_cut():
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    net = VisionTransformer(**sizes, num_classes=10, dynamic_img_size=True).eval()
    names = ["blocks.1.norm2.weight", "norm.weight"]
    models = noised(net, names, levels=(0.0, 1.0))
    assert_logits_equal(net, names, models, torch.randn(3, 3, 64, 64))


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
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    net = VisionTransformer(**sizes, num_classes=10).eval()
    cut = CutNet(net, ["norm.weight"], torch.randn(7, 3, 32, 32))
    (model,) = noised(net, ["norm.weight"], levels=(1.0,))
    for count in (1, 2, 5):
        images = torch.randn(count, 3, 32, 32)
        with torch.no_grad():
            expected = functional_call(net, model, images)
        torch.testing.assert_close(cut.suffix(model, cut.prefix(images)), expected)


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


def test_images_in_another_memory_layout_are_no_different():
    net = small_net(nn.BatchNorm2d(4), nn.ReLU())
    names = ["0.weight", "1.bias"]
    images = small_images().to(memory_format=torch.channels_last)
    assert_logits_equal(net, names, noised(net, names), images)


def test_models_in_another_memory_layout_or_precision_are_no_different():
    net = small_net(nn.BatchNorm2d(4), nn.ReLU())
    names = ["0.weight", "1.bias"]
    models = noised(net, names)
    cut, images = CutNet(net, names, small_images()), small_images()
    for model in models:
        expected = cut.suffix(model, cut.prefix(images))
        weight = model["0.weight"].double().to(memory_format=torch.channels_last)
        logits = cut.suffix(model | {"0.weight": weight}, cut.prefix(images))
        torch.testing.assert_close(logits, expected, atol=0, rtol=0)


def test_a_net_in_training_mode_is_evaluated_in_eval_mode():
    net = small_net(nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.9))
    names = ["1.weight", "1.bias"]
    models, batches = noised(net, names), lambda: small_images().split(3)
    expected = predict_plain(net, models, batches)
    net.train()
    assert torch.equal(predict(net, names, models, batches), expected)
    assert torch.equal(predict_plain(net, models, batches), expected)


def test_inference_mode_around_it_is_no_obstacle():
    net = small_net(nn.BatchNorm2d(4), nn.ReLU())
    names = ["1.weight"]
    with torch.inference_mode():
        assert_logits_equal(net, names, noised(net, names), small_images())


# What runs how often


def test_the_suffix_holds_only_what_follows_the_subset():
    net = timm.create_model("resnet18", num_classes=10).eval()
    cut = CutNet(net, ["layer4.1.bn1.weight", "layer4.1.bn2.weight"], torch.zeros(2, 3, 32, 32))
    parts = (cut._cut.prefix, cut._cut.suffix)
    targets = [[node.target for node in part.module.graph.nodes] for part in parts]
    prefix, suffix = (Counter(map(str, part)) for part in targets)
    matrices = [part.count(_multiply) for part in targets]  # convolutions of maps of 2x2 and 1x1
    convolutions = [part["aten.conv2d.default"] for part in (prefix, suffix)]
    assert [sum(both) for both in zip(matrices, convolutions, strict=True)] == [19, 1]
    assert suffix["aten._native_batch_norm_legit_no_training.default"] == 2


@pytest.fixture
def large_images() -> Tensor:
    return torch.randn(300, 3, 64, 64, generator=torch.Generator().manual_seed(1))


class Counted(list):
    """Batches that count how often each was asked for."""

    def __init__(self, values) -> None:
        super().__init__(values)
        self.asked = Counter()

    def __iter__(self) -> Iterator[Tensor]:
        for index in range(len(self)):
            self.asked[index] += 1
            yield self[index]

    def each_was_asked(self, times: int) -> bool:
        return self.asked == dict.fromkeys(range(len(self)), times)


@pytest.fixture
def loaded(monkeypatch):
    """How often each of some models was loaded, if all were equally often."""
    counts, original = Counter(), CutNet.load

    def load(cut, model):
        counts[id(model)] += 1
        return original(cut, model)

    monkeypatch.setattr(CutNet, "load", load)

    def times(models) -> int:
        (count,) = {counts[id(model)] for model in models}
        return count

    return times


@pytest.fixture
def held(monkeypatch) -> list[int]:
    """Bytes of boundaries that are alive, after each batch."""
    alive, totals = weakref.WeakSet(), []
    original = CutNet.prefix

    def prefix(cut, images):
        boundary = original(cut, images)
        alive.update(value for value in boundary if isinstance(value, Tensor))
        totals.append(sum(value.nbytes for value in alive))
        return boundary

    monkeypatch.setattr(CutNet, "prefix", prefix)
    return totals


def pooled_net() -> nn.Module:
    """Its batch norm sees 4 x 31 x 31 values of an image of 64 pixels: 68 images are 1 MiB."""
    return small_net(nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))


@pytest.mark.parametrize(("mib", "together"), [(64, 5), (3, 3), (2, 2), (1, 1)])
def test_boundaries_stay_below_their_limit(large_images, held, loaded, mib, together):
    net, names = pooled_net(), ["1.weight", "1.bias"]
    models, batches = noised(net, names), lambda: large_images.split(68)
    predictions = predict(net, names, models, batches, mib)
    assert max(held) <= mib * 2**20
    assert loaded(models) == -(-5 // together)
    assert torch.equal(predictions, predict_plain(net, models, batches))


def test_one_batch_may_exceed_the_limit(large_images, held, loaded):
    net, names = pooled_net(), ["1.weight", "1.bias"]
    models = noised(net, names)
    predict(net, names, models, lambda: large_images.split(150), 1)
    assert max(held) == 150 * 4 * 31 * 31 * 4
    assert loaded(models) == 2


def streamed(net, names, images, mib: int) -> tuple[list, Counted]:
    """Models and batches of 68 images (3.2 MiB) after `predict`, which gave what it should."""
    models, batches = noised(net, names), Counted(images.split(68))
    cut = CutNet(net, names, images[:2])
    predictions = Predictor(cut, lambda: batches, mib).predict(models)
    assert torch.equal(predictions, predict_plain(net, models, lambda: images.split(68)))
    return models, batches


def large_net() -> nn.Module:
    """6 MiB of parameters in its second layer, and none before the first."""
    return small_net(nn.AdaptiveAvgPool2d(20), nn.Flatten(), nn.Linear(1600, 1000), nn.ReLU())


def test_images_pass_once_if_the_subset_is_small(large_images, loaded):
    models, batches = streamed(pooled_net(), ["0.weight"], large_images, 4)
    assert batches.each_was_asked(1)
    assert loaded(models) == 5


def test_images_and_models_pass_once_if_the_images_fit(large_images, loaded):
    net = large_net()
    models, batches = streamed(net, ["0.weight", "3.weight"], large_images, 16)
    assert loaded(models) == 1
    assert batches.each_was_asked(1)


def test_images_pass_once_if_something_precedes_the_subset(large_images):
    _, batches = streamed(large_net(), ["3.weight"], large_images, 4)
    assert batches.each_was_asked(1)


# Nets that cannot be cut


def test_a_net_that_cannot_be_traced_is_run_whole_and_says_so_once():
    net = Branching()
    names = ["net.1.weight", "net.1.bias"]
    models, batches = noised(net, names), lambda: small_images().split(3)
    with pytest.warns(UserWarning, match="Branching cannot be cut") as caught:
        predictions = predict(net, names, models, batches)
    assert sum("cannot be cut" in str(warning.message) for warning in caught) == 1
    plain = predict_plain(net, models, batches)
    assert torch.equal(predictions, plain)
    assert len(plain.unique(dim=0)) > 1


def test_the_prefix_of_an_untraced_net_is_the_identity():
    images = small_images()
    with pytest.warns(UserWarning, match="cannot be cut"):
        cut = CutNet(Branching(), ["net.1.weight"], images)
    assert not cut.traced
    assert cut.prefix(images) == (images,)


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


# What stays as it was


@pytest.mark.parametrize("whole", [False, True], ids=["cut", "untraced"])
def test_the_base_net_stays_as_it_was(whole):
    net = Branching() if whole else nn.ModuleDict({"net": small_net(nn.BatchNorm2d(4))})["net"]
    names = ["net.1.weight"] if whole else ["1.weight"]
    net.train()
    list(net.modules())[-1].eval()
    before = state(net)
    models, batches = noised(net, names), lambda: small_images().split(3)
    with pytest.warns(match="cannot be cut") if whole else nullcontext():
        predict(net, names, models, batches)
    assert_same_state(before, state(net))
    predict_plain(net, models, batches)
    assert_same_state(before, state(net))
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_the_base_net_stays_as_it_was_when_evaluation_fails():
    net = small_net(nn.BatchNorm2d(4)).train()
    before = state(net)
    with pytest.raises(RuntimeError):
        predict_plain(net, noised(net, ["1.weight"]), lambda: [torch.zeros(1, 2, 8, 8)])
    assert_same_state(before, state(net))


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
    net = small_net(nn.BatchNorm2d(4))
    message = re.escape(f"Sequential lacks parameters of the subset: {names}")
    with pytest.raises(InputError, match=message):
        CutNet(net, names, small_images())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"1.bias": None}, r"missing: \['1.bias'\], unknown: \[\]"),
        ({"0.bias": torch.zeros(4)}, r"missing: \[\], unknown: \['0.bias'\]"),
        ({"1.bias": torch.zeros(1)}, r"'1.bias' has shape \(1,\), the net's \(4,\)"),
    ],
)
def test_a_model_of_another_subset_is_refused(change, message):
    net = small_net(nn.BatchNorm2d(4))
    names = ["1.weight", "1.bias"]
    model = noised(net, names)[0] | change
    model = {name: value for name, value in model.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        predict(net, names, [model], lambda: [small_images()])


def test_nothing_to_evaluate_is_an_error():
    net = small_net()
    with pytest.raises(ValueError, match="no models"):
        predict(net, ["0.bias"], [], lambda: [small_images()])
    with pytest.raises(ValueError, match="no images"):
        cut = CutNet(net, ["0.bias"], small_images())
        Predictor(cut, lambda: iter(()), 1).predict(noised(net, ["0.bias"]))


def test_wrong_and_accuracy_by_hand():
    predictions = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 2], [-1, -1, -1, 2]], dtype=torch.int16)
    labels = torch.tensor([0, 1, 2, 2])
    assert wrong(predictions, labels).tolist() == [
        [False, False, False, True],
        [False, False, False, False],
        [True, True, True, False],
    ]
    assert accuracy(predictions, labels).tolist() == [0.75, 1.0, 0.25]

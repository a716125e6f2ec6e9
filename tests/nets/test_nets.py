"""Base nets by name, their weights from files."""

import pytest
import timm
import torch

from pdiff.nets.registry import build_net, check_net, check_size, head_classes
from pdiff.parameters.subset import select_subset
from pdiff.system.errors import InputError

LAST_NORMS = {  # the layers that the authors' code saves
    "resnet18": ("layer4.1.bn1", "layer4.1.bn2"),
    "resnet50": ("layer4.2.bn2", "layer4.2.bn3"),
    "vit_tiny_patch16_224": ("blocks.11.norm2", "norm"),
    "vit_base_patch16_224": ("blocks.11.norm2", "norm"),
    "convnext_tiny": ("stages.3.blocks.2.norm", "head.norm"),
    "convnext_base": ("stages.3.blocks.2.norm", "head.norm"),
}


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "test_vit", "test_efficientnet"])
def test_a_net_takes_images_of_the_asked_size_and_trains(name, size):
    net = build_net(name, classes=7, size=size)
    logits = net(torch.zeros(2, 3, size, size))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_an_unknown_net_is_named_with_its_neighbours():
    check_net("resnet18.a1_in1k")  # the tag names one set of weights
    with pytest.raises(InputError, match=r"base\.net: unknown net 'resnet81'; .*near it: .*resnet"):
        check_net("resnet81")


def test_a_size_that_the_net_cannot_take_is_named():
    net = build_net("inception_v3", 10, 8)
    with pytest.raises(InputError, match=r"data\.size: inception_v3 cannot take images of 8 px"):
        check_size(net, "inception_v3", 8, 10)


@pytest.mark.parametrize("classes", [100, 10])
def test_weights_from_a_file_keep_all_but_a_head_of_another_size(tmp_path, classes):
    source = timm.create_model("test_resnet", num_classes=classes)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    net = build_net("test_resnet", 10, 32, weights=tmp_path / "weights.pth")
    assert torch.equal(net.conv1[0].weight, source.conv1[0].weight)
    assert len(net.fc.weight) == 10
    assert torch.equal(net.fc.weight, source.fc.weight) == (classes == 10)


def test_weights_of_another_net_are_refused(tmp_path):
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    with pytest.raises(InputError, match=r"vit\.pth does not belong to test_resnet: \d+ tensors"):
        build_net("test_resnet", 10, 32, weights=tmp_path / "vit.pth")


@pytest.mark.parametrize(("name", "layers"), LAST_NORMS.items())
def test_the_last_two_norms_are_those_that_the_authors_save(name, layers):
    with torch.device("meta"):  # shapes without numbers
        net = build_net(name, 10, 224)
    expected = tuple(f"{layer}.{part}" for layer in layers for part in ("weight", "bias"))
    assert select_subset(net, "last_norms:2").names == expected


@pytest.mark.parametrize(("name", "head"), [("test_resnet", "fc"), ("convnet_mini", "classifier")])
def test_a_head_says_how_many_classes_it_knows(name, head):
    net = build_net(name, 7, 64)
    assert head_classes(net, net.state_dict()) == 7
    assert head_classes(net, {k: v for k, v in net.state_dict().items() if head not in k}) is None


def test_where_no_head_is_trained_another_one_or_none_is_refused(tmp_path):
    path, seven = tmp_path / "weights.pth", build_net("test_resnet", 7, 32).state_dict()
    torch.save(seven, path)
    build_net("test_resnet", 7, 32, weights=path, new_head=False)
    with pytest.raises(InputError, match=r"base\.epochs: 0 .* one of 7 classes instead of 10"):
        build_net("test_resnet", 10, 32, weights=path, new_head=False)
    torch.save({name: value for name, value in seven.items() if "fc" not in name}, path)
    build_net("test_resnet", 10, 32, weights=path)
    with pytest.raises(InputError, match=r"no new head, and .*weights\.pth has none"):
        build_net("test_resnet", 10, 32, weights=path, new_head=False)


def refusal(path, state, **options) -> str:
    torch.save(state, path)
    with pytest.raises(InputError) as caught:
        build_net("test_resnet", 10, 32, weights=path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


ODD = {
    "torch.int64": lambda tensor: tensor.long(),
    "torch.bool": lambda tensor: tensor.bool(),
    "torch.complex64": lambda tensor: tensor.to(torch.complex64),
    "torch.float8_e4m3fn": lambda tensor: tensor.to(torch.float8_e4m3fn),
    "torch.sparse_coo": lambda tensor: tensor.to_sparse(),
    "torch.qint8": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    "without values": lambda tensor: tensor.to("meta"),
}


@pytest.mark.parametrize(("kind", "make"), ODD.items(), ids=ODD)
@pytest.mark.parametrize("name", ["fc.weight", "bn1.num_batches_tracked"])
def test_weights_of_an_odd_kind_are_refused_by_name(tmp_path, kind, make, name):
    state = build_net("test_resnet", 10, 32).state_dict()
    name = next(key for key in state if key.endswith(name.removeprefix("bn1.")))
    if not state[name].is_floating_point() and kind in ("torch.int64", "torch.qint8"):
        return  # a counter of batches is a whole number
    message = refusal(tmp_path / "odd.pth", state | {name: make(state[name])})
    assert message.startswith(f"base.weights: {name!r} is {kind} in {tmp_path}/odd.pth; wanted is")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("name", ["fc.weight", "conv1.0.weight"])
def test_weights_that_are_not_finite_in_the_net_are_refused_by_name(tmp_path, name, value):
    state = {k: v.double() for k, v in build_net("test_resnet", 10, 32).state_dict().items()}
    state[name].flatten()[5] = value
    message = refusal(tmp_path / "bad.pth", state, new_head=False)
    assert message == f"base.weights: {name!r} holds NaN or infinity in {tmp_path}/bad.pth"


def test_half_precision_weights_are_taken(tmp_path):
    source = build_net("test_resnet", 10, 32).bfloat16().state_dict()
    torch.save(source, tmp_path / "half.pth")
    net = build_net("test_resnet", 10, 32, weights=tmp_path / "half.pth")
    assert net.fc.weight.dtype == torch.float32
    assert torch.equal(net.fc.weight, source["fc.weight"].float())


def test_a_bias_that_is_missing_stays_new_only_where_the_head_is_trained(tmp_path):
    state = build_net("test_resnet", 10, 32).state_dict()
    del state["fc.bias"]
    message = refusal(tmp_path / "half.pth", state, new_head=False)
    assert message.endswith(
        "1 tensors are missing, unknown or of another shape, the first 'fc.bias'; "
        "base.epochs: 0 trains no new head"
    )
    build_net("test_resnet", 10, 32, weights=tmp_path / "half.pth")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_a_prefix_before_all_names_is_named(tmp_path, prefix):
    state = build_net("test_resnet", 10, 32).state_dict()
    prefixed = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    message = refusal(tmp_path / "p.pth", prefixed, new_head=False)
    assert message.startswith(f"base.weights: all names in {tmp_path}/p.pth begin with {prefix!r}")

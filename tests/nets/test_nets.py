"""Base nets by name, their weights from files."""

import pytest
import timm
import torch

from pdiff.nets.minis import MINIS
from pdiff.nets.registry import build_net, check_net, check_size, head_classes, load_net, save_net
from pdiff.parameters.subset import select_subset
from pdiff.system.errors import InputError

GENERATED = {  # Table 6, and the net of Table 7
    "resnet18": 2_048,
    "resnet50": 5_120,
    "vit_tiny_patch16_224": 768,
    "vit_base_patch16_224": 3_072,
    "convnext_tiny": 3_072,
    "convnext_base": 4_096,
    "convnet_mini": 24_262,
    "mlp_mini": 66_970,
    "resnet_mini": 25_138,
    "vit_mini": 80_714,
    "convnext_mini": 74_970,
    "cnn_medium": 10_853,
}
LAST_NORMS = {  # the layers that the authors' code saves
    "resnet18": ("layer4.1.bn1", "layer4.1.bn2"),
    "resnet50": ("layer4.2.bn2", "layer4.2.bn3"),
    "vit_tiny_patch16_224": ("blocks.11.norm2", "norm"),
    "vit_base_patch16_224": ("blocks.11.norm2", "norm"),
    "convnext_tiny": ("stages.3.blocks.2.norm", "head.norm"),
    "convnext_base": ("stages.3.blocks.2.norm", "head.norm"),
}


def paper_subset(name):
    size = MINIS[name][1] if name in MINIS else 224
    with torch.device("meta"):  # shapes without numbers
        net = build_net(name, 10, size)
    return select_subset(net, "all" if name in MINIS else "last_norms:2")


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "test_vit", "test_efficientnet"]
)
def test_a_net_takes_images_of_the_asked_size_and_trains(name, size):
    net = build_net(name, classes=7, size=size)
    logits = net(torch.zeros(2, 3, size, size))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_an_unknown_net_is_named_with_its_neighbours():
    with pytest.raises(InputError, match=r"base\.net: unknown net 'resnet81'; .*near it: .*resnet"):
        check_net("resnet81")


def test_a_name_with_a_tag_for_weights_is_known():
    check_net("resnet18.a1_in1k")


def test_a_size_that_the_net_cannot_take_is_named():
    net = build_net("inception_v3", 10, 8)
    with pytest.raises(InputError, match=r"data\.size: inception_v3 cannot take images of 8 px"):
        check_size(net, "inception_v3", 8, 10)


def test_a_net_on_disk_comes_back(tmp_path):
    net = build_net("test_resnet", 5, 32)
    save_net(tmp_path / "net.safetensors", net, "test_resnet", 5, 32)
    again = load_net(tmp_path / "net.safetensors")
    images = torch.randn(2, 3, 32, 32)
    assert not again.training
    assert torch.equal(again(images), net.eval()(images))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_from_a_file_keep_all_but_a_head_of_another_size(tmp_path, suffix):
    source = timm.create_model("test_resnet", num_classes=100)
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(source.state_dict(), path)
    else:
        from safetensors.torch import save_file

        save_file(source.state_dict(), path)
    net = build_net("test_resnet", 10, 32, weights=path)
    assert torch.equal(net.conv1[0].weight, source.conv1[0].weight)
    assert net.fc.weight.shape[0] == 10


def test_weights_of_the_same_classes_are_taken_whole(tmp_path):
    source = timm.create_model("test_resnet", num_classes=10)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    net = build_net("test_resnet", 10, 32, weights=tmp_path / "w.pth")
    assert torch.equal(net.fc.weight, source.fc.weight)


def test_weights_of_another_net_are_refused(tmp_path):
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    with pytest.raises(InputError, match=r"vit\.pth does not belong to test_resnet: \d+ tensors"):
        build_net("test_resnet", 10, 32, weights=tmp_path / "vit.pth")


@pytest.mark.parametrize(("name", "count"), GENERATED.items())
def test_as_many_parameters_are_generated_as_in_table_6(name, count):
    assert paper_subset(name).length == count


@pytest.mark.parametrize(("name", "layers"), LAST_NORMS.items())
def test_the_last_two_norms_are_those_that_the_authors_save(name, layers):
    expected = tuple(f"{layer}.{part}" for layer in layers for part in ("weight", "bias"))
    assert paper_subset(name).names == expected


@pytest.mark.parametrize(("name", "head"), [("test_resnet", "fc"), ("convnet_mini", "classifier")])
def test_a_head_says_how_many_classes_it_knows(name, head):
    net = build_net(name, 7, 64)
    assert head_classes(net, net.state_dict()) == 7
    assert head_classes(net, {k: v for k, v in net.state_dict().items() if head not in k}) is None


def test_where_no_head_is_trained_one_of_other_classes_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(build_net("test_resnet", 7, 32).state_dict(), path)
    build_net("test_resnet", 7, 32, weights=path, new_head=False)
    with pytest.raises(
        InputError, match=r"base\.epochs: 0 trains .* one of 7 classes instead of 10"
    ):
        build_net("test_resnet", 10, 32, weights=path, new_head=False)


def test_where_no_head_is_trained_weights_without_one_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    state = build_net("test_resnet", 10, 32).state_dict()
    torch.save({name: value for name, value in state.items() if "fc" not in name}, path)
    build_net("test_resnet", 10, 32, weights=path)
    with pytest.raises(InputError, match=r"no new head, and .*weights\.pth has none"):
        build_net("test_resnet", 10, 32, weights=path, new_head=False)

"""The mini nets: shapes, gradients, and a few facts of each; test_presets.py counts parameters."""

import math

import pytest
import torch
from torch import nn

from pdiff.nets.minis import MINIS, sincos_positions
from pdiff.parameters.subset import norm_layers


def build(name, classes=10):
    torch.manual_seed(0)
    return MINIS[name][0](classes)


def images(name, batch):
    size = MINIS[name][1]
    return torch.randn(batch, 3, size, size)


def layers(net, kind):
    return [module for module in net.modules() if isinstance(module, kind)]


@pytest.mark.parametrize(
    ("name", "norms"),
    [
        ("convnet_mini", 3),
        ("mlp_mini", 2),
        ("resnet_mini", 3),
        ("vit_mini", 2 + 4 * 2 + 1),
        ("convnext_mini", 4 + 7 + 1),
        ("cnn_medium", 0),
        ("cnn_small", 0),
    ],
)
def test_a_mini_net_has_parameters_alone_and_treats_images_one_by_one(name, norms):
    net, batch = build(name, classes=7), images(name, 5)
    assert list(net.state_dict()) == [key for key, _ in net.named_parameters()]
    assert len(norm_layers(net)) == norms
    assert net.get_submodule(net.classifier_name) is layers(net, nn.Linear)[-1]
    assert list(net.state_dict())[-1] == f"{net.classifier_name}.bias"
    logits = net(batch)
    assert torch.equal(net.eval()(batch), logits)
    singly = torch.cat([net(image[None]) for image in batch])
    torch.testing.assert_close(logits, singly, atol=1e-5, rtol=1e-4)
    nn.functional.cross_entropy(logits, torch.arange(5)).backward()
    assert logits.shape == (5, 7)
    assert [key for key, p in net.named_parameters() if not p.grad.any()] == []


def test_mlp_mini_sees_only_the_grey_image_of_half_the_side():
    net, batch = build("mlp_mini"), images("mlp_mini", 2)
    blocks = batch.unflatten(3, (32, 2)).unflatten(2, (32, 2)).mean((1, 3, 5))  # (B, 32, 32)
    same = blocks.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None].expand(-1, 3, -1, -1)
    torch.testing.assert_close(net(same), net(batch))


@pytest.mark.parametrize(
    ("block", "shape"),
    [
        (build("resnet_mini").features[4], (2, 8, 16, 16)),
        (build("vit_mini").blocks[0], (2, 64, 64)),
        (build("convnext_mini").stages[1][0], (2, 32, 8, 8)),
    ],
    ids=["resnet_mini", "vit_mini", "convnext_mini"],
)
def test_blocks_add_their_branches_to_their_input(block, shape):
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(shape)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    ("name", "layer", "pooled"),
    [
        ("vit_mini", "norm", lambda tokens: tokens.mean(1)),
        ("convnext_mini", "stages.3", lambda m: nn.LayerNorm(32, eps=1e-6)(m.mean((2, 3)))),
    ],
)
def test_the_head_gets_the_mean_over_positions(name, layer, pooled):
    net, seen = build(name), []
    net.get_submodule(layer).register_forward_hook(lambda _, args, out: seen.append(out))
    net.classifier.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net(images(name, 2))
    torch.testing.assert_close(seen[1], pooled(seen[0]))


def test_vit_mini_cuts_the_image_into_patches_row_by_row():
    net = build("vit_mini")
    seen = []
    net.embed.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch = images("vit_mini", 2)
    net(batch)
    assert seen[0].shape == (2, 64, 192)
    assert torch.equal(seen[0][:, 8 * 3 + 5], batch[:, :, 24:32, 40:48].movedim(1, -1).flatten(1))


def test_vit_mini_adds_sines_and_cosines_of_column_and_row_to_its_patches():
    positions = sincos_positions(8, 64)
    row, column, i = 3, 5, 4
    frequency = 10000 ** (-i / 15)
    expected = [f(p * frequency) for p in (column, row) for f in (math.sin, math.cos)]
    assert positions[8 * row + column, i::16].tolist() == pytest.approx(expected, abs=1e-5)
    net, seen = build("vit_mini"), []
    net.embed.register_forward_hook(lambda _, args, out: seen.append(out))
    net.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net(images("vit_mini", 2))
    torch.testing.assert_close(seen[1], seen[0] + positions)


def test_convnext_mini_starts_near_the_identity_from_small_weights_and_no_biases():
    net, x = build("convnext_mini"), torch.randn(2, 32, 8, 8)
    block = net.stages[1][0]
    assert block.scale.tolist() == pytest.approx([1e-6] * 32)
    torch.testing.assert_close(block(x), x, atol=1e-5, rtol=0)
    assert not torch.equal(block(x), x)
    assert {norm.eps for norm in layers(net, nn.LayerNorm)} == {1e-6}
    for layer in layers(net, nn.Conv2d | nn.Linear):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.2)
        assert not layer.bias.any()


def test_cnn_small_has_the_zoos_number_of_parameters_and_sees_the_mean_channel():
    net, batch = build("cnn_small"), images("cnn_small", 2)
    assert sum(value.numel() for value in net.parameters()) == 2464
    grey = batch.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    torch.testing.assert_close(net(grey), net(batch))

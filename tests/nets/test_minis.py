"""The mini nets: shapes, gradients, and a few facts of each; test_presets.py counts parameters."""

import math

import pytest
import torch
from torch import nn

from pdiff.nets.minis import MINIS, ChannelNorm, sincos_positions
from pdiff.parameters.subset import norm_layers

NORMS = {
    "convnet_mini": 3,
    "mlp_mini": 2,
    "resnet_mini": 3,
    "vit_mini": 2 + 4 * 2 + 1,
    "convnext_mini": 4 + 7 + 1,
    "cnn_medium": 0,
}
every_mini = pytest.mark.parametrize("name", MINIS)


def build(name, classes=10):
    torch.manual_seed(0)
    return MINIS[name][0](classes)


def images(name, batch):
    size = MINIS[name][1]
    return torch.randn(batch, 3, size, size)


def layers(net, kind):
    return [module for module in net.modules() if isinstance(module, kind)]


@every_mini
def test_the_state_dict_holds_the_parameters_and_nothing_else(name):
    net = build(name)
    assert list(net.state_dict()) == [key for key, _ in net.named_parameters()]


@every_mini
def test_an_image_becomes_one_logit_for_each_class_and_every_parameter_gets_a_gradient(name):
    net = build(name, classes=7)
    logits = net(images(name, 5))
    assert logits.shape == (5, 7)
    nn.functional.cross_entropy(logits, torch.arange(5)).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad.any(), key


@every_mini
def test_training_and_evaluation_compute_the_same(name):
    net, batch = build(name), images(name, 3)
    assert torch.equal(net.train()(batch), net.eval()(batch))


@every_mini
def test_images_do_not_see_each_other(name):
    net, batch = build(name), images(name, 3)
    singly = torch.cat([net(image[None]) for image in batch])
    torch.testing.assert_close(net(batch), singly, atol=1e-5, rtol=1e-4)


@every_mini
def test_the_classifier_is_the_last_linear_layer(name):
    net = build(name)
    assert net.get_submodule(net.classifier_name) is layers(net, nn.Linear)[-1]
    assert list(net.state_dict())[-1] == f"{net.classifier_name}.bias"


@pytest.mark.parametrize(("name", "count"), NORMS.items())
def test_subset_finds_the_norm_layers(name, count):
    assert len(norm_layers(build(name))) == count


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("convnet_mini", [(8, 3, 7, 7), (8, 8, 3, 3), (4, 8, 3, 3)]),
        ("resnet_mini", [(8, 3, 3, 3), *[(4, 8, 3, 3), (8, 4, 3, 3)] * 2]),
        ("cnn_medium", [(16, 3, 3, 3), (32, 16, 3, 3), (15, 32, 3, 3)]),
    ],
)
def test_convolutions_have_the_papers_shapes(name, shapes):
    assert [tuple(conv.weight.shape) for conv in layers(build(name), nn.Conv2d)] == shapes


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("convnet_mini", [(8, 32, 32), (8, 16, 16), (4, 8, 8)]),
        ("mlp_mini", [(64,), (16,)]),
        ("resnet_mini", [(8, 32, 32), (8, 16, 16), (8, 8, 8)]),
    ],
)
def test_layer_norms_scale_each_position_by_itself(name, shapes):
    assert [norm.normalized_shape for norm in layers(build(name), nn.LayerNorm)] == shapes


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


def vector_for_the_head(net, layer, batch):
    """What the classifier gets, and what `layer` made on the way there."""
    seen = []
    layer.register_forward_hook(lambda _, args, out: seen.append(out))
    net.classifier.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net(batch)
    return seen[1], seen[0]


def test_vit_minis_head_gets_the_mean_token():
    net = build("vit_mini")
    vector, tokens = vector_for_the_head(net, net.norm, images("vit_mini", 2))
    torch.testing.assert_close(vector, tokens.mean(1))


def test_convnext_minis_head_gets_the_normalised_mean_of_the_last_map():
    net = build("convnext_mini")
    vector, last = vector_for_the_head(net, net.stages[3], images("convnext_mini", 2))
    torch.testing.assert_close(vector, nn.LayerNorm(32, eps=1e-6)(last.mean((2, 3))))


def test_vit_mini_cuts_the_image_into_patches_row_by_row():
    net = build("vit_mini")
    seen = []
    net.embed.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch = images("vit_mini", 2)
    net(batch)
    assert seen[0].shape == (2, 64, 192)
    assert torch.equal(seen[0][:, 8 * 3 + 5], batch[:, :, 24:32, 40:48].movedim(1, -1).flatten(1))


def test_vit_mini_knows_where_a_patch_is():
    net = build("vit_mini")
    image = torch.zeros(1, 3, 64, 64)
    image[:, 0, :8, :4] = 1
    assert (net(image) - net(image.roll((8, 16), (2, 3)))).abs().max() > 1e-4


def test_positions_are_sines_and_cosines_of_column_and_row():
    positions = sincos_positions(8, 64)
    assert positions.shape == (64, 64)
    row, column, i = 3, 5, 4
    frequency = 10000 ** (-i / 15)
    expected = [f(p * frequency) for p in (column, row) for f in (math.sin, math.cos)]
    assert positions[8 * row + column, i::16].tolist() == pytest.approx(expected, abs=1e-5)


def test_channel_norm_normalises_each_position():
    y = ChannelNorm(16)(3 + 2 * torch.randn(2, 16, 4, 5))
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 4, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(1, correction=0), torch.ones(2, 4, 5), atol=1e-3, rtol=0)


def test_convnext_minis_blocks_start_near_the_identity():
    block = build("convnext_mini").stages[1][0]
    assert block.scale.tolist() == pytest.approx([1e-6] * 32)
    x = torch.randn(2, 32, 8, 8)
    torch.testing.assert_close(block(x), x, atol=1e-5, rtol=0)
    assert not torch.equal(block(x), x)


def test_convnext_minis_norms_have_its_small_epsilon():
    assert {norm.eps for norm in layers(build("convnext_mini"), nn.LayerNorm)} == {1e-6}


def test_convnext_mini_starts_from_small_weights_and_no_biases():
    for layer in layers(build("convnext_mini"), nn.Conv2d | nn.Linear):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.2)
        assert not layer.bias.any()

"""Alignment: the same function, nearer a reference; what a net's logits do not change by."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from pdiff.nets.minis import CNNMedium, CNNSmall
from pdiff.parameters.align import Chain
from pdiff.parameters.subset import Models, Subset, select_subset
from pdiff.system.errors import InputError

NETS = {CNNMedium: 32, CNNSmall: 28}


def made(kind, seed=0):
    torch.manual_seed(seed)
    return kind(10)


def flat(net):
    return torch.cat([value.detach().flatten() for value in net.parameters()])


def chain(net, size):
    return Chain.of(net, select_subset(net, "all"), torch.randn(4, 3, size, size))


def logits(net, layers, row, size):
    images = torch.randn(16, 3, size, size, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return functional_call(net, Models(layers.subset, row[None])[0], images)


def test_the_symmetries_of_each_layer_are_found_by_trial():
    medium, small = (chain(made(kind), size) for kind, size in NETS.items())
    assert [layer.scale for layer in medium.hidden] == ["positive"] * 4  # leaky ReLU
    assert [layer.scale for layer in small.hidden] == ["none", "none", "sign", "sign"]
    # tanh, but the maximum of the pool in front of the first two has no sign
    assert [layer.units for layer in small.hidden] == [8, 6, 4, 20]


@pytest.mark.parametrize("kind", NETS)
def test_an_aligned_net_has_the_same_logits_and_lies_nearer(kind):
    size, net, reference = NETS[kind], made(kind), made(kind, 1)
    layers = chain(net, size)
    target = layers.balanced(flat(reference))
    before = flat(net)
    after = layers.aligned(before, target)
    expected = logits(net, layers, before, size)
    torch.testing.assert_close(logits(net, layers, after, size), expected, atol=1e-5, rtol=1e-5)
    assert (after - target).norm() < (layers.balanced(before) - target).norm()


@pytest.mark.parametrize("kind", NETS)
def test_a_shuffled_copy_of_the_reference_comes_back(kind):
    net = made(kind)
    layers = chain(net, NETS[kind])
    target = layers.balanced(flat(net))
    shuffled = layers.shuffled(target, torch.Generator().manual_seed(0))
    for layer in layers.hidden:
        if layer.scale == "sign":
            signs = torch.tensor([1.0, -1.0]).repeat(layer.units // 2)
            state = layer.moved(layers.state(shuffled), torch.arange(layer.units), signs)
            shuffled = layers.row(state)
    assert (shuffled - target).abs().max() > 0.1
    torch.testing.assert_close(layers.aligned(shuffled, target), target, atol=1e-5, rtol=1e-4)


def test_the_reference_is_the_mean_of_nets_that_are_aligned():
    net = made(CNNSmall)
    layers = chain(net, 28)
    noise = 0.01 * torch.randn(3, 2464, generator=torch.Generator().manual_seed(1))
    seeds = [torch.Generator().manual_seed(seed) for seed in range(3)]
    near = flat(net) + noise
    copies = [layers.shuffled(row, seed) for row, seed in zip(near, seeds, strict=True)]
    found = layers.merged(torch.stack(copies), flat(net))
    torch.testing.assert_close(found, near.mean(0))


def test_a_shuffled_net_has_the_same_logits():
    net = made(CNNSmall)
    layers = chain(net, 28)
    row = flat(net)
    other = layers.shuffled(row, torch.Generator().manual_seed(0))
    expected = logits(net, layers, row, 28)
    torch.testing.assert_close(logits(net, layers, other, 28), expected, atol=1e-5, rtol=1e-5)
    assert not torch.equal(other, row)


def test_balancing_makes_norms_equal_and_keeps_a_dead_neuron_finite():
    layers = Chain.of(
        small(), Subset({"0.weight": (3, 2), "2.weight": (2, 3)}), torch.randn(4, 3, 1, 1)
    )
    row = torch.tensor([4.0, 0, 1, 0, 0, 0] + [1.0, 4, 7] + [0.0] * 3)
    state = layers.state(layers.balanced(row))
    torch.testing.assert_close(state["0.weight"].norm(dim=1), torch.tensor([2.0, 2.0, 0.0]))
    torch.testing.assert_close(state["2.weight"].norm(dim=0), torch.tensor([2.0, 2.0, 7.0]))


class _Pair(nn.Sequential):
    def forward(self, images):
        return super().forward(images.flatten(1)[:, :2])


def small():
    torch.manual_seed(0)
    return _Pair(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))


class _Residual(nn.Module):
    """Its shapes are those of a chain, but the first layer's order is also that of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, images):
        first = self.a(images.flatten(1)[:, :2]).relu()
        return self.c(first + self.b(first).relu())


def test_a_net_with_shortcuts_is_refused_by_name_of_the_parameter():
    torch.manual_seed(0)
    net = _Residual()
    with pytest.raises(InputError, match=r"finetune\.zoo\.align: .* order of a's neurons"):
        Chain.of(net, select_subset(net, "all"), torch.randn(4, 3, 1, 1))


@pytest.mark.parametrize(
    "shapes",
    [
        {"a.weight": (4, 3)},  # a single layer
        {"a.weight": (4, 3), "b.weight": (2, 5)},  # five inputs for four neurons
        {"a.weight": (4, 3), "norm.scale": (4,), "b.weight": (2, 4)},
    ],
)
def test_shapes_that_are_no_layers_in_a_row_are_refused(shapes):
    with pytest.raises(InputError, match=r"finetune\.zoo\.align"):
        Chain.of_shapes(Subset(shapes))

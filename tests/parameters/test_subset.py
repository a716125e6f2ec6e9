"""The seam: parameters to matrix and back."""

import pytest
import timm
import torch
from torch import nn

from pdiff.parameters import subset
from pdiff.parameters.subset import Models, Subset, norm_layers, overlaps, select_subset, spans
from pdiff.system.errors import InputError


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return timm.create_model("resnet18", num_classes=10)


@pytest.mark.parametrize(
    ("expression", "length"),
    [
        ("fc", 5130),
        ("conv1.weight", 9408),
        (["layer4.0.bn1", "layer4.0.bn2"], 2048),
        ("layer3.*.bn?", 2048),
        ("all", 11_181_642),
    ],
)
def test_layers_and_patterns_select_their_parameters(net, expression, length):
    assert select_subset(net, expression).length == length


def test_a_subset_has_the_nets_order(net):
    assert select_subset(net, ["fc.bias", "conv1"]).names == ("conv1.weight", "fc.bias")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("layer5", "'layer5' selects nothing in this net; it has, for example, layer"),
        (["fc", "layre4.1"], "'layre4.1' selects nothing"),
        ("last_norms:0", "write last_norms:1 to last_norms:20"),
        ("last_norms:two", "write last_norms:1 to last_norms:20"),
        ("layer4.1.bn1.running_mean", "running statistics are not generated"),
        ([], "the list is empty"),
    ],
)
def test_an_expression_that_selects_nothing_is_refused(net, expression, message):
    with pytest.raises(InputError, match=message):
        select_subset(net, expression)


def test_a_net_without_norms_says_so():
    with pytest.raises(InputError, match="no normalisation layer"):
        select_subset(nn.Linear(2, 2), "last_norms:2")


def test_norm_layers_leave_out_those_without_parameters():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.LayerNorm(3, elementwise_affine=False))
    assert list(norm_layers(net)) == ["0"]


SUBSET = Subset({"a.weight": (2, 3), "b": (1,), "c.bias": (4,)})


def test_unflatten_is_bit_exact():
    subset = Subset({**SUBSET.shapes, "scale": ()})
    matrix = torch.randn(5, subset.length)
    stack = subset.unflatten(matrix)
    shapes = {name: tuple(t.shape) for name, t in stack.items()}
    assert shapes == {"a.weight": (5, 2, 3), "b": (5, 1), "c.bias": (5, 4), "scale": (5,)}
    assert torch.equal(torch.cat([t.reshape(5, -1) for t in stack.values()], 1), matrix)


def test_a_model_is_a_row():
    matrix = torch.randn(3, SUBSET.length)
    models = Models(SUBSET, matrix)
    assert len(models) == 3
    assert torch.equal(models[1]["a.weight"].flatten(), matrix[1, :6])
    with pytest.raises(IndexError):
        models[3]


@pytest.mark.parametrize(
    ("rows", "values", "widths"), [(5, 55, [11]), (5, 54, [10, 1]), (20, 10, [1] * 11)]
)
def test_a_block_holds_few_values_unless_a_column_does(monkeypatch, rows, values, widths):
    monkeypatch.setattr(subset, "CHUNK", values)
    assert [span.stop - span.start for span in spans(rows, 11)] == widths


def test_a_span_overlaps_the_tensors_that_it_covers():
    found = list(overlaps(SUBSET.sizes, slice(4, 9)))  # sizes 6, 1, 4
    assert found == [
        (0, slice(4, 6), slice(0, 2)),
        (1, slice(0, 1), slice(2, 3)),
        (2, slice(0, 2), slice(3, 5)),
    ]

"""Scaling of checkpoints by tensor or parameter, however many columns are read at a time."""

import pytest
import torch

from pdiff.parameters import subset
from pdiff.parameters.normalisation import Normalisation
from pdiff.parameters.subset import Models, Subset

both_kinds = pytest.mark.parametrize("kind", ["tensor", "parameter"])
SUBSET = Subset({"a.weight": (2, 3), "b": (1,), "c.bias": (4,)})


def test_it_is_per_tensor_and_averaged_over_checkpoints():
    matrix = torch.tensor([[1.0, 2.0, 3.0, 10.0, 14.0], [2.0, 4.0, 6.0, 20.0, 24.0]])
    fitted = Normalisation.fit(Models(Subset({"a": (3,), "b": (2,)}), matrix))
    assert fitted.mean.tolist() == pytest.approx([3.0, 17.0])  # mean of 2 and 4; of 12 and 22
    assert fitted.std.tolist() == pytest.approx([1.5, 8**0.5])  # unbiased: mean of 1 and 2


def test_each_parameter_can_have_a_mean_and_a_std_of_its_own():
    matrix = torch.tensor([[1.0, 5.0, 30.0], [3.0, 5.0, 10.0], [2.0, 5.0, 20.0]])
    fitted = Normalisation.fit(Models(Subset({"a": (2,), "b": (1,)}), matrix), "parameter")
    assert fitted.apply(matrix).tolist() == [[-1, 0, 1], [1, 0, -1], [0, 0, 0]]


def test_a_tensor_of_one_value_or_without_spread_is_only_centred():
    matrix = torch.tensor([[1.0, 5.0, 5.0, 5.0], [3.0, 5.0, 5.0, 5.0]])
    models = Models(Subset({"one": (1,), "flat": (3,)}), matrix)
    normalised = Normalisation.fit(models).apply(matrix)
    assert normalised.tolist() == [[-1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]


@both_kinds
@pytest.mark.parametrize("values", [6, 18, 24, 42])
def test_blocks_of_any_width_give_the_same(generator, monkeypatch, values, kind):
    """1, 3, 4 and 7 columns at a time: within tensors, and across their borders."""
    models = Models(SUBSET, torch.randn(6, SUBSET.length, generator=generator) * 3 + 100)
    whole = Normalisation.fit(models, kind)
    monkeypatch.setattr(subset, "CHUNK", values)
    parts = Normalisation.fit(models, kind)
    torch.testing.assert_close(parts.mean, whole.mean)
    torch.testing.assert_close(parts.std, whole.std)


@both_kinds
def test_checkpoints_come_back_and_some_columns_are_scaled_as_they_are_among_all(generator, kind):
    matrix = torch.randn(6, SUBSET.length, generator=generator) * 3 + 1
    fitted = Normalisation.fit(Models(SUBSET, matrix), kind)
    torch.testing.assert_close(fitted.invert(fitted.apply(matrix)), matrix)
    span = slice(4, 9)  # the end of one tensor, a whole one, the start of a third
    assert torch.equal(fitted.apply(matrix[:, span], span), fitted.apply(matrix)[:, span])
    assert torch.equal(fitted.invert(matrix[:, span], span), fitted.invert(matrix)[:, span])

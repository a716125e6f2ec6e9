"""The originals' mean and noise-added originals."""

import pytest
import torch

from pdiff.baselines import Noised, ensemble
from pdiff.subset import Models, Subset

SUBSET = Subset({"a": (400,), "b": (20, 30)})


@pytest.fixture
def originals(generator):
    scale = torch.cat([torch.full((400,), 2.0), torch.full((600,), 0.5)])
    return Models(SUBSET, torch.randn(4, 1000, generator=generator) * scale + 3)


def rows(models: Noised) -> torch.Tensor:
    stack = {n: torch.stack([model[n] for model in models]) for n in SUBSET.names}
    return SUBSET.flatten(stack)


def test_the_ensemble_is_the_mean(originals):
    mean = originals.block(slice(0, 1000)).mean(0)
    torch.testing.assert_close(ensemble(originals).row(0), mean)


def test_noise_is_in_units_of_each_tensors_own_std(originals):
    models = Noised(originals, 0.1, 40, seed=0)
    sources = torch.stack([originals.row(models.source(i)) for i in range(40)])
    noise = rows(models) - sources
    assert noise[:, :400].std().item() == pytest.approx(0.2, rel=0.05)
    assert noise[:, 400:].std().item() == pytest.approx(0.05, rel=0.05)
    assert noise.mean().abs().item() < 0.005


def test_originals_take_turns(originals):
    models = Noised(originals, 0.1, 8, seed=0)
    assert sorted(models.source(i) for i in range(8)) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {models.source(i) for i in range(4)} == {0, 1, 2, 3}


def test_level_zero_is_a_copy(originals):
    models = Noised(originals, 0.0, 4, seed=0)
    assert torch.equal(
        rows(models), torch.stack([originals.row(models.source(i)) for i in range(4)])
    )


def test_a_model_is_the_same_whenever_it_is_asked_for(originals):
    models = Noised(originals, 0.1, 5, seed=7)
    assert torch.equal(models[3]["a"], Noised(originals, 0.1, 5, seed=7)[3]["a"])
    assert not torch.equal(models[3]["a"], Noised(originals, 0.1, 5, seed=8)[3]["a"])
    with pytest.raises(IndexError):
        models[5]


def test_a_tensor_of_one_value_gets_no_noise():
    subset = Subset({"one": (1,)})
    models = Noised(Models(subset, torch.tensor([[2.0], [2.0]])), 0.5, 2, seed=0)
    assert models[0]["one"].item() == 2.0

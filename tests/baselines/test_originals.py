"""The originals' mean, noise-added originals, combinations of originals, independent Gaussians."""

import pytest
import torch

from pdiff.baselines.originals import Combined, Independent, Noised, ensemble, matrix
from pdiff.parameters.subset import Models, Subset

SUBSET = Subset({"a": (400,), "b": (20, 30)})


@pytest.fixture
def originals(generator):
    scale = torch.cat([torch.full((400,), 2.0), torch.full((600,), 0.5)])
    return Models(SUBSET, torch.randn(4, 1000, generator=generator) * scale + 3)


def test_the_ensemble_is_the_mean(originals):
    mean = originals.block(slice(0, 1000)).mean(0)
    torch.testing.assert_close(ensemble(originals).row(0), mean)


def noise_of(models: Noised, originals: Models) -> torch.Tensor:
    sources = [originals.row(models.source(i)) for i in range(len(models))]
    return matrix(models) - torch.stack(sources)


@pytest.mark.parametrize(("absolute", "stds"), [(False, (0.2, 0.05)), (True, (0.1, 0.1))])
def test_noise_has_its_std_absolutely_or_in_units_of_each_tensors_own(originals, absolute, stds):
    noise = noise_of(Noised(originals, 0.1, 40, seed=0, absolute=absolute), originals)
    assert noise[:, :400].std().item() == pytest.approx(stds[0], rel=0.05)
    assert noise[:, 400:].std().item() == pytest.approx(stds[1], rel=0.05)
    assert noise.mean().abs().item() < 0.005
    assert not noise_of(Noised(originals, 0.0, 4, seed=0, absolute=absolute), originals).any()


def test_originals_take_turns_in_random_order():
    originals = Models(Subset({"a": (1,)}), torch.zeros(20, 1))
    models = [Noised(originals, 0.1, 40, seed) for seed in (0, 1)]
    orders = [[each.source(i) for i in range(40)] for each in models]
    for order in orders:
        assert sorted(order[:20]) == sorted(order[20:]) == list(range(20)) != order[:20]
    assert orders[0] != orders[1]


def test_every_noised_model_has_its_own_noise(originals):
    """1000 values: the correlation of independent ones has a std of 0.03."""
    noise = noise_of(Noised(originals, 0.1, 8, seed=0), originals)
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 0.2


def test_a_model_is_the_same_whenever_it_is_asked_for(originals):
    models = Noised(originals, 0.1, 5, seed=7)
    assert torch.equal(models[3]["a"], Noised(originals, 0.1, 5, seed=7)[3]["a"])
    assert not torch.equal(models[3]["a"], Noised(originals, 0.1, 5, seed=8)[3]["a"])
    with pytest.raises(IndexError):
        models[5]


@pytest.mark.parametrize("absolute", [False, True])
def test_a_tensor_of_one_value_gets_absolute_noise_alone(absolute):
    originals = Models(Subset({"one": (1,)}), torch.full((2, 1), 2.0))
    models = Noised(originals, 0.5, 2, seed=0, absolute=absolute)
    assert (models[0]["one"].item() != 2.0) == absolute


def test_a_combination_is_the_weighted_sum(originals):
    weights = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.5, 0.25, 0.0, 0.25]]).double()
    models = Combined(originals, weights)
    first, second, _, fourth = originals.block(slice(0, 1000))
    assert len(models) == 2
    assert torch.equal(models.row(0), first)
    torch.testing.assert_close(models.row(1), first / 2 + second / 4 + fourth / 4)
    assert models[1]["b"].shape == (20, 30)


def test_sums_are_exact_where_fp32_would_lose_digits():
    originals = Models(Subset({"a": (1,)}), torch.tensor([[2.0**24], [1.0], [-(2.0**24)]]))
    assert Combined(originals, torch.ones(1, 3).double()).row(0).item() == 1.0


@pytest.mark.parametrize("make", [lambda o: Noised(o, 0.1, 5, 7), lambda o: Independent(o, 5, 7)])
def test_a_block_holds_the_rows(originals, make):
    models = make(originals)
    assert torch.equal(models.block(slice(300, 500)), matrix(models)[:, 300:500])


def test_an_original_that_is_not_finite_spoils_only_what_it_is_part_of(originals):
    originals.row(2)[5] = torch.nan
    weights = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0]]).double()
    models = Combined(originals, weights)
    assert models.row(0).isfinite().all()
    assert models.row(1).isnan().nonzero().tolist() == [[5]]
    assert Independent(originals, 1, 0).row(0).isnan().nonzero().tolist() == [[5]]


def test_independent_gaussians_have_the_originals_mean_and_std(originals):
    own = originals.block(slice(0, 1000))
    drawn = matrix(Independent(originals, 2000, seed=0))
    errors = (drawn.mean(0) - own.mean(0)) / (own.std(0) / 2000**0.5)
    assert errors.square().mean().item() == pytest.approx(1, abs=0.2)  # each is a standard normal
    ratio = drawn.std(0) / own.std(0)
    assert (ratio - 1).abs().max().item() < 5 / 4000**0.5
    assert ratio.mean().item() == pytest.approx(1, abs=0.005)


def test_independent_gaussians_are_independent_between_parameters(originals):
    """Any two parameters of four originals are correlated; those drawn are not."""
    both = matrix(Independent(originals, 2000, seed=0))[:, :50]
    correlation = torch.corrcoef(both.T).fill_diagonal_(0)
    assert correlation.abs().max().item() < 5 / 2000**0.5
    among = torch.corrcoef(originals.block(slice(0, 50)).T).fill_diagonal_(0)
    assert among.abs().mean() > 0.4


def test_the_independent_gaussian_of_one_original_is_that_original(originals):
    one = Models(SUBSET, originals.block(slice(0, 1000))[:1])
    assert torch.equal(Independent(one, 2, seed=0).row(1), one.row(0))

"""Baselines made of the originals' parameters: by hand, over many draws, and at the edges."""

import math
from collections.abc import Sequence

import pytest
import torch

from pdiff.baselines.originals import (
    absolute,
    combined,
    ema,
    ensemble,
    gaussian,
    gaussian_diagonal,
    greedy_soup,
    interpolated,
    matrix,
    noised,
    projections,
    soup,
    soup_of,
    turns,
)
from pdiff.baselines.registry import Draw
from pdiff.parameters import subset
from pdiff.parameters.subset import Models, Subset

SUBSET = Subset({"a": (3,), "b": (2, 2)})


def some(count, generator) -> Models:
    return Models(SUBSET, torch.randn(count, 7, generator=generator) + 1)


@pytest.fixture
def originals(generator):
    return some(5, generator)


@pytest.fixture
def drawn(params):
    """A function that draws a family's models of some originals."""

    def draw(make, originals: Models, models: int, level=None, **changes):
        config = params.baselines.model_copy(update={"rival_models": models} | changes)
        return make(originals, Draw(make.__name__, level, config, 0))

    return draw


@pytest.fixture
def weights(drawn):
    """A function that gives the weights of a family's models of K originals."""
    return lambda make, count, *given, **changes: matrix(
        drawn(make, Models(Subset({"x": (count,)}), torch.eye(count)), *given, **changes)
    )


# combinations


def test_a_combination_is_the_weighted_sum(originals):
    models = combined(
        originals, torch.tensor([[1.0, 0, 0, 0, 0], [0.5, 0.25, 0, 0.25, 0]]).double()
    )
    first, second, _, fourth, _ = originals.block(slice(0, 7))
    assert len(models) == 2
    assert torch.equal(models.row(0), first)
    torch.testing.assert_close(models.row(1), first / 2 + second / 4 + fourth / 4)
    assert models[1]["b"].shape == (2, 2)
    with pytest.raises(IndexError):
        models[2]


def test_sums_are_exact_where_fp32_would_lose_digits():
    originals = Models(Subset({"a": (1,)}), torch.tensor([[2.0**24], [1.0], [-(2.0**24)]]))
    assert combined(originals, torch.ones(1, 3).double()).row(0).item() == 1.0


def test_an_original_that_is_not_finite_spoils_only_what_it_is_part_of(originals, drawn):
    originals.row(2)[5] = torch.nan
    models = combined(originals, torch.tensor([[1.0, 1, 0, 0, 0], [1, 0, 1, 0, 0]]).double())
    assert models.row(0).isfinite().all()
    for spoilt in (models.row(1), drawn(gaussian_diagonal, originals, 1).row(0)):
        assert spoilt.isnan().nonzero().tolist() == [[5]]


def test_a_soup_has_equal_parts_of_different_originals(weights):
    found = weights(soup, 10, 30, level=4)
    assert ((found == 0.25).sum(1) == 4).all()
    assert ((found == 0).sum(1) == 6).all()
    assert len(found.unique(dim=0)) > 20
    assert (found.sum(0) > 0).all()  # each original has its turn


def test_a_soup_of_all_is_the_ensemble(originals, drawn):
    mean = ensemble(originals).row(0)
    torch.testing.assert_close(mean, originals.block(slice(0, 7)).mean(0))
    models = matrix(drawn(soup, originals, 3, level=5))
    torch.testing.assert_close(models, mean.repeat(3, 1), rtol=1e-6, atol=1e-7)


def test_an_interpolation_lies_between_two_different_originals(weights):
    found = weights(interpolated, 6, 400)
    assert ((found > 0).sum(1) == 2).all()
    torch.testing.assert_close(found.sum(1), torch.ones(400))


def test_the_share_of_an_interpolation_is_uniform(weights):
    share = weights(interpolated, 2, 2000)[:, 0]
    assert share.mean().item() == pytest.approx(1 / 2, abs=4 * (1 / 12 / 2000) ** 0.5)
    assert share.var().item() == pytest.approx(1 / 12, rel=0.06)


def test_exponential_averages_by_hand(weights):
    x = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    by_hand, average = [], x[0]
    for value in x:
        average = average if not by_hand else 0.75 * average + 0.25 * value
        by_hand.append(average)
    found = weights(ema, 5, 3, ema_decay=0.75) @ x  # as it stands at steps 0, 2 and 4
    torch.testing.assert_close(found, torch.stack(by_hand)[[0, 2, 4]])
    assert len(weights(ema, 5, 50)) == 5


def test_gaussian_draws_have_the_mean_and_covariance_of_the_points(generator):
    points = (
        torch.randn(6, 3, generator=generator).double()
        @ torch.tensor([[1.0, 0.8, 0.0], [0.0, 1.0, -2.0], [0.0, 0.0, 0.3]]).double()
    )
    draws = gaussian(6, 20000, seed=0) @ points
    expected = torch.cov(points.T)
    scale = expected.diagonal().sqrt()
    error = (draws.mean(0) - points.mean(0)) / scale
    assert error.abs().max().item() < 4 / 20000**0.5
    difference = (torch.cov(draws.T) - expected) / scale[:, None] / scale
    assert difference.abs().max().item() < 5 * (2 / 20000) ** 0.5


def test_gaussian_draws_lie_in_the_span_of_the_points(generator):
    """Two points: all draws lie on the line through both, and not only between them."""
    weights = gaussian(2, 200, seed=0)
    torch.testing.assert_close(weights.sum(1), torch.ones(200).double())
    assert weights.min() < 0 and weights.max() > 1


def test_the_gaussian_of_one_point_is_that_point():
    assert gaussian(1, 3, seed=0).tolist() == [[1.0]] * 3


def by_svd(points, rank):
    """Projections on the first right singular vectors, the plain way."""
    mean = points.mean(0)
    directions = torch.linalg.svd(points - mean, full_matrices=False).Vh[:rank]
    return mean + (points - mean) @ directions.T @ directions


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_projection_is_that_of_the_singular_vectors(generator, rank):
    points = 3 + torch.randn(6, 7, generator=generator).double()
    found = projections(Models(SUBSET, points.float()), rank, 6)
    torch.testing.assert_close(found @ points, by_svd(points, rank), rtol=1e-5, atol=1e-5)
    assert torch.linalg.matrix_rank(found - 1 / 6).item() == rank
    torch.testing.assert_close(found.sum(1), torch.ones(6).double())


def test_projections_are_of_originals_spread_evenly(generator):
    originals = some(9, generator)
    every, three = (projections(originals, 2, models) for models in (9, 3))
    torch.testing.assert_close(three, every[[0, 4, 8]])


def test_components_of_originals_are_the_same_read_in_blocks(generator, monkeypatch):
    originals = some(6, generator)
    whole = projections(originals, 2, 6)
    monkeypatch.setattr(subset, "CHUNK", 12)
    assert len(list(originals.columns())) == 4
    torch.testing.assert_close(projections(originals, 2, 6), whole)


def test_originals_in_few_directions_are_their_own_projections_of_any_rank(generator):
    """They lie on a line: components behind the first say nothing, and must not move the mean."""
    points = 50 + torch.randn(8, 1, generator=generator) * torch.randn(1, 7, generator=generator)
    for rank in (1, 3, 6):
        found = (projections(Models(SUBSET, points), rank, 8) @ points.double()).float()
        torch.testing.assert_close(found, points, rtol=1e-5, atol=1e-5, msg=str(rank))


def test_an_original_that_is_not_finite_leaves_no_projection(generator):
    points = torch.randn(5, 7, generator=generator)
    points[3, 2] = torch.inf
    assert projections(Models(SUBSET, points), 2, 3).isnan().all()


# noise and independent Gaussians


@pytest.fixture
def large(generator) -> Models:
    """Four originals of two tensors with different stds."""
    scale = torch.cat([torch.full((400,), 2.0), torch.full((600,), 0.5)])
    values = torch.randn(4, 1000, generator=generator) * scale + 3
    return Models(Subset({"a": (400,), "b": (20, 30)}), values)


def noise_of(models, originals: Models) -> tuple[torch.Tensor, list[int]]:
    """What was added, and to which originals."""
    found, known = matrix(models), matrix(originals)
    sources = torch.cdist(found, known).argmin(1)
    return found - known[sources], sources.tolist()


@pytest.mark.parametrize(("make", "stds"), [(noised, (0.2, 0.05)), (absolute, (0.1, 0.1))])
def test_noise_has_its_std_absolutely_or_in_units_of_each_tensors_own(large, drawn, make, stds):
    noise, sources = noise_of(drawn(make, large, 40, level=0.1), large)
    assert noise[:, :400].std().item() == pytest.approx(stds[0], rel=0.05)
    assert noise[:, 400:].std().item() == pytest.approx(stds[1], rel=0.05)
    assert noise.mean().abs().item() < 0.005
    assert sorted(sources[:4]) == sorted(sources[4:8]) == [0, 1, 2, 3] != sources[:4]
    # 1000 values: the correlation of independent ones has a std of 0.03
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 0.2
    assert not noise_of(drawn(make, large, 4, level=0.0), large)[0].any()


def test_originals_take_turns_in_random_order():
    orders = [turns(20, 40, seed).tolist() for seed in (0, 1)]
    for order in orders:
        assert order[:20] == order[20:] != sorted(order[:20]) == list(range(20))
    assert orders[0] != orders[1]


@pytest.mark.parametrize("make", [noised, absolute])
def test_a_tensor_of_one_value_gets_absolute_noise_alone(drawn, make):
    originals = Models(Subset({"one": (1,)}), torch.full((2, 1), 2.0))
    assert (drawn(make, originals, 2, level=0.5).row(0).item() != 2.0) == (make is absolute)


@pytest.mark.parametrize("make", [noised, gaussian_diagonal])
def test_a_block_holds_the_rows(large, drawn, make):
    models = drawn(make, large, 5, level=0.1)
    assert torch.equal(models.block(slice(300, 500)), matrix(models)[:, 300:500])


def test_independent_gaussians_have_the_originals_mean_and_std(large, drawn):
    own, found = matrix(large), matrix(drawn(gaussian_diagonal, large, 2000))
    errors = (found.mean(0) - own.mean(0)) / (own.std(0) / 2000**0.5)
    assert errors.square().mean().item() == pytest.approx(1, abs=0.2)  # each is a standard normal
    ratio = found.std(0) / own.std(0)
    assert (ratio - 1).abs().max().item() < 5 / 4000**0.5
    assert ratio.mean().item() == pytest.approx(1, abs=0.005)
    # any two parameters of four originals are correlated; those drawn are not
    among = torch.corrcoef(found[:, :50].T).fill_diagonal_(0)
    assert among.abs().max().item() < 5 / 2000**0.5


def test_the_independent_gaussian_of_one_original_is_that_original(generator, drawn):
    one = some(1, generator)
    assert torch.equal(drawn(gaussian_diagonal, one, 2).row(1), one.row(0))


# greedy soup


def near(target: float):
    """Most right nearest to `target`."""
    return lambda value: 0 if math.isnan(value) else 9 - round(abs(value - target))


@pytest.mark.parametrize(
    ("values", "right", "candidates", "members", "accuracy", "asked"),
    [
        # Near 4 is best. 3 comes first; 6 makes 4.5; then 0 would make 3 and -5 only 4 / 3.
        ([-5, 6, 0, 3], near(4), 50, [3, 1], [0.8, 0.9], [4.5, 3, 4 / 3]),
        # One that lowers the mean is left out.
        ([3, 0, 9], {3: 9, 0: 8, 9: 7, 1.5: 0, 6: 9}.get, 50, [0, 2], [0.9, 0.9], [1.5, 6]),
        # Of equally good ones the earlier comes first.
        ([1, 2, 3], lambda value: 5, 50, [0, 1, 2], [0.5] * 3, [1.5, 2]),
        ([1, 2, 3, 4], lambda value: 5, 2, [0, 1], [0.5, 0.5], [1.5]),  # two candidates
        ([torch.nan, 4, 3], near(4), 50, [1, 2], [0.9, 0.9], [3.5, torch.nan]),
        ([4], near(4), 50, [0], [0.9], []),
    ],
)
def test_a_greedy_soup_by_hand(values, right, candidates, members, accuracy, asked):
    """Models of one number, right on as many of ten images as `right` says."""
    tried = []

    def predict(models: Sequence) -> torch.Tensor:
        tried.append([model["x"].item() for model in models])
        return torch.tensor([[i >= right(value) for i in range(10)] for value in tried[-1]]).short()

    originals = Models(Subset({"x": (1,)}), torch.tensor(values).float()[:, None])
    single = predict(originals)
    taken, reached = greedy_soup(originals, single, torch.zeros(10).long(), candidates, predict)
    assert taken == members
    assert reached == pytest.approx(accuracy)
    found = [value for group in tried[1:] for value in group]
    assert found == pytest.approx(asked, nan_ok=True)


def test_the_soup_of_members_is_their_mean(originals):
    torch.testing.assert_close(
        soup_of(originals, [4, 1]).row(0), (originals.row(4) + originals.row(1)) / 2
    )

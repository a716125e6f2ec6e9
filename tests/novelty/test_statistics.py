"""Tests and corrections: against scipy, values worked out by hand, and coverage on simulations."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pdiff.novelty.bootstrap import interval
from pdiff.novelty.inference import (
    bootstrap_p,
    centred,
    combine_seeds,
    crossing,
    holm,
    holm_levels,
    mcnemar,
)

NAN = math.nan


def errors(both: int, only_a: int, only_b: int, neither: int = 5) -> tuple[torch.Tensor, ...]:
    a = [True] * both + [True] * only_a + [False] * only_b + [False] * neither
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return torch.tensor(a), torch.tensor(b)


def test_mcnemar_by_hand():
    """2 P(at most 2 of 10 fair coins) = 2 (1 + 10 + 45) / 1024; the images of both do not count."""
    assert mcnemar(*errors(7, 2, 8)) == pytest.approx(112 / 1024)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (0, 6), (5, 5), (30, 12), (400, 470)])
def test_mcnemar_is_the_exact_test_that_statsmodels_states(only_a, only_b):
    """min(1, 2 F(min(b, c); b + c, 1/2)): statsmodels.stats.contingency_tables.mcnemar, exact."""
    n, smaller = only_a + only_b, min(only_a, only_b)
    expected = min(1.0, 2 * stats.binom.cdf(smaller, n, 0.5))
    assert mcnemar(*errors(3, only_a, only_b)) == pytest.approx(expected)


@pytest.mark.parametrize("both", [0, 4])
def test_models_with_the_same_errors_or_none_have_p_1(both):
    assert mcnemar(*errors(both, 0, 0)) == 1.0


def test_holm_by_hand():
    """Smallest first 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1 is not below the one before."""
    found = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert found.tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_adjusted_p_values_are_at_most_1_and_ties_stay_ties():
    assert holm(np.array([0.6, 0.6, 0.02])).tolist() == pytest.approx([1.0, 1.0, 0.06])


def test_a_claim_that_cannot_be_tested_does_not_count():
    found = holm(np.array([0.02, NAN, 0.01]))
    assert found[[0, 2]].tolist() == pytest.approx([0.02, 0.02])
    assert math.isnan(found[1]) and math.isnan(holm_levels(np.array([0.02, NAN]))[1])


def test_holm_of_nothing_is_nothing():
    assert len(holm(np.array([]))) == 0 == len(holm_levels(np.array([NAN] * 0)))
    assert np.isnan(holm(np.array([NAN, NAN]))).all()


def test_levels_follow_the_steps_and_stay_after_the_first_claim_that_fails():
    found = holm_levels(np.array([0.04, 0.001, 0.03, 0.9]))
    assert found.tolist() == pytest.approx([1 - 0.05 / 3, 1 - 0.05 / 4, 1 - 0.05 / 3, 1 - 0.05 / 3])


def test_intervals_at_holms_levels_exclude_0_where_holm_rejects_and_nowhere_else():
    random = np.random.default_rng(0)
    for _ in range(50):
        claims = random.normal(size=(8, 999)) + random.normal(0, 2.5, size=(8, 1))
        p_values = np.array([bootstrap_p(claim) for claim in claims])
        ends = [interval(c, level) for c, level in zip(claims, holm_levels(p_values), strict=True)]
        excluded = [low > 0 or high < 0 for low, high in ends]
        assert excluded == (holm(p_values) <= 0.05).tolist()


def test_few_claims_among_many_true_nulls_are_rejected_by_mistake():
    """All 20 nulls are true: at least one is rejected in at most 5 % of 2,000 tables."""
    p_values = np.random.default_rng(0).uniform(size=(2000, 20))
    wrong = np.mean([(holm(row) <= 0.05).any() for row in p_values])
    assert wrong == pytest.approx(0.05, abs=0.012)
    assert (p_values <= 0.05).any(1).mean() > 0.6


@pytest.mark.parametrize("r", [40, 999, 1000])
@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_a_p_value_is_small_exactly_where_the_interval_excludes_0(r, level):
    for below in range(r + 1):
        replicates = np.r_[-np.ones(below), np.ones(r - below)]
        low, high = interval(replicates, level)
        assert (low > 0 or high < 0) == (bootstrap_p(replicates) <= 1 - level + 1e-9)


@pytest.mark.parametrize(
    ("replicates", "expected"),
    [([1.0] * 9, 0.1), ([-1.0] * 9, 0.1), ([0.0] * 9, 1.0), ([-1.0, 1, 1, 1], 0.5), ([0.5], 0.5)],
)
def test_p_values_by_hand(replicates, expected):
    assert bootstrap_p(np.array(replicates)) == pytest.approx(expected)


def test_a_replicate_without_a_number_counts_for_both_sides():
    assert bootstrap_p(np.array([1.0] * 8 + [NAN] * 2)) == pytest.approx(0.4)
    assert math.isnan(bootstrap_p(np.array([NAN, NAN])))


# seeds


def test_seeds_by_hand():
    """Means over seeds 4, 5, 7 have variance 7/3, the estimates 1: 5 +- t_2 sqrt(1/3 + 7/3)."""
    replicates = np.array([[4.0, 4, 6], [3, 5, 7], [5, 6, 8]])
    found = combine_seeds(np.array([4.0, 5, 6]), replicates)
    half = 4.302653 * math.sqrt(8 / 3)
    assert (found.estimate, found.between_std, found.seeds) == (5, 1, 3)
    assert (found.low, found.high) == pytest.approx((5 - half, 5 + half))
    assert found.detectable == pytest.approx(half)
    assert found.within_std == pytest.approx(math.sqrt(np.mean(replicates.var(1, ddof=1))))


def test_centred_replicates_have_the_estimate_as_their_mean_and_the_same_spread():
    found = centred(np.array([1.0, NAN]), np.array([[4.0, 6, NAN], [1, 2, 3]]))
    assert found[0, :2].tolist() == [0.0, 2.0] and math.isnan(found[0, 2])
    assert np.isnan(found[1]).all()
    assert np.isnan(centred(np.array([1.0]), np.full((1, 3), NAN))).all()


def test_one_seed_has_its_percentile_interval_and_no_spread():
    replicates = np.arange(-100.0, 901)
    found = combine_seeds(np.array([400.0]), replicates[None], level=0.9)
    assert (found.low, found.high) == interval(replicates, 0.9)
    assert found.p == bootstrap_p(replicates) and found.detectable == 450
    assert math.isnan(found.between_std)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_the_p_value_over_seeds_agrees_with_the_interval(level):
    random = np.random.default_rng(0)
    for _ in range(100):
        estimates = random.normal(2, 1, 4)
        found = combine_seeds(estimates, estimates[:, None] + random.normal(size=(4, 50)), level)
        assert (found.low > 0) == (found.p <= 1 - level and found.estimate > 0)


def test_seeds_that_agree_without_any_doubt_have_an_interval_of_no_width():
    same = combine_seeds(np.full(3, 0.5), np.full((3, 10), 0.5))
    assert (same.low, same.high, same.p, same.detectable) == (0.5, 0.5, 0.0, 0.0)
    assert combine_seeds(np.zeros(3), np.zeros((3, 10))).p == 1.0


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_quantity_that_is_undefined_stays_undefined(seeds):
    found = combine_seeds(np.full(seeds, NAN), np.full((seeds, 10), NAN))
    assert np.isnan([found.estimate, found.low, found.high, found.p]).all()


def coverage(seeds: int, between: float, images: float, models: float) -> float:
    """Of 500 simulated studies, how many intervals hold the true 0."""
    random, hits, shape = np.random.default_rng(0), 0, (seeds, 200)
    for _ in range(500):
        estimates = random.normal(0, images) + random.normal(0, between, seeds)
        estimates += random.normal(0, models, seeds)
        replicates = estimates[:, None] + random.normal(0, images, shape[1])
        replicates += random.normal(0, models, shape)
        found = combine_seeds(estimates, replicates)
        hits += found.low <= 0 <= found.high
    return hits / 500


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("between", [0.0, 1.0, 5.0])
def test_intervals_over_seeds_cover_95_percent(seeds, between):
    assert coverage(seeds, between, images=1.0, models=0.5) >= 0.93


def test_without_the_spread_between_seeds_intervals_would_cover_far_less():
    random, hits = np.random.default_rng(0), 0
    for _ in range(500):
        estimate = random.normal(0, 5)
        low, high = interval(estimate + random.normal(size=200))
        hits += low <= 0 <= high
    assert hits / 500 < 0.5


# similarity at equal accuracy


def at(accuracies: list, similarities: list, target: float) -> float:
    found = crossing(np.array([accuracies]), np.array([similarities]), np.array([target]))
    return float(found[0])


def test_a_crossing_is_interpolated_between_its_levels():
    assert at([0.9, 0.8, 0.4], [1.0, 0.9, 0.5], 0.7) == pytest.approx(0.8)


def test_a_rising_ladder_is_crossed_too():
    assert at([0.4, 0.8], [0.9, 0.5], 0.5) == pytest.approx(0.8)


def test_of_several_crossings_the_one_at_the_highest_level_counts():
    assert at([0.9, 0.7, 0.8, 0.6], [1.0, 0.9, 0.8, 0.6], 0.75) == pytest.approx(0.75)


def test_the_ends_belong_to_the_ladder_and_beyond_is_no_overlap():
    assert at([0.9, 0.8], [1.0, 0.6], 0.9) == 1.0
    assert at([0.9, 0.8], [1.0, 0.6], 0.8) == pytest.approx(0.6)
    assert math.isnan(at([0.9, 0.8], [1.0, 0.6], 0.91))
    assert math.isnan(at([0.9, 0.8], [1.0, 0.6], 0.79))


def test_on_equal_levels_the_higher_counts():
    assert at([0.9, 0.8, 0.8], [1.0, 0.6, 0.5], 0.8) == 0.5


def test_a_single_level_is_met_only_exactly():
    assert at([0.8], [0.6], 0.8) == 0.6
    assert math.isnan(at([0.8], [0.6], 0.81))


def test_what_is_not_a_number_is_no_overlap():
    assert math.isnan(at([0.9, NAN], [1.0, 0.6], 0.85))
    assert math.isnan(at([0.9, 0.8], [1.0, 0.6], NAN))


def test_many_ladders_at_once_are_each_its_own():
    random = np.random.default_rng(0)
    x, y, target = (
        random.uniform(size=(200, 6)),
        random.uniform(size=(200, 6)),
        random.uniform(size=200),
    )
    one_by_one = [at(list(a), list(b), t) for a, b, t in zip(x, y, target, strict=True)]
    np.testing.assert_allclose(crossing(x, y, target), one_by_one)
    monotone = -np.sort(-x, 1)
    expected = [
        np.interp(t, a[::-1], b[::-1], left=NAN, right=NAN)
        for a, b, t in zip(monotone, y, target, strict=True)
    ]
    np.testing.assert_allclose(crossing(monotone, y, target), expected)

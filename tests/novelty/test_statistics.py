"""Tests and intervals: against scipy, values worked out by hand, and simulated studies."""

import math

import numpy as np
import pytest
from scipy import stats

from pdiff.novelty.inference import equivalence_p, holm, t_interval, t_p, t_power

NAN = math.nan
THREE = np.array([4.0, 5.0, 6.0])  # mean 5, standard error 1 / sqrt(3), 2 degrees of freedom


def draws(*shape: int, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, std, shape)


# Student's t


def test_an_interval_by_hand():
    """The 97.5 % point of t with 2 degrees of freedom is 4.302653."""
    half = 4.302653 / math.sqrt(3)
    assert t_interval(THREE, 0.05) == pytest.approx((5 - half, 5 + half))


@pytest.mark.parametrize("count", [2, 3, 12])
def test_interval_and_p_value_are_scipys(count):
    for values in draws(20, count, mean=1.0):
        expected = stats.ttest_1samp(values, 0)
        assert t_p(values) == pytest.approx(expected.pvalue)
        assert t_interval(values, 0.1) == pytest.approx(expected.confidence_interval(0.9))


@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_equivalence_is_the_larger_of_two_one_sided_tests_of_scipy(margin):
    for values in draws(20, 5, std=0.5):
        below = stats.ttest_1samp(values, margin, alternative="less").pvalue
        above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
        assert equivalence_p(values, margin) == pytest.approx(max(below, above))


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_a_p_value_is_small_exactly_where_the_interval_excludes_0(alpha):
    decided = []
    for values in draws(60, 4, mean=1.0):
        low, high = t_interval(values, alpha)
        decided.append(low > 0 or high < 0)
        assert decided[-1] == (t_p(values) <= alpha)
    assert 0 < sum(decided) < 60


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_models_are_equivalent_exactly_where_the_interval_lies_within_the_margin(alpha):
    decided = []
    for values in draws(60, 4, std=0.7):
        low, high = t_interval(values, 2 * alpha)
        decided.append(low > -1 and high < 1)
        assert decided[-1] == (equivalence_p(values, 1.0) <= alpha)
    assert 0 < sum(decided) < 60


def test_pipelines_that_agree_without_any_doubt_have_an_interval_of_no_width():
    same = np.full(3, 0.5)
    assert t_interval(same, 0.05) == (0.5, 0.5)
    assert (t_p(same), t_p(np.zeros(3))) == (0.0, 1.0)
    assert [equivalence_p(same, margin) for margin in (0.4, 0.5, 0.6)] == [1.0, 1.0, 0.0]
    assert t_power(same, 0.1, 0.05) == 1.0


@pytest.mark.parametrize("values", [[], [0.3]])
def test_fewer_than_two_pipelines_have_no_interval_and_no_test(values):
    few = np.array(values)
    found = [*t_interval(few, 0.05), t_p(few), equivalence_p(few, 1.0), t_power(few, 1.0, 0.05)]
    assert np.isnan(found).all()


def test_a_difference_that_is_undefined_decides_nothing():
    found = np.array([0.1, NAN, 0.2])
    assert math.isnan(t_p(found)) and math.isnan(equivalence_p(found, 1.0))


def test_power_is_the_share_of_studies_that_find_a_difference_as_large_as_the_margin():
    """Spread 1 and 8 pipelines: what the formula says of it, and 600 simulated studies."""
    spread = draws(8)
    spread = (spread - spread.mean()) / spread.std(ddof=1)
    studies = draws(600, 8, mean=1.2)
    found = np.mean([t_p(values) <= 0.05 for values in studies])
    assert t_power(spread + 7.0, 1.2, 0.05) == pytest.approx(found, abs=0.04)
    assert 0.7 < found < 0.9


def test_power_at_no_margin_is_the_error():
    assert t_power(THREE, 0.0, 0.05) == pytest.approx(0.05)


@pytest.mark.parametrize("pipelines", [2, 3, 6])
def test_intervals_over_pipelines_cover_95_percent(pipelines):
    """400 studies of a true difference of 0.3, whatever a pipeline's spread."""
    studies = draws(400, pipelines, mean=0.3, std=2.0)
    ends = np.array([t_interval(values, 0.05) for values in studies])
    covered = ((ends[:, 0] <= 0.3) & (ends[:, 1] >= 0.3)).mean()
    assert covered == pytest.approx(0.95, abs=0.025)


# Holm


def test_holm_by_hand():
    """Smallest first 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1 is not below the one before."""
    found = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert found.tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_adjusted_p_values_are_at_most_1_and_ties_stay_ties():
    assert holm(np.array([0.6, 0.6, 0.02])).tolist() == pytest.approx([1.0, 1.0, 0.06])


def test_a_claim_that_could_not_be_tested_still_counts():
    found = holm(np.array([0.02, NAN, 0.01]))
    assert found[[0, 2]].tolist() == pytest.approx([0.04, 0.03])
    assert math.isnan(found[1])


def test_few_true_nulls_are_rejected_by_mistake():
    """Two of three nulls are true: one of them is rejected in at most 5 % of 2,000 tables."""
    p_values = np.random.default_rng(0).uniform(size=(2000, 3))
    p_values[:, 0] = 1e-4
    adjusted = np.array([holm(row) for row in p_values])
    assert (adjusted[:, 1:] <= 0.05).any(1).mean() == pytest.approx(0.05, abs=0.012)
    assert (adjusted[:, 0] <= 0.05).all()

"""Tests, intervals and power: against scipy, values worked out by hand, and simulated studies."""

import math

import numpy as np
import pytest
from scipy import stats

from pdiff.novelty.inference import equivalence_p, holm, t_interval, t_p, t_power

NAN = math.nan


def draws(*shape: int, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, std, shape)


# Student's t


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


@pytest.mark.parametrize("margin", [0.01, 0.5, 1.5])
def test_power_is_that_of_the_noncentral_t(margin):
    spread, least = draws(5), stats.t.isf(0.025, 4)
    shift = margin / stats.sem(spread)
    expected = stats.nct.sf(least, 4, shift) + stats.nct.cdf(-least, 4, shift)
    assert t_power(spread, margin, 0.05) == pytest.approx(expected, abs=1e-4)


def test_two_pipelines_may_miss_a_margin_of_thirteen_standard_errors():
    """With one degree of freedom, where scipy's noncentral t is NaN."""
    assert t_power(np.array([0.0, 2.0]), 14.0, 0.05 / 3) == pytest.approx(0.28599, abs=1e-4)


def test_power_at_no_margin_is_the_error():
    assert t_power(np.array([4.0, 5.0, 6.0]), 0.0, 0.05) == pytest.approx(0.05, abs=1e-4)


# Holm


@pytest.mark.parametrize(
    ("values", "adjusted"),
    [
        # smallest first 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1 is not below the one before
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.6, 0.6, 0.02], [1.0, 1.0, 0.06]),  # at most 1, and ties stay ties
        ([0.02, NAN, 0.01], [0.04, NAN, 0.03]),  # what could not be tested still counts
    ],
)
def test_holm_by_hand(values, adjusted):
    assert holm(np.array(values)).tolist() == pytest.approx(adjusted, nan_ok=True)

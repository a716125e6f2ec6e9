"""Autocorrelated series: processes whose answer is known, and coverage of their bootstrap."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from pdiff.novelty.bootstrap import interval
from pdiff.novelty.series import (
    autocorrelation_time,
    block_length,
    draw_blocks,
    draws_for_mean,
    effective_sample_size,
)

SETS, REPLICATES = 500, 400


def ar1(phi: float, n: int, sets: int = SETS, noise: float = 0.0) -> np.ndarray:
    """(sets, n) AR(1) series with mean 0, plus white noise of `noise` times their std."""
    random = np.random.default_rng(0)
    series = lfilter([1], [1, -phi], random.normal(size=(sets, n + 500)))[:, 500:]
    return series + noise * series.std() * random.normal(size=series.shape)


@cache
def draws(n: int, length: int) -> np.ndarray:
    """(R, n) indices: independent series may share them."""
    generator = torch.Generator().manual_seed(length)
    return torch.stack([draw_blocks(n, length, generator) for _ in range(REPLICATES)]).numpy()


def coverage(series: np.ndarray, ordinary: bool = False, all_draws: bool = False) -> float:
    """How often the 95 % interval of a series' mean holds 0."""
    hits = 0
    for row in series:
        length = 1 if ordinary else block_length(row)
        averaged = len(row) if all_draws else draws_for_mean(row, length)
        means = row[draws(len(row), length)[:, :averaged]].mean(1)
        low, high = interval(means)
        hits += low <= 0 <= high
    return hits / len(series)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.8])
def test_the_autocorrelation_time_of_an_ar1_series_is_the_formulas(phi):
    found = [autocorrelation_time(row) for row in ar1(phi, 5000, 40)]
    assert np.mean(found) == pytest.approx((1 + phi) / (1 - phi), rel=0.12)


def test_the_effective_sample_size_gives_the_variance_of_the_mean():
    series = ar1(0.7, 400)
    size = np.mean([effective_sample_size(row) for row in series])
    assert series.mean(1).var() == pytest.approx(series.var() / size, rel=0.15)


def test_noise_on_top_does_not_hide_a_slow_drift():
    """Half the variance is noise, so lag 1 alone would tell of phi 0.45 and a time of 2.6."""
    found = np.mean([autocorrelation_time(row) for row in ar1(0.9, 2000, 60, noise=1.0)])
    assert found == pytest.approx(1 + 2 * 0.5 * 9, rel=0.15)


@pytest.mark.parametrize("series", [[0.3], [0.3, 0.5], [0.9, 0.8, 0.7], [0.1] * 50, [0.0] * 9])
def test_short_and_constant_series_count_as_independent(series):
    values = np.array(series)
    assert autocorrelation_time(values) == 1
    assert effective_sample_size(values) == len(values)
    assert block_length(values) == 1
    assert draws_for_mean(values, 1) == len(values)


def test_a_trend_has_the_longest_time_and_blocks_that_are_allowed():
    trend = np.arange(300.0)
    assert autocorrelation_time(trend) == 75
    assert block_length(trend) == math.ceil(3 * math.sqrt(300))
    assert block_length(np.arange(30.0)) <= 10


def test_an_alternating_series_counts_as_independent():
    assert autocorrelation_time(np.tile([0.0, 1.0], 50)) == 1


@pytest.mark.parametrize(("phi", "expected"), [(0.5, 10.1), (0.8, 20.7)])
def test_the_block_length_of_an_ar1_series_is_the_optimum(phi, expected):
    """(6 phi^2 / (1 - phi^2)^2 n)^(1/3) for n = 300, by hand; rounded up on average by a half."""
    found = [block_length(row) for row in ar1(phi, 300)]
    assert np.median(found) == pytest.approx(expected + 0.5, abs=1.6)


def test_blocks_of_one_are_the_ordinary_bootstrap():
    drawn = draw_blocks(50, 1, torch.Generator().manual_seed(3))
    assert (
        drawn.tolist()
        == torch.randint(50, (50,), generator=torch.Generator().manual_seed(3)).tolist()
    )


def test_blocks_go_on_at_the_beginning_and_the_last_is_cut():
    drawn = draw_blocks(10, 4, torch.Generator().manual_seed(0))
    assert len(drawn) == 10
    steps = (drawn.diff() % 10).tolist()
    assert [step for i, step in enumerate(steps) if (i + 1) % 4] == [1] * 7


def test_every_model_is_drawn_equally_often():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([draw_blocks(12, 5, generator) for _ in range(5000)])
    counts = drawn.bincount(minlength=12).double()
    assert (counts / counts.mean() - 1).abs().max() < 0.06


@pytest.mark.parametrize("length", [0, 6])
def test_blocks_longer_than_the_series_are_refused(length):
    with pytest.raises(ValueError, match="a length must lie in 1 to 5"):
        draw_blocks(5, length, torch.Generator())


def test_averaged_blocks_vary_as_the_mean_of_the_series_does():
    (row,) = ar1(0.9, 300, 1)
    length = block_length(row)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw_blocks(300, length, generator) for _ in range(4000)])
    means = row[drawn[:, : draws_for_mean(row, length)].numpy()].mean(1)
    time = autocorrelation_time(row)
    assert means.var() == pytest.approx(row.var() * time / (300 - time), rel=0.15)


# coverage of the 95 % interval on 500 simulated series


def test_the_interval_of_independent_values_covers_95_percent():
    assert 0.93 <= coverage(ar1(0.0, 300), ordinary=True) <= 0.97


def test_the_interval_covers_95_percent_if_blocks_are_estimated_from_independent_values():
    assert 0.93 <= coverage(ar1(0.0, 300)) <= 0.97


@pytest.mark.parametrize("phi", [0.5, 0.8, 0.9])
def test_the_block_bootstrap_covers_an_autocorrelated_series(phi):
    assert coverage(ar1(phi, 300)) >= 0.88


def test_the_block_bootstrap_covers_a_series_like_the_originals():
    """On the digits their accuracies have a lag-1 autocorrelation of 0.96 over 300 steps, which is
    worth 6 independent values: 85 % is what is left there, and 75 % if all draws were averaged."""
    series = ar1(0.96, 300)
    found, all_draws = coverage(series), coverage(series, all_draws=True)
    assert found >= 0.82
    assert all_draws < found - 0.05


def test_the_ordinary_bootstrap_covers_far_less():
    assert coverage(ar1(0.8, 300), ordinary=True) < 0.6

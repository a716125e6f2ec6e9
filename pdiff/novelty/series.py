"""Series of models along a run: how much consecutive ones repeat each other, and how to draw them.

Axes: n steps of a series. Times and lengths are in steps.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

Series = Float[np.ndarray, " n"]


def autocorrelation_time(series: Series) -> float:
    """By how much autocorrelation multiplies the variance of the series' mean; at least 1.

    One plus twice the sum of autocorrelations, up to where the sum of a pair of neighbours is no
    longer positive: Geyer 1992, "Practical Markov chain Monte Carlo", section 3.3. Deviations from
    the series' own mean make each autocovariance too small by the variance of that mean, which is
    put back; no more than n / 4, since a longer time cannot be told from a series so short.
    1 for a constant series and for fewer than 4 steps.
    """
    n = len(series)
    covariance = _autocovariance(series)
    if n < 4 or covariance[0] <= 1e-12 * np.square(series).mean():
        return 1.0
    lags = _positive_lags(covariance)
    total = 2 * covariance[:lags].sum() / covariance[0]  # tau + 1 with the covariances as they are
    left = 1 + (total - 2 * lags) / n  # from tau = total (1 - tau/n) + 2 lags tau/n - 1
    return float(np.clip((total - 1) / left, 1, n / 4))


def _autocovariance(series: Series) -> Series:
    """At lags 0 to n - 1, divided by n."""
    n = len(series)
    spectrum = np.fft.rfft(series - series.mean(), 2 * n)
    return np.fft.irfft(np.abs(spectrum) ** 2, 2 * n)[:n] / n


def _positive_lags(covariance: Series) -> int:
    """Lags before the first pair (2m, 2m + 1) whose sum is not positive; at most half of all."""
    pairs = covariance[: len(covariance) // 4 * 2].reshape(-1, 2).sum(1)
    return 2 * int(np.append(pairs <= 0, True).argmax())


def effective_sample_size(series: Series) -> float:
    """How many independent values would give a mean as certain as the series does."""
    return len(series) / autocorrelation_time(series)


def block_length(series: Series) -> int:
    """Length of blocks with which a bootstrap estimates the variance of the mean best.

    The optimum for circular blocks (Politis & White 2004, "Automatic block-length selection",
    section 3.2, with their bound 3 sqrt(n), at most n / 3) of an AR(1) process, as Andrews 1991
    plugs in: (6 phi^2 / (1 - phi^2)^2 n)^(1/3). phi is that of the AR(1) process with the series'
    autocorrelation time: the lag-1 autocorrelation would be blind to correlation under noise.
    """
    n, time = len(series), autocorrelation_time(series)
    phi = (time - 1) / (time + 1)
    best = (6 * phi**2 / (1 - phi**2) ** 2 * n) ** (1 / 3)
    return max(1, math.ceil(min(best, 3 * n**0.5, n / 3))) if time > 1 else 1


def draw_blocks(count: int, length: int, generator: torch.Generator) -> Int64[Tensor, " count"]:
    """Indices of a circular block bootstrap (Politis & Romano 1992); length 1 is the ordinary one.

    Blocks start anywhere with equal chance and go on at the beginning after the end; the last one
    is cut so that `count` indices are drawn.
    """
    if not 1 <= length <= count:
        raise ValueError(f"blocks of {length} out of {count}; a length must lie in 1 to {count}")
    starts = torch.randint(count, (math.ceil(count / length),), generator=generator)
    return ((starts[:, None] + torch.arange(length)) % count).flatten()[:count]


def draws_for_mean(series: Series, length: int) -> int:
    """How many of the n values drawn in blocks to average, so that the mean varies as it should.

    The mean of all n varies too little if the series is short: blocks miss correlations beyond
    their length and deviations are taken from the series' own mean. Averaging fewer of them makes
    up for it: n times the variance that blocks give over c tau / (n - tau), with c the series'
    variance and tau its autocorrelation time. n for blocks of one.
    """
    n = len(series)
    if length == 1:
        return n
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([series, series[:length]]))])
    means = (sums[length : length + n] - sums[:n]) / length
    time = autocorrelation_time(series)
    wanted = series.var() * time / (n - time)
    return int(np.clip(round(means.var() * length / wanted), 1, n))

"""Tests, corrections for many of them, and how seeds are put together.

Axes: C claims, S seeds, R bootstrap replicates, L levels of a ladder, N test images.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from pdiff.novelty.bootstrap import interval


def mcnemar(a_wrong: Bool[Tensor, " N"], b_wrong: Bool[Tensor, " N"]) -> float:
    """Exact two-sided p-value that two models err equally often on the same images.

    McNemar 1947 with the binomial distribution (Dietterich 1998, section 3.1, in its exact form):
    of the images that only one model gets wrong, each is either's with chance 1/2. 1 where there
    is no such image.
    """
    only_a = int((a_wrong & ~b_wrong).sum())
    only_b = int((b_wrong & ~a_wrong).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def bootstrap_p(replicates: Float[np.ndarray, " R"]) -> float:
    """Two-sided p-value of a difference being 0: the smallest alpha at which 0 is outside.

    Twice the smaller share of replicates on either side of 0 (Efron & Tibshirani 1993, section
    15.4: percentile interval turned round), so it is at most alpha where `interval` at level
    1 - alpha excludes 0, and no other. At least 1 / (R + 1), since R replicates show no more
    (Davison & Hinkley 1997, section 4.2). A replicate without a number counts for both sides; NaN
    if none has a number.
    """
    if np.isnan(replicates).all():
        return float("nan")
    tail = min((~(replicates > 0)).mean(), (~(replicates < 0)).mean())
    return float(np.clip(2 * tail, 1 / (len(replicates) + 1), 1))


def holm(p_values: Float[np.ndarray, " C"]) -> Float[np.ndarray, " C"]:
    """Adjusted p-values: claims with at most alpha hold all at once, with an error of alpha.

    Holm 1979, "A simple sequentially rejective multiple test procedure": the i-th smallest of C
    times C - i + 1, never below the one before. NaN, a claim that cannot be tested, stays and does
    not count.
    """
    order, adjusted = _tested(p_values), np.full(len(p_values), np.nan)
    scaled = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted


def holm_levels(p_values: Float[np.ndarray, " C"], level: float = 0.95) -> Float[np.ndarray, " C"]:
    """The level of each claim's own interval that agrees with `holm`: it excludes 0 if rejected.

    1 - alpha / (C - i + 1) for the i-th smallest p-value; once one is not rejected, all larger
    ones keep its level. Such intervals agree with the decisions one by one; that all of them
    cover at once with chance `level` holds only for Bonferroni's, the widest of them.
    """
    order, levels = _tested(p_values), np.full(len(p_values), np.nan)
    shares = (1 - level) / np.arange(len(order), 0, -1)
    kept = np.flatnonzero(p_values[order] > shares)
    if len(kept):
        shares[kept[0] :] = shares[kept[0]]
    levels[order] = 1 - shares
    return levels


def _tested(p_values: np.ndarray) -> np.ndarray:
    """Places of the numbers, smallest first."""
    return np.argsort(p_values, kind="stable")[: np.isfinite(p_values).sum()]


def centred(
    estimates: Float[np.ndarray, " C"], replicates: Float[np.ndarray, "C R"]
) -> Float[np.ndarray, "C R"]:
    """Replicates moved so that their mean is the estimate; all NaN where that is NaN.

    A maximum over originals is larger on images drawn with replacement, which are fewer different
    ones, and not by the same amount for every group: without this an interval may not even hold
    its estimate. (Efron & Tibshirani 1993, section 10.2: the bootstrap's estimate of bias.)
    """
    present = ~np.isnan(replicates)
    counts = np.maximum(present.sum(1), 1)
    return replicates + (estimates - np.where(present, replicates, 0).sum(1) / counts)[:, None]


@dataclass(frozen=True)
class Combined:
    """One quantity, or a difference, over S seeds."""

    estimate: float
    """The mean over the seeds."""
    low: float
    high: float
    p: float
    """Two-sided, of 0: at most 1 - level where the interval excludes 0, and no other."""
    detectable: float
    """Half the interval's width: a smaller difference would have left 0 inside."""
    within_std: float
    """Of one seed: root mean variance of its replicates (images and models)."""
    between_std: float
    """Between the seeds' estimates (divisor S - 1); NaN for one seed."""
    seeds: int


def combine_seeds(
    estimates: Float[np.ndarray, " S"],
    replicates: Float[np.ndarray, "S R"],
    level: float = 0.95,
) -> Combined:
    """The mean over seeds, with an interval for other seeds, other images and other models.

    Model: a seed is a draw from all seeds, and replicate r shows every seed the same images. Then
    the variance of the mean is between seeds / S, plus what the images shared by all add: at most
    the variance over r of the replicates' mean over seeds. The interval is

        mean +- t_{S-1} sqrt(between / S + variance over replicates of the mean over seeds).

    It is wide on purpose: the spread between estimates holds the chance of drawing models already,
    which the replicates add once more, and t_{S-1} is applied to both parts, though the second is
    known from many replicates. One seed has no spread: the percentile interval of its centred
    replicates says nothing of other seeds. NaN in, NaN out.
    """
    seeds, between = len(estimates), np.nan
    within = float(np.sqrt(replicates.var(1, ddof=1).mean()))
    estimate = float(estimates.mean())
    if seeds == 1:
        (own,) = centred(estimates, replicates)
        low, high = interval(own, level)
        p = bootstrap_p(own) if np.isfinite(low) else np.nan
    else:
        between = float(estimates.std(ddof=1))
        error = float(np.sqrt(between**2 / seeds + replicates.mean(0).var(ddof=1)))
        half = float(stats.t.isf((1 - level) / 2, seeds - 1)) * error
        low, high = estimate - half, estimate + half
        p = _t_p(estimate, error, seeds - 1)
    return Combined(estimate, low, high, p, (high - low) / 2, within, between, seeds)


def _t_p(estimate: float, error: float, degrees: int) -> float:
    """1 for 0 without any error, 0 for another number without."""
    if error == 0:
        return float(estimate == 0)
    return float(2 * stats.t.sf(abs(estimate) / error, degrees))


def crossing(
    accuracies: Float[np.ndarray, "R L"],
    similarities: Float[np.ndarray, "R L"],
    at: Float[np.ndarray, " R"],
) -> Float[np.ndarray, " R"]:
    """Similarity at a given accuracy on a ladder of levels, in the order of levels.

    Linear between neighbouring levels. Where the accuracy is passed several times, since the
    ladder is noisy, the last time counts: the highest level that still has it. NaN where the
    ladder nowhere has that accuracy, also for a level or an accuracy that is NaN.
    """
    if accuracies.shape[1] == 1:  # a step of no length, so that a single level can be met
        accuracies, similarities = accuracies.repeat(2, 1), similarities.repeat(2, 1)
    start, end, target = accuracies[:, :-1], accuracies[:, 1:], at[:, None]
    passed = (np.minimum(start, end) <= target) & (target <= np.maximum(start, end))
    rows = np.arange(len(at))
    last = passed.shape[1] - 1 - passed[:, ::-1].argmax(1)
    start, end = start[rows, last], end[rows, last]
    rise = end - start
    share = np.divide(at - start, rise, out=np.ones_like(rise), where=rise != 0)
    found = similarities[rows, last] * (1 - share) + similarities[rows, last + 1] * share
    return np.where(passed.any(1), found, np.nan)

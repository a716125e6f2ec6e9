"""Tests and intervals, and the correction for several tests.

Axes: P pipelines, C claims.
"""

import numpy as np
from jaxtyping import Float
from scipy import stats

POWER_STEPS = 10_000
"""Points of the chi distribution that `t_power` averages over."""


def t_interval(differences: Float[np.ndarray, " P"], alpha: float) -> tuple[float, float]:
    """Student's interval of the mean at level 1 - alpha; NaN for fewer than two pipelines."""
    mean, error, degrees = _student(differences)
    half = stats.t.isf(alpha / 2, degrees) * error
    return float(mean - half), float(mean + half)


def t_p(differences: Float[np.ndarray, " P"]) -> float:
    """Two-sided p-value of a mean of 0: p <= alpha exactly when `t_interval` excludes 0.

    NaN for fewer than two pipelines.
    """
    mean, error, degrees = _student(differences)
    return float(np.minimum(1, 2 * _tail(abs(mean), error, degrees)))


def equivalence_p(differences: Float[np.ndarray, " P"], margin: float) -> float:
    """P-value of a mean that lies on the margin or beyond it, on either side of 0.

    The larger of two one-sided p-values (Schuirmann 1987): p <= alpha exactly when
    `t_interval` with 2 alpha lies within the margin. NaN for fewer than two pipelines.
    """
    mean, error, degrees = _student(differences)
    return _tail(margin - abs(mean), error, degrees)


def t_power(differences: Float[np.ndarray, " P"], margin: float, alpha: float) -> float:
    """Chance that `t_p` is at most alpha if the mean is the margin and the spread the observed.

    The noncentral t distribution of the margin in standard errors, as the mean of a normal's tails
    over the chi distribution of the error: scipy's own gives NaN from 13 standard errors on. NaN
    for fewer than two pipelines.
    """
    _, error, degrees = _student(differences)
    if error == 0:
        return 1.0
    if np.isnan(error):
        return np.nan
    middle = (np.arange(POWER_STEPS) + 0.5) / POWER_STEPS
    least = stats.t.isf(alpha / 2, degrees) * np.sqrt(stats.chi2.ppf(middle, degrees) / degrees)
    tails = [stats.norm.sf(least + side * margin / error) for side in (-1, 1)]
    return float(np.mean(tails[0] + tails[1]))


def _student(differences: Float[np.ndarray, " P"]) -> tuple[float, float, int]:
    """Mean, standard error and degrees of freedom; without degrees the error is NaN."""
    degrees = len(differences) - 1
    if degrees < 1:
        return float(np.mean(differences)) if len(differences) else np.nan, np.nan, 0
    return float(np.mean(differences)), float(stats.sem(differences)), degrees


def _tail(distance: float, error: float, degrees: int) -> float:
    """Chance that t exceeds distance / error; without any error 0 beyond 0, and 1 elsewhere."""
    if error == 0:
        return float(distance <= 0)
    return float(stats.t.sf(distance / error, degrees))


def holm(p_values: Float[np.ndarray, " C"]) -> Float[np.ndarray, " C"]:
    """Adjusted p-values: all claims with at most alpha hold at once, with an error of alpha.

    Holm 1979, "A simple sequentially rejective multiple test procedure": the i-th smallest of C
    times C - i + 1, never below the one before. C is fixed beforehand: a claim that could not be
    tested, NaN, stays NaN and counts as the largest.
    """
    order = np.argsort(p_values, kind="stable")  # NaN comes last
    scaled = p_values[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted

"""The data-copying test against scipy, known answers, and its own calibration."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import mannwhitneyu, norm

from pdiff.audit.copying import copying_table, mann_whitney
from pdiff.audit.distances import distance_table

NAN = math.nan


def normal(models: int, seed: int, length: int = 8) -> torch.Tensor:
    return torch.randn(models, length, generator=torch.Generator().manual_seed(seed))


def table(**matrices: torch.Tensor) -> pd.DataFrame:
    return copying_table(distance_table(matrices)).set_index("group")


def sets(seed: int = 0, **changed: torch.Tensor) -> dict[str, torch.Tensor]:
    """Originals, both held-out sets and generated models, all of one distribution."""
    made = {"original": normal(300, seed), "generated": normal(200, seed + 1)}
    return made | {"held_back": normal(50, seed + 2), "fresh": normal(100, seed + 3)} | changed


@pytest.fixture(scope="module")
def alike() -> pd.DataFrame:
    return table(
        **sets(),
        noised=sets()["original"][:100] + 1e-3 * normal(100, 9),
        absolute=3 * normal(100, 9),
        ensemble=sets()["original"].mean(0, keepdim=True),
    )


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_z_u_equals_scipys_with_and_without_ties(decimals):
    random = np.random.default_rng(0)
    own, held_out = random.gamma(3, size=40), random.gamma(3.5, size=25)
    if decimals is not None:
        own, held_out = own.round(decimals), held_out.round(decimals)
    expected = mannwhitneyu(own, held_out, method="asymptotic", use_continuity=False)
    z, share = mann_whitney(own, held_out)
    assert share == pytest.approx(expected.statistic / (40 * 25))
    assert 2 * norm.sf(abs(z)) == pytest.approx(expected.pvalue)


def test_z_u_is_negative_if_models_are_nearer_than_held_out_ones():
    near, far = np.arange(1.0, 6), np.arange(6.0, 12)
    z = -15 / math.sqrt(5 * 6 * 12 / 12)
    assert mann_whitney(near, far) == pytest.approx((z, 0))
    assert mann_whitney(far, near) == pytest.approx((-z, 1))


def test_z_u_is_zero_if_all_distances_are_equal_and_leaves_out_what_has_none():
    assert mann_whitney(np.zeros(4), np.zeros(3)) == (0, 0.5)
    values, others = np.array([1.0, 2, 3]), np.array([2.5, 4])
    found = mann_whitney(np.append(values, NAN), np.append(NAN, others))
    assert found == mann_whitney(values, others)


@pytest.mark.parametrize("empty", [np.zeros(0), np.full(2, NAN)])
def test_z_u_against_nobody_is_unknown(empty):
    values = np.array([1.0, 2])
    assert np.isnan([mann_whitney(values, empty), mann_whitney(empty, values)]).all()


@pytest.mark.parametrize(
    ("group", "low", "high", "farther"),
    [
        ("generated", -3, 3, (0.4, 0.6)),  # of the held-out distribution
        ("original", -3, 3, (0.4, 0.6)),  # each left out of the others, which are then one fewer
        ("noised", -math.inf, -8, (0, 0)),
        ("absolute", 8, math.inf, (0.95, 1)),
    ],
)
def test_only_models_nearer_than_unseen_checkpoints_are_copies(alike, group, low, high, farther):
    row = alike.loc[group]
    assert low < row["z_held_back"] < high and low < row["z_fresh"] < high
    assert farther[0] <= row["farther_fresh"] <= farther[1]


def test_a_held_out_set_is_not_tested_against_itself(alike):
    assert alike.loc["held_back", ["z_held_back", "farther_held_back"]].isna().all()
    assert abs(alike.loc["held_back", "z_fresh"]) < 3


def test_without_held_out_checkpoints_their_columns_are_unknown():
    found = table(**sets(held_back=normal(0, 0), fresh=normal(0, 0)))
    assert found.index.tolist() == ["original", "generated"]
    assert found.filter(regex="^(z|farther)_").isna().all(axis=None)


def test_a_single_original_tests_others_and_not_itself():
    found = table(**sets(original=normal(1, 0)))
    assert found.loc["original"].drop("models").isna().all()
    assert abs(found.loc["generated", "z_fresh"]) < 3


def test_identical_originals_are_their_own_copies():
    found = table(**sets(original=normal(1, 0).expand(40, -1)))
    assert found.loc["original", "farther_fresh"] == 0


def test_z_u_is_standard_normal_if_all_sets_are_drawn_alike():
    """|Z| > 1.96 in 5 %: of 300 simulations 15, within 3.3 binomial standard deviations."""
    scores = []
    for seed in range(300):
        sets = [normal(count, 3 * seed + i, 4) for i, count in enumerate((100, 60, 60))]
        near = [torch.cdist(each, sets[0]).amin(1).double().numpy() for each in sets[1:]]
        scores.append(mann_whitney(*near)[0])
    scores = np.array(scores)
    assert (np.abs(scores) > 1.96).mean() == pytest.approx(0.05, abs=0.042)
    assert scores.mean() == pytest.approx(0, abs=0.2)
    assert scores.std() == pytest.approx(1, abs=0.13)

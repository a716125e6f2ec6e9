"""The data-copying test against scipy, known answers, its own calibration, and ranks."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import mannwhitneyu, norm

from pdiff.audit.copying import (
    c_t,
    cells,
    copying_table,
    farther,
    farther_interval,
    nearest_rank,
    z_u,
)
from pdiff.audit.distances import distance_table, distances, distances_among, nearest

NAN = math.nan


def normal(models: int, seed: int, length: int = 8) -> torch.Tensor:
    return torch.randn(models, length, generator=torch.Generator().manual_seed(seed))


def table(**matrices: torch.Tensor) -> pd.DataFrame:
    return copying_table(matrices, distance_table(matrices), 100, 0).set_index("group")


def sets(seed: int = 0, **changed: torch.Tensor) -> dict[str, torch.Tensor]:
    """Originals, both held-out sets and generated models, all of one distribution."""
    made = {"original": normal(300, seed), "generated": normal(200, seed + 1)}
    return made | {"held_back": normal(50, seed + 2), "second_run": normal(100, seed + 3)} | changed


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
    assert farther(own, held_out) == pytest.approx(expected.statistic / (40 * 25))
    assert 2 * norm.sf(abs(z_u(own, held_out))) == pytest.approx(expected.pvalue)


def test_z_u_is_negative_if_models_are_nearer_than_held_out_ones():
    near, far = np.arange(1.0, 6), np.arange(6.0, 12)
    assert z_u(near, far) == pytest.approx(-15 / math.sqrt(5 * 6 * 12 / 12))
    assert z_u(far, near) == -z_u(near, far)
    assert farther(near, far) == 0
    assert farther(far, near) == 1


def test_z_u_of_equal_sets_is_zero():
    values = np.array([1.0, 2, 3, 5])
    assert z_u(values, values) == 0
    assert farther(values, values) == 0.5


def test_z_u_is_zero_if_all_distances_are_equal():
    assert z_u(np.zeros(4), np.zeros(3)) == 0


def test_z_u_leaves_out_what_has_no_distance():
    values, others = np.array([1.0, 2, 3]), np.array([2.5, 4])
    assert z_u(np.append(values, NAN), np.append(NAN, others)) == z_u(values, others)


@pytest.mark.parametrize("empty", [np.zeros(0), np.full(2, NAN)])
def test_z_u_against_nobody_is_unknown(empty):
    values = np.array([1.0, 2])
    for found in (z_u(values, empty), z_u(empty, values), farther(values, empty)):
        assert math.isnan(found)


def test_models_of_the_held_out_distribution_are_no_copies(alike):
    found = alike.loc["generated", ["z_held_back", "z_second_run", "c_t_second_run"]]
    assert found.astype(float).abs().max() < 3
    assert alike.loc["generated", "farther_second_run"] == pytest.approx(0.5, abs=0.1)


def test_originals_with_little_noise_are_copies(alike):
    found = alike.loc["noised"]
    assert found["z_held_back"] < -8 and found["z_second_run"] < -8
    assert found["c_t_held_back"] < -2 and found["c_t_second_run"] < -2
    assert found["farther_second_run"] == 0


def test_models_far_away_are_no_copies(alike):
    assert alike.loc["absolute", "z_second_run"] > 8
    assert alike.loc["absolute", "farther_second_run"] > 0.95


def test_a_held_out_set_is_not_tested_against_itself(alike):
    assert alike.loc["held_back", ["z_held_back", "farther_held_back"]].isna().all()
    assert abs(alike.loc["held_back", "z_second_run"]) < 3


def test_originals_stand_for_unseen_checkpoints_of_their_run(alike):
    """Each left out of the others, which are then one fewer."""
    assert abs(alike.loc["original", "z_second_run"]) < 3


def test_too_few_models_fill_no_cell(alike):
    assert alike.loc["ensemble", "cells_second_run"] == 0
    assert math.isnan(alike.loc["ensemble", "c_t_second_run"])
    assert alike.loc["ensemble", "z_second_run"] < 0


def test_c_t_weights_cells_by_their_held_out_checkpoints():
    """Cell 0 holds 20 models, cell 1 19, cell 2 no held-out checkpoint, cell 3 40 models."""
    random = np.random.default_rng(0)
    cell = np.repeat([0, 1, 2, 3], [20, 19, 20, 40])
    there = np.repeat([0, 1, 3], [6, 5, 12])
    own, held_out = random.random(len(cell)), random.random(len(there))
    parts = {c: z_u(own[cell == c], held_out[there == c]) for c in (0, 3)}
    found, count = c_t(own, cell, held_out, there)
    assert found == pytest.approx((6 * parts[0] + 12 * parts[3]) / 18)
    assert count == 2


def test_c_t_finds_copies_of_one_part_that_the_whole_hides():
    """Half of the models are copies, half lie far: together neither near nor far."""
    own, held_out = np.r_[np.zeros(50), np.full(50, 2.0)], np.ones(50)
    cell, there = np.repeat([0, 1], 50), np.zeros(50, np.int64)
    assert z_u(own, held_out) == 0
    assert c_t(own, cell, held_out, there)[0] < -8


def test_a_model_without_distance_fills_no_cell():
    own = np.r_[np.ones(19), NAN]
    assert c_t(own, np.zeros(20, np.int64), np.ones(3), np.zeros(3, np.int64))[1] == 0


def test_cells_follow_the_clusters_of_nearby_originals_far_from_zero():
    """Five clusters, apart by a ten-thousandth of the norm."""
    middle = 1000 + 0.2 * normal(5, 0, 200).repeat_interleave(30, 0)
    found = cells({"original": middle + 1e-3 * normal(150, 1, 200), "generated": middle[::30]}, 0)
    own = found["original"].reshape(5, 30)
    assert (own == own[:, :1]).all()
    assert sorted(own[:, 0]) == [0, 1, 2, 3, 4]
    assert found["generated"].tolist() == own[:, 0].tolist()


def rank(models: torch.Tensor, originals: torch.Tensor) -> list[float]:
    values, index = nearest(distances(models, originals))
    return nearest_rank(values.numpy(), index.numpy(), distances_among(originals)).tolist()


def line(*places: float) -> torch.Tensor:
    return torch.tensor(places, dtype=torch.float32)[:, None]


@pytest.mark.parametrize(
    ("place", "expected"), [(0, 1), (1.4, 1), (-0.5, 1), (-1.5, 2), (-4, 4), (20, 5)]
)
def test_the_rank_counts_originals_nearer_to_the_nearest_one(place, expected):
    """From -1.5 the nearest is 0, and 1 is nearer to it."""
    assert rank(line(place), line(0, 1, 2, 3, 5)) == [expected]


def test_originals_rank_among_the_others():
    """0 and 1 are nearest to each other; 4's nearest is 1, to which 0 is nearer."""
    matrices = {"original": line(0, 1, 4), "generated": line(0.5)}
    index = distance_table(matrices).query("group == 'original'")
    found = nearest_rank(
        index["nearest"].to_numpy(),
        index["nearest_original"].to_numpy(int),
        distances_among(matrices["original"]),
    )
    assert found.tolist() == [1, 1, 2]


def test_a_distance_that_differs_by_rounding_alone_is_not_nearer():
    """An original's own distance, computed from the other side."""
    among = torch.tensor([[NAN, 1.0, 5.0], [1.0, NAN, 4.0], [5.0, 4.0, NAN]], dtype=torch.float64)
    assert nearest_rank(np.array([1 + 1e-12]), np.array([0]), among).tolist() == [1]


def test_copies_have_rank_one_and_far_models_the_last(alike):
    assert alike.loc["noised", "rank_first"] == 1
    assert alike.loc["noised", "rank_median"] == 1
    found = table(**sets(generated=1000 + normal(5, 0)))
    assert found.loc["generated", "rank_median"] == 300
    assert found.loc["generated", "rank_first"] == 0


@pytest.mark.parametrize("missing", [True, False])
def test_without_held_out_checkpoints_their_columns_are_unknown(missing):
    matrices = sets(held_back=normal(0, 0), second_run=normal(0, 0))
    if missing:
        del matrices["held_back"], matrices["second_run"]
    found = table(**matrices)
    assert found.index.tolist() == ["original", "generated"]
    assert found.filter(regex="^(z|farther|c_t)_").isna().all(axis=None)
    assert (found.filter(like="cells_") == 0).all(axis=None)
    assert found["rank_median"].notna().all()


def test_a_single_original_tests_others_and_not_itself():
    found = table(**sets(original=normal(1, 0)))
    assert (
        found.loc["original"].drop(["models", "cells_held_back", "cells_second_run"]).isna().all()
    )
    assert abs(found.loc["generated", "z_second_run"]) < 3
    assert found.loc["generated", "rank_first"] == 1


def test_identical_originals_are_their_own_copies():
    found = table(**sets(original=normal(1, 0).expand(40, -1)))
    assert found.loc["original", "rank_first"] == 1
    assert found.loc["original", "farther_second_run"] == 0


def test_models_of_nan_weights_are_left_out():
    generated = normal(200, 1)
    expected = table(**sets(generated=generated[1:]))
    generated[0, 0] = NAN
    found = table(**sets(generated=generated))
    assert found.loc["generated", "models"] == 200
    pd.testing.assert_series_equal(
        found.loc["generated"].drop("models"), expected.loc["generated"].drop("models")
    )


def test_originals_of_nan_weights_are_left_out():
    originals = normal(300, 0)
    originals[3, 1] = NAN
    found = table(**sets(original=originals))
    assert found.loc["generated"].notna().all()
    assert found.loc["original", "rank_first"] > 0


def test_a_group_of_one_has_no_interval(alike):
    assert alike.loc["ensemble", "farther_second_run"] <= 0.2
    assert alike.loc["ensemble", ["farther_second_run_low", "farther_second_run_high"]].isna().all()


def test_the_interval_holds_the_share_and_copies_have_a_narrow_one(alike):
    found = alike.loc["generated"]
    low, high = found["farther_second_run_low"], found["farther_second_run_high"]
    assert low < found["farther_second_run"] < high
    assert high - low < 0.25
    assert alike.loc["noised", "farther_second_run_high"] == 0


def test_the_interval_covers_the_true_share():
    """Independent sets of 80 models and 100 held-out checkpoints, normals 0.5 apart."""
    hits, true = [], norm.cdf(0.5 / math.sqrt(2))
    for seed in range(200):
        random = np.random.default_rng(seed)
        own, held_out = random.normal(0.5, 1, 80), random.normal(0, 1, 100)
        low, high = farther_interval(own, held_out, 300, seed, False)
        hits.append(low <= true <= high)
    assert 0.88 <= np.mean(hits) <= 0.98


def test_the_interval_allows_for_neighbours_that_are_alike():
    """Each held-out distance ten times over says no more than once, in blocks of ten."""
    random = np.random.default_rng(0)
    own, held_out = random.normal(size=100), random.normal(size=10)
    few = farther_interval(own, held_out, 2000, 0, False)
    many = farther_interval(own, held_out.repeat(10), 2000, 0, False)
    assert many[1] - many[0] > 0.75 * (few[1] - few[0])


def null_scores(simulations: int, count: int, shared: bool = False) -> np.ndarray:
    """Z_U of sets that are independent draws of one distribution, with new or shared originals."""
    scores = []
    for seed in range(simulations):
        originals = normal(100, 0 if shared else 3 * seed, 4)
        own, held_out = (normal(count, 3 * seed + i, 4) for i in (1, 2))
        near = [torch.cdist(each, originals).amin(1).double().numpy() for each in (own, held_out)]
        scores.append(z_u(*near))
    return np.array(scores)


@pytest.mark.parametrize("shared", [False, True])
def test_z_u_is_standard_normal_under_the_null(shared):
    """Given the originals both sets' distances are independent and alike: sharing them is no harm.

    |Z| > 1.96 in 5 %: of 300 simulations 15, within 3.3 binomial standard deviations.
    """
    scores = null_scores(300, 60, shared)
    assert (np.abs(scores) > 1.96).mean() == pytest.approx(0.05, abs=0.042)
    assert scores.mean() == pytest.approx(0, abs=0.2)
    assert scores.std() == pytest.approx(1, abs=0.13)

"""Distances between models: points on a line, copies, and what is not finite."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from pdiff.audit.distances import (
    distance_summary,
    distance_table,
    distances,
    interpolation_index,
    nearest,
    outside_span,
)

NAN = math.nan


def line(*places: float) -> torch.Tensor:
    """Models of two parameters at these places on one line, five apart for one in place."""
    return torch.tensor([[3.0 * place, 4.0 * place] for place in places]).reshape(-1, 2)


def normal(models: int, seed: int, length: int = 20) -> torch.Tensor:
    return torch.randn(models, length, generator=torch.Generator().manual_seed(seed))


def groups(**changed: torch.Tensor) -> dict[str, torch.Tensor]:
    """Originals at 0, 1, 2, 3; held back at 4, 5; a fresh run at 10, 11; one generated at 2.25."""
    made = {"original": line(0, 1, 2, 3), "generated": line(2.25)}
    return made | {"held_back": line(4, 5), "fresh": line(10, 11)} | changed


def of(table: pd.DataFrame, group: str, column: str) -> list:
    return table.loc[table["group"] == group, column].tolist()


def summary(**changed: torch.Tensor) -> pd.DataFrame:
    table = distance_table(groups(**changed))
    return distance_summary(table).set_index("group")


def test_distances_of_points_on_a_line():
    assert distances(line(1), line(0, 1, 5)).tolist() == [[5.0, 0.0, 20.0]]


@pytest.mark.parametrize("step", [3e-3, 1e-4, 1e-6])
def test_nearby_models_far_from_zero_keep_their_distance(step):
    """Checkpoints that differ by a small share of their norm, which fp32 or |a|^2 would lose."""
    base = 1000 + normal(1, 0, 3000)
    models = (base.double() + step * 1000 * normal(6, 1, 3000)).float()
    exact = models.double().numpy()
    direct = np.linalg.norm(exact[:, None] - exact, axis=2)
    np.testing.assert_allclose(distances(models, models).numpy(), direct, rtol=1e-12)
    assert distances(models.clone(), models).diagonal().tolist() == [0.0] * 6  # copies


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_a_model_that_is_not_finite_has_no_distance_and_leaves_the_others_alone(bad):
    models, reference = line(0, 1, 2), line(0, 3)
    expected = distances(models, reference)
    models[1, 0] = bad
    found = distances(models, reference)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


def test_nothing_is_near_to_a_reference_that_is_not_finite_and_the_nearest_of_none_is_unknown():
    assert nearest(distances(line(0, 2), line(0, 3, NAN))).tolist() == [0.0, 5.0]
    for found in (torch.zeros(2, 0), torch.full((2, 3), NAN)):
        assert nearest(found.double()).isnan().tolist() == [True, True]


def test_originals_and_held_out_checkpoints_leave_out_themselves():
    table = distance_table(groups(original=line(0, 1, 3), fresh=line(10, 11, 13)))
    assert of(table, "original", "nearest") == pytest.approx([5, 5, 10])
    assert of(table, "fresh", "nearest_fresh") == pytest.approx([5, 5, 10])
    assert of(table, "fresh", "nearest") == pytest.approx([35, 40, 50])


def test_a_row_says_where_a_model_lies():
    row = distance_table(groups()).query("group == 'generated'").iloc[0]
    assert row["nearest"] == pytest.approx(1.25)
    assert row["nearest_held_back"] == pytest.approx(8.75)
    assert row["nearest_fresh"] == pytest.approx(38.75)
    assert row["interpolation_index"] == pytest.approx(0.75 / math.sqrt(1.25))


def test_a_single_original_has_no_neighbour_and_no_radius():
    table = distance_table(groups(original=line(2)))
    assert table.loc[0, ["nearest", "interpolation_index"]].isna().all()
    assert of(table, "generated", "nearest") == pytest.approx([1.25])
    assert table["interpolation_index"].isna().all()


def test_identical_originals_are_at_distance_zero_and_have_no_radius():
    same = normal(1, 0).expand(7, -1)
    table = distance_table({"original": same, "generated": same[:2]})
    assert set(table["nearest"]) == {0.0}
    assert table["interpolation_index"].isna().all()
    found = distance_summary(table)
    assert found["nearest_mean"].tolist() == [0.0, 0.0]
    assert found["nearest_relative"].isna().all()


def test_a_model_of_nan_weights_has_an_empty_row_and_is_nobodys_neighbour():
    table = distance_table(groups(original=line(0, 1, NAN, 3), generated=line(2.25, NAN)))
    columns = [name for name in table if name.startswith(("nearest", "interpolation"))]
    generated = table[table["group"] == "generated"]
    assert generated["nearest"].tolist() == pytest.approx([3.75, NAN], nan_ok=True)
    assert generated[columns].isna().all(axis=1).tolist() == [False, True]
    assert generated.iloc[0][columns].notna().all()
    assert of(table, "original", "nearest") == pytest.approx([5, 5, NAN, 10], nan_ok=True)
    assert distance_summary(table).set_index("group").loc["generated", "models"] == 2


@pytest.mark.parametrize("count", [2, 8, 32])
def test_a_mean_of_independent_originals_is_nearer_to_the_centre_by_their_root(count):
    originals = normal(2000, 0, 50)
    soups = originals.unfold(0, count, count).mean(-1)
    index = interpolation_index(soups, originals)
    assert index.mean().item() == pytest.approx(1 / math.sqrt(count), rel=0.05)


def test_fresh_points_have_an_interpolation_index_of_one_and_the_mean_has_zero():
    originals = normal(2000, 0, 50)
    fresh = interpolation_index(normal(500, 1, 50), originals)
    assert fresh.mean().item() == pytest.approx(1, abs=0.01)
    assert interpolation_index(originals.mean(0, dtype=torch.float64)[None], originals).item() == 0


def test_the_summary_of_a_group_by_hand():
    """At 1.75, 2.25 and 2.5: 0.25, 0.25 and 0.5 steps of five from an original."""
    found = summary(generated=line(1.75, 2.25, 2.5)).loc["generated"]
    assert found["models"] == 3
    assert found["nearest_mean"] == pytest.approx(5 / 3)
    assert found["nearest_median"] == pytest.approx(1.25)
    assert found["nearest_fresh_mean"] == pytest.approx((41.25 + 38.75 + 37.5) / 3)
    assert found["nearest_held_back_mean"] == pytest.approx((11.25 + 8.75 + 7.5) / 3)
    assert found["interpolation_mean"] == pytest.approx((0.25 + 0.75 + 1) / 3 / math.sqrt(1.25))
    assert found["outside_span_mean"] == pytest.approx(0, abs=1e-9)
    assert found["nearest_relative"] == pytest.approx(1 / 3)  # originals are one step apart


def test_mixtures_of_originals_lie_in_their_span_and_other_directions_outside():
    originals = torch.tensor([[0.0, 0, 0, 5], [2, 0, 0, 5], [0, 2, 0, 5]])
    mean = originals.mean(0)
    steps = torch.tensor([[1.0, -3, 0, 0], [0.0, 0, 0, 7], [3.0, 0, 4, 0]])
    found = outside_span(mean + steps, originals).tolist()
    assert found == pytest.approx([0, 1, 16 / 25], abs=1e-6)


def test_nothing_is_known_of_the_mean_itself_and_of_models_that_are_not_finite():
    models = torch.tensor([[1.0, 0], [NAN, 0], [1.0, 3]])
    found = outside_span(models, torch.tensor([[0.0, 0], [2.0, 0]])).tolist()
    assert found == pytest.approx([NAN, NAN, 1], nan_ok=True)


def test_of_a_single_original_and_of_equal_ones_everything_lies_outside():
    models = torch.tensor([[1.0, 4.0]])
    for count in (1, 3):
        assert outside_span(models, torch.ones(count, 2)).tolist() == pytest.approx([1])

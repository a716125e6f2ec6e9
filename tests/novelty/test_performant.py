"""Novel and performant: shares that can be counted by hand."""

import math

import pandas as pd
import pytest
from scipy.stats import norm

from pdiff.novelty.performant import MULTIPLES, performant_table


def tables(
    generated: list[tuple[float, float, float]], originals: tuple[float, ...] = (1.0, 1.0, 1.0)
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Generated models by (distance, accuracy, choosing accuracy); the bar is 0.8."""
    rows = [("original", d, 0.9, a) for d, a in zip(originals, (0.7, 0.8, 0.9), strict=False)]
    rows += [("generated", *row) for row in generated]
    both = pd.DataFrame(rows, columns=["group", "nearest", "accuracy", "choosing_accuracy"])
    both.insert(1, "model", both.groupby("group").cumcount())
    return both[["group", "model", "nearest"]], both.drop(columns="nearest")


def found(*arguments: object) -> pd.DataFrame:
    table = performant_table(*tables(*arguments))
    return table[table["group"] == "generated"].set_index("c")


def test_a_model_counts_up_to_its_distance():
    shares = found([(2.5, 0.9, 0.9), (5.0, 0.9, 0.9)])
    assert shares["novel_performant"].tolist() == [1, 1, 0.5, 0.5, 0]
    assert shares.index.tolist() == list(MULTIPLES)


def test_the_distance_is_in_units_of_the_originals_mean():
    shares = found([(2.5, 0.9, 0.9)], (1.0, 3.0, 5.0))
    assert set(shares["leave_one_out"]) == {3.0}
    assert shares.loc[1, "novel"] == 0


def test_as_far_as_the_unit_is_not_farther():
    assert found([(1.0, 0.9, 0.9)]).loc[1, "novel"] == 0


def test_the_bar_is_the_originals_mean_on_the_choosing_split():
    shares = found([(9.0, 0.85, 0.75), (9.0, 0.75, 0.85), (9.0, 0.85, 0.85), (9.0, 0.75, 0.75)])
    assert shares["bar"].tolist() == pytest.approx([0.8] * 5)
    assert shares.loc[1, "novel_performant"] == 0.5
    assert shares.loc[1, "novel_performant_choosing"] == 0.5
    assert shares.loc[1, "performant"] == 0.5


def test_each_accuracy_is_held_against_the_bar_by_itself():
    shares = found([(9.0, 0.9, 0.1)])
    assert shares.loc[1, "novel_performant"] == 1
    assert shares.loc[1, "novel_performant_choosing"] == 0


def test_as_accurate_as_the_bar_is_not_above_it():
    assert found([(9.0, 0.8, 0.8)]).loc[1, "novel_performant_choosing"] == 0


def test_a_model_without_distance_is_never_novel():
    shares = found([(math.nan, 0.9, 0.9), (9.0, 0.9, 0.9)])
    assert shares["novel"].tolist() == [0.5] * 5
    assert shares["novel_performant"].tolist() == [0.5] * 5


def test_a_copy_is_not_novel_and_performs():
    shares = found([(0.0, 0.9, 0.9)])
    assert shares["novel_performant"].tolist() == [0] * 5
    assert shares["performant"].tolist() == [1] * 5


def test_beside_a_single_original_nothing_is_known_to_be_novel():
    shares = found([(9.0, 0.9, 0.9)], (math.nan,))
    for column in ("novel", "novel_performant", "novel_performant_choosing_high"):
        assert shares[column].isna().all()
    assert shares["performant"].tolist() == [1] * 5


def test_beside_identical_originals_whatever_differs_is_novel():
    shares = found([(0.0, 0.9, 0.9), (1e-9, 0.9, 0.9)], (0.0, 0.0))
    assert shares["novel"].tolist() == [0.5] * 5


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (7, 20), (1, 1)])
def test_the_interval_is_wilsons(hits, count):
    models = [(9.0, 0.9, 0.9)] * hits + [(0.0, 0.9, 0.9)] * (count - hits)
    row, p, z = found(models).loc[1], hits / count, norm.ppf(0.975)
    centre = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    assert row["novel_performant_low"] == pytest.approx(centre - half, abs=1e-9)
    assert row["novel_performant_high"] == pytest.approx(centre + half, abs=1e-9)


def test_every_model_needs_its_row_in_both_tables():
    table, models = tables([(9.0, 0.9, 0.9)])
    with pytest.raises(ValueError, match="generated"):
        performant_table(table, models[models["group"] == "original"])

"""The Pareto front by hand."""

import pandas as pd
import pytest

from pdiff.audit.pareto import front_table, pareto_front


def models(*rows: tuple[float, float], groups: list[str] | None = None) -> pd.DataFrame:
    """Models by similarity and accuracy."""
    table = pd.DataFrame(rows, columns=["max_similarity", "accuracy"])
    return table.assign(group=groups or "generated")


def test_the_front_by_hand():
    table = models((0.9, 0.8), (0.5, 0.7), (0.6, 0.7), (0.95, 0.8), (0.4, 0.2), (0.5, 0.6))
    table.index = [7, 7, 3, 2, 1, 0]  # which does not matter
    assert pareto_front(table).tolist() == [True, True, False, False, True, False]


def test_a_model_without_similarity_is_not_on_the_front():
    assert pareto_front(models((float("nan"), 0.9), (0.5, 0.7))).tolist() == [False, True]


def test_groups_share_the_front():
    groups = ["original", "noised_0.1", "noised_0.1", "generated"]
    table = front_table(models((0.9, 0.8), (0.5, 0.7), (0.6, 0.6), (0.95, 0.8), groups=groups))
    assert table["group"].tolist() == ["original", "noised_0.1"]
    assert table["models"].tolist() == [1, 2]
    assert table["on_front"].tolist() == [1, 1]
    assert table["share_of_front"].tolist() == pytest.approx([1 / 2, 1 / 2])


def test_a_front_of_nobody_has_no_rows():
    assert front_table(models((float("nan"), 0.9))).empty

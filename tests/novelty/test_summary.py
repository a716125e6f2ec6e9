"""Tables from hand-made wrong predictions."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pdiff.baselines.registry import ordered
from pdiff.novelty import summary as module
from pdiff.novelty.bootstrap import Replicates
from pdiff.novelty.iou import similarity_within, wrong_iou
from pdiff.novelty.summary import (
    difference_table,
    headline,
    model_table,
    similarity_table,
    summary_table,
)

LABELS = torch.tensor([1, 2])


def wrong(*models: set[int]) -> torch.Tensor:
    """Which of ten images each model gets wrong."""
    return torch.tensor([[i in errors for i in range(10)] for errors in models])


GROUPS = {
    "noised_0.05": wrong({0, 1}, {0}),
    "generated": wrong({0, 1, 2}, {7, 8}),
    "original": wrong({0, 1}, {0, 1, 2, 3}, {4}),
    "ensemble": wrong({0}),
    "reconstructed": wrong({0, 1}, {0, 1}, {4}),
    "noised_0.001": wrong({0, 1}, {9}),
}
CHOOSING = {name: group.flip(0) for name, group in GROUPS.items()}


@pytest.fixture
def models() -> pd.DataFrame:
    return model_table(GROUPS, CHOOSING)


@pytest.fixture
def summary(models) -> pd.DataFrame:
    return summary_table(models, GROUPS).set_index("group")


def test_accuracies_and_similarities_of_each_model(models):
    generated = models[models["group"] == "generated"]
    assert generated["accuracy"].tolist() == pytest.approx([0.7, 0.8])
    assert generated["max_similarity"].tolist() == pytest.approx([3 / 4, 0])
    originals = models[models["group"] == "original"]
    assert originals["max_similarity"].tolist() == pytest.approx([0.5, 0.5, 0])
    assert originals["choosing_accuracy"].tolist() == pytest.approx([0.9, 0.6, 0.8])


def test_the_summary_counts_and_averages(summary):
    row = summary.loc["original"]
    assert row["models"] == 3
    assert row["accuracy_mean"] == pytest.approx((0.8 + 0.6 + 0.9) / 3)
    assert row["accuracy_best"] == pytest.approx(0.9)
    assert row["similarity_within"] == pytest.approx(0.5 / 3)
    # choosing accuracies are 0.9, 0.6, 0.8: the first model is chosen, not the best
    assert row["accuracy_chosen"] == pytest.approx(0.8)


def test_a_group_of_one_has_no_spread(summary):
    assert summary.loc["ensemble", ["accuracy_std", "similarity_within"]].isna().all()


def test_the_similarity_table_equals_the_plain_way(generator):
    sizes = {"original": 5, "generated": 4, "ensemble": 1, "noised_0.1": 3}
    errors = {g: torch.rand(n, 50, generator=generator) < 0.4 for g, n in sizes.items()}
    table = similarity_table(errors).set_index("group")
    for a in sizes:
        for b in sizes:
            plain = wrong_iou(errors[a], errors[b]).double().mean().item()
            plain = similarity_within(errors[a]) if a == b else plain
            assert table.loc[a, b] == pytest.approx(plain, abs=1e-12, nan_ok=True)


def test_groups_without_an_error_are_fully_similar_and_an_empty_one_not_at_all():
    none = torch.zeros(3, 10, dtype=torch.bool)
    table = similarity_table({"original": none, "generated": none[:2], "ema": none[:0]})
    assert table[["original", "generated"]].to_numpy()[:2].tolist() == [[1, 1], [1, 1]]
    assert table["ema"].isna().all()


def constant(value: float, similarity: float, shift: float = 0.0) -> Replicates:
    """Replicates around these values that all groups share, up to a `shift`."""
    images = np.linspace(-0.1, 0.1, 1001) + shift
    return Replicates(*[value + images] * 2, *[similarity + images] * 3)


@pytest.fixture
def differences(models) -> pd.DataFrame:
    replicates = {group: constant(0.5, 0.3, shift=0.2) for group in GROUPS}
    return difference_table(models, GROUPS, replicates).set_index("group")


def test_differences_are_the_generated_models_less_each_group(differences):
    assert list(differences.index) == ordered(GROUPS)
    row = differences.loc["original"]
    assert row["accuracy"] == pytest.approx(0.7667, abs=1e-4)
    assert row["accuracy_difference"] == pytest.approx(0.75 - 0.7667, abs=1e-4)
    assert row["similarity_difference"] == pytest.approx(3 / 8 - 1 / 3)
    assert row["similarity_within"] == pytest.approx(0.5 / 3)
    assert row["models"] == 3
    assert differences.loc["generated"].filter(like="difference").isna().all()


def test_paired_replicates_give_a_difference_no_width_and_an_estimate_its_own(differences):
    row = differences.loc["original"]
    for name in ("accuracy_difference", "similarity_difference"):
        assert row[f"{name}_low"] == pytest.approx(row[name])
        assert row[f"{name}_high"] == pytest.approx(row[name])
    ends = (row["accuracy"] - 0.095, row["accuracy"] + 0.095)
    assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx(ends)


def test_an_interval_of_a_share_ends_at_0_and_1(models):
    wide = {group: constant(0.5, 0.3) for group in GROUPS}
    for values in (wide["ensemble"].accuracy, wide["ensemble"].similarity):
        values[:] = np.linspace(-1, 2, 1001)
    row = difference_table(models, GROUPS, wide).set_index("group").loc["ensemble"]
    for name in ("accuracy", "max_similarity"):
        assert (row[f"{name}_low"], row[f"{name}_high"]) == (0, 1)
    assert row["accuracy_difference_high"] > 1


def test_a_single_original_has_no_similarity_to_differ_in():
    one = GROUPS | {"original": GROUPS["original"][:1]}
    replicates = {group: constant(0.5, 0.3) for group in one}
    replicates["original"] = constant(0.5, math.nan)
    table = difference_table(model_table(one, one), one, replicates)
    row = table.set_index("group").loc["original"]
    similar = row[[name for name in row.index if "similarity" in name]]
    assert similar.isna().all() and row["accuracy_difference_low"] <= 0


def test_wrong_predictions_are_those_of_all_files_in_the_order_of_tables(monkeypatch):
    files = {"a": {"noised_0.1": [[1, 0]]}, "b": {"original": [[0, 2], [1, 2]]}}

    def load(path, split):
        assert split == "test"
        return {g: torch.tensor(p).short() for g, p in files[path.name].items()}, LABELS

    monkeypatch.setattr(module, "load_predictions", load)
    errors = module.load_wrong([Path("a"), Path("b")], "test")
    assert list(errors) == ["original", "noised_0.1"]
    assert errors["original"].tolist() == [[True, False], [False, False]]
    assert errors["noised_0.1"].tolist() == [[False, True]]


def test_the_headline_compares_equal_numbers(models):
    numbers = headline(summary_table(models, GROUPS), models)
    assert numbers["n"] == 2
    # best of 2 out of 0.6, 0.8, 0.9: two draws of three give 0.9, one gives 0.8
    assert numbers["accuracy"]["original_best_of_n"] == pytest.approx((0.9 * 2 + 0.8) / 3)
    assert numbers["accuracy"]["generated_best_of_n"] == numbers["accuracy"]["generated_best"]
    assert numbers["accuracy"]["noised_0.001_mean"] == pytest.approx(0.85)
    assert numbers["similarity"]["reconstructed_within"] == pytest.approx(1 / 3)

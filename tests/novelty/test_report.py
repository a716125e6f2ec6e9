"""Tables from hand-made predictions."""

import numpy as np
import pandas as pd
import pytest
import torch

from pdiff.novelty.summary import (
    headline,
    model_table,
    plot_scatter,
    plot_similarity,
    save_table,
    similarity_table,
    summary_table,
)

LABELS = torch.zeros(10, dtype=torch.int64)


def predictions(*wrong: set[int]) -> torch.Tensor:
    return torch.tensor([[int(i in w) for i in range(10)] for w in wrong], dtype=torch.int16)


GROUPS = {
    "noised_0.05": predictions({0, 1}, {0}),
    "generated": predictions({0, 1, 2}, {7, 8}),
    "original": predictions({0, 1}, {0, 1, 2, 3}, {4}),
    "ensemble": predictions({0}),
    "reconstructed": predictions({0, 1}, {0, 1}, {4}),
    "noised_0.001": predictions({0, 1}, {9}),
}
CHOOSING = {name: group.flip(0) for name, group in GROUPS.items()}


@pytest.fixture
def models() -> pd.DataFrame:
    return model_table(GROUPS, LABELS, CHOOSING, LABELS)


@pytest.fixture
def summary(models) -> pd.DataFrame:
    return summary_table(models, GROUPS, LABELS).set_index("group")


def test_accuracies_and_similarities_of_each_model(models):
    generated = models[models["group"] == "generated"]
    assert generated["accuracy"].tolist() == pytest.approx([0.7, 0.8])
    assert generated["max_similarity"].tolist() == pytest.approx([3 / 4, 0])
    originals = models[models["group"] == "original"]
    assert originals["max_similarity"].tolist() == pytest.approx([0.5, 0.5, 0])


def test_the_summary_counts_and_averages(summary):
    row = summary.loc["original"]
    assert row["models"] == 3
    assert row["accuracy_mean"] == pytest.approx((0.8 + 0.6 + 0.9) / 3)
    assert row["accuracy_best"] == pytest.approx(0.9)
    assert row["similarity_within"] == pytest.approx(0.5 / 3)


def test_the_chosen_model_is_the_other_splits_best(summary):
    # choosing accuracies are 0.9, 0.6, 0.8: the first model is chosen, not the best
    assert summary.loc["original", "accuracy_chosen"] == pytest.approx(0.8)


def test_a_group_of_one_has_no_spread(summary):
    assert pd.isna(summary.loc["ensemble", "accuracy_std"])
    assert pd.isna(summary.loc["ensemble", "similarity_within"])


def test_similarity_between_groups(models):
    table = similarity_table(GROUPS, LABELS).set_index("group")
    assert table.loc["ensemble", "original"] == pytest.approx((1 / 2 + 1 / 4 + 0) / 3)
    assert table.loc["original", "ensemble"] == table.loc["ensemble", "original"]


def test_the_headline_compares_equal_numbers(models):
    numbers = headline(summary_table(models, GROUPS, LABELS), models)
    assert numbers["n"] == 2
    # best of 2 out of 0.6, 0.8, 0.9: two draws of three give 0.9, one gives 0.8
    assert numbers["accuracy"]["original_best_of_n"] == pytest.approx((0.9 * 2 + 0.8) / 3)
    assert numbers["accuracy"]["generated_best_of_n"] == numbers["accuracy"]["generated_best"]
    assert numbers["accuracy"]["noised_0.001_mean"] == pytest.approx(0.85)
    assert numbers["similarity"]["reconstructed_within"] == pytest.approx(1 / 3)


def test_figures_are_pictures_and_the_same_each_time(models, tmp_path):
    plots = (lambda path: plot_scatter(path, models, "test"), lambda p: plot_similarity(p, models))
    for plot in plots:
        for name in ("a.png", "b.png"):
            plot(tmp_path / name)
        first = (tmp_path / "a.png").read_bytes()
        assert first.startswith(b"\x89PNG")
        assert first == (tmp_path / "b.png").read_bytes()


def test_models_that_are_all_equally_good_have_a_figure(models, tmp_path):
    equal = models.assign(accuracy=np.float32(0.125))
    plot_scatter(tmp_path / "a.png", equal, "test")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_tables_are_plain_csv(tmp_path, models):
    save_table(tmp_path / "t.csv", models)
    assert pd.read_csv(tmp_path / "t.csv")["group"].tolist() == models["group"].tolist()

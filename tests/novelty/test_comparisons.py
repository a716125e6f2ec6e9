"""The generated models against rivals: made so that the answer is known."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from pdiff.config import SeedConfig
from pdiff.novelty.bootstrap import bootstrap, interval
from pdiff.novelty.comparisons import (
    at_equal_accuracy,
    comparisons,
    estimates,
    ladder_similarity,
    words,
)
from pdiff.novelty.inference import holm, mcnemar
from pdiff.novelty.iou import max_similarity, max_similarity_among

IMAGES, MODELS = 500, 12
SEEDS = SeedConfig(base=0, model=1)


def flipped(base: torch.Tensor, share: float, models: int, seed: int) -> torch.Tensor:
    """Models that err as `base` does, but for a share of images on which chance decides."""
    generator = torch.Generator().manual_seed(seed)
    anew = torch.rand(models, IMAGES, generator=generator) < share
    return torch.where(anew, torch.rand(models, IMAGES, generator=generator) < 0.2, base)


def make_groups() -> dict[str, torch.Tensor]:
    base = torch.rand(IMAGES, generator=torch.Generator().manual_seed(0)) < 0.2
    better = base & (torch.arange(IMAGES) % 2 == 0)
    found = {
        "original": flipped(base, 0.02, MODELS, 1),
        "ensemble": flipped(better, 0.0, 1, 2),
        "generated": flipped(better, 0.05, MODELS, 3),
        "soup_2": flipped(better, 0.05, MODELS, 4),
    }
    for seed, share in enumerate((0.0, 0.1, 0.4, 0.8), 5):
        worse = better | (torch.arange(IMAGES) < 150 * share - 7)
        found[f"noised_{share:g}"] = flipped(worse, share, MODELS, seed)
    return found


def make_models(wrong: dict[str, torch.Tensor]) -> pd.DataFrame:
    tables = []
    for group, errors in wrong.items():
        among = group == "original"
        similar = (
            max_similarity_among(errors) if among else max_similarity(errors, wrong["original"])
        )
        accuracy = 1 - errors.double().mean(1)
        columns = {"group": group, "accuracy": accuracy, "max_similarity": similar.double()}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def wrong() -> dict[str, torch.Tensor]:
    return make_groups()


@pytest.fixture(scope="module")
def replicates(wrong) -> pd.DataFrame:
    return bootstrap(wrong, wrong, 400, SEEDS)


@pytest.fixture(scope="module")
def table(wrong, replicates) -> pd.DataFrame:
    return comparisons(make_models(wrong), replicates, wrong, wrong).set_index("group")


def test_intervals_hold_their_estimates_though_maxima_grow_on_fewer_images(table, replicates):
    raw = replicates["ensemble_max_similarity"] - replicates["generated_max_similarity"]
    for question in ("accuracy", "novelty"):
        low, high = table[f"{question}_low"], table[f"{question}_high"]
        assert (table[f"{question}_difference"].between(low, high)).all()
    assert abs(raw.mean() - table.loc["ensemble", "novelty_difference"]) > 1e-3


def test_every_rival_has_one_row_in_the_order_of_tables(table):
    levels = [f"noised_{level}" for level in ("0", "0.1", "0.4", "0.8")]
    assert list(table.index) == ["original", "ensemble", "soup_2", *levels]
    assert table["models"].tolist() == [12, 1, 12, 12, 12, 12, 12]


def test_differences_are_those_of_the_models(table, wrong):
    def accuracy(group: str) -> float:
        return 1 - wrong[group].double().mean().item()

    expected = accuracy("generated") - accuracy("original")
    assert table.loc["original", "accuracy_difference"] == pytest.approx(expected)
    similar = (
        max_similarity_among(wrong["original"]).mean()
        - max_similarity(wrong["generated"], wrong["original"]).mean()
    )
    found = table.loc["original", "novelty_difference"]
    assert found == pytest.approx(similar.item(), abs=1e-6)


def test_generated_models_that_are_better_and_more_novel_than_originals_hold(table):
    row = table.loc["original"]
    assert row["accuracy_word"] == row["novelty_word"] == row["chosen_word"] == "holds"
    assert row["accuracy_low"] > 0 and row["novelty_low"] > 0


def test_of_a_rival_of_the_same_kind_nothing_can_be_told(table):
    row = table.loc["soup_2"]
    assert row["accuracy_word"] == row["novelty_word"] == "cannot tell"
    assert row["accuracy_low"] < 0 < row["accuracy_high"]
    width = row["accuracy_high"] - row["accuracy_low"]
    assert row["accuracy_detectable"] == pytest.approx(width / 2)


def test_less_novel_than_heavy_noise_does_not_hold(table):
    assert table.loc["noised_0.8", "novelty_word"] == "does not hold"
    assert table.loc["noised_0.8", "novelty_high"] < 0


def test_chosen_models_are_compared_by_mcnemars_test(wrong, replicates):
    choosing = {group: torch.ones(len(e), 3, dtype=torch.bool) for group, e in wrong.items()}
    choosing["generated"][4] = choosing["original"][7] = False
    found = comparisons(make_models(wrong), replicates, wrong, choosing).set_index("group")
    a, b = wrong["generated"][4], wrong["original"][7]
    assert found.loc["original", "chosen_p"] == mcnemar(a, b)
    difference = (b.double().mean() - a.double().mean()).item()
    assert found.loc["original", "chosen_difference"] == pytest.approx(difference)
    other = mcnemar(a, wrong["soup_2"][0])
    assert found.loc["soup_2", "chosen_p"] == other


@pytest.mark.parametrize("question", ["accuracy", "novelty", "chosen"])
def test_p_values_are_adjusted_over_the_table(table, question):
    adjusted = holm(table[f"{question}_p"].to_numpy())
    np.testing.assert_allclose(table[f"{question}_holm"], adjusted)
    decided = table[f"{question}_word"] != "cannot tell"
    assert decided.tolist() == (adjusted <= 0.05).tolist()


def test_words_follow_the_interval(table):
    for question in ("accuracy", "novelty"):
        low, high = table[f"{question}_low"], table[f"{question}_high"]
        expected = np.select([low > 0, high < 0], ["holds", "does not hold"], "cannot tell")
        assert table[f"{question}_word"].tolist() == expected.tolist()


def test_words_at_the_edges():
    nan = math.nan
    p_values, sides = np.array([0.05, 0.05, 0.051, nan, 0.01]), np.array([1.0, -1, 1, 1, nan])
    expected = ["holds", "does not hold", "cannot tell", "cannot tell", "cannot tell"]
    assert words(p_values, sides) == expected


def test_identical_models_differ_by_nothing_and_nothing_can_be_told(wrong):
    same = {group: wrong["original"][:1].expand(3, -1) for group in ("original", "generated")}
    found = comparisons(make_models(same), bootstrap(same, same, 50, SEEDS), same, same)
    row = found.iloc[0]
    assert [row[f"{q}_difference"] for q in ("accuracy", "novelty", "chosen")] == [0, 0, 0]
    assert [row[f"{q}_word"] for q in ("accuracy", "novelty", "chosen")] == ["cannot tell"] * 3
    assert (row["accuracy_low"], row["accuracy_high"], row["accuracy_p"]) == (0, 0, 1)


def test_a_single_original_has_no_novelty_to_compare_and_does_not_count_as_a_test(wrong):
    few = wrong | {"original": wrong["original"][:1]}
    found = comparisons(make_models(few), bootstrap(few, few, 200, SEEDS), few, few)
    row = found.set_index("group").loc["original"]
    assert math.isnan(row["novelty_difference"]) and math.isnan(row["novelty_holm"])
    assert row["novelty_word"] == "cannot tell" and row["accuracy_word"] == "holds"
    assert found["novelty_holm"].notna().sum() == len(found) - 1


# similarity at equal accuracy


def test_estimates_bear_the_names_of_the_bootstraps_columns(wrong, replicates):
    found = estimates(make_models(wrong))
    assert set(found.index) <= set(replicates) and len(found) == 2 * len(wrong)
    assert found["ensemble"] == pytest.approx(1 - wrong["ensemble"].double().mean().item())


def constant(**columns: float) -> pd.DataFrame:
    return pd.DataFrame({name: [value] * 40 for name, value in columns.items()})


LADDER = {
    "generated_mean": 0.7,
    "generated_max_similarity": 0.6,
    "noised_0.1_mean": 0.8,
    "noised_0.1_max_similarity": 0.9,
    "noised_0.05_mean": 0.9,
    "noised_0.05_max_similarity": 1.0,
    "noised_1_mean": 0.4,
    "noised_1_max_similarity": 0.5,
    "absolute_0.06_mean": 0.9,
    "absolute_0.06_max_similarity": 0.95,
    "soup_greedy_mean": 0.7,
    "soup_greedy_max_similarity": 0.1,
}


def models_of(columns: dict[str, float]) -> pd.DataFrame:
    groups = [name.removesuffix("_mean") for name in columns if name.endswith("_mean")]
    rows = [(g, columns[f"{g}_mean"], columns[f"{g}_max_similarity"]) for g in groups]
    return pd.DataFrame(rows, columns=["group", "accuracy", "max_similarity"])


def test_a_ladder_is_climbed_by_rising_level_and_interpolated():
    assert at_equal_accuracy("noised", constant(**LADDER)) == pytest.approx(np.full(40, 0.8))


def test_the_row_of_a_ladder_by_hand():
    found = ladder_similarity(models_of(LADDER), constant(**LADDER)).set_index("ladder")
    assert list(found.index) == ["noised", "absolute"]  # the greedy soup is no level
    row = found.loc["noised"]
    assert (row["levels"], row["no_overlap"]) == (3, 0)
    ends = row[["accuracy", "similarity", "low", "high", "generated_similarity"]].tolist()
    assert ends == pytest.approx([0.7, 0.8, 0.8, 0.8, 0.6])
    differences = row[["difference", "difference_low", "difference_high"]].tolist()
    assert differences == pytest.approx([0.2, 0.2, 0.2]) and row["p"] == pytest.approx(1 / 41)


def test_a_ladder_that_nowhere_has_the_accuracy_has_no_overlap():
    found = ladder_similarity(models_of(LADDER), constant(**LADDER)).set_index("ladder")
    row = found.loc["absolute"]
    assert row["no_overlap"] == 1
    assert row[["similarity", "low", "high", "difference", "p"]].isna().all()


def test_replicates_without_overlap_are_counted_and_left_out_of_the_interval():
    frame = constant(**LADDER)
    frame.loc[:9, "generated_mean"] = 0.95
    row = ladder_similarity(models_of(LADDER), frame).iloc[0]
    assert row["no_overlap"] == 0.25
    assert (row["low"], row["high"]) == pytest.approx((0.8, 0.8))
    assert row["p"] == pytest.approx(0.5)


def test_noise_of_equal_accuracy_on_real_replicates(wrong, replicates):
    row = ladder_similarity(make_models(wrong), replicates).set_index("ladder").loc["noised"]
    assert row["low"] <= row["similarity"] <= row["high"]
    draws = at_equal_accuracy("noised", replicates)
    more = draws - replicates["generated_max_similarity"]
    more += row["difference"] - more.mean()
    expected = interval(more[~np.isnan(draws)])
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(expected)


def test_without_ladders_there_are_no_rows(wrong, replicates):
    columns = [c for c in replicates if not c.startswith(("noised", "soup"))]
    assert ladder_similarity(make_models(wrong), replicates[columns]).empty

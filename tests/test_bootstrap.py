"""Bootstrap replicates: against true values, textbook formulas and a computation without tricks."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from pdiff.bootstrap import bootstrap, interval
from pdiff.novelty import max_similarity, max_similarity_among
from pdiff.runtime import make_generator

SEEDS = {"original": 0, "generated": 1}
IMAGES = 400


def coins(models: int, rate: float, seed: int, images: int = IMAGES) -> torch.Tensor:
    """Models that err on each image by chance, (M, N)."""
    return torch.rand(models, images, generator=torch.Generator().manual_seed(seed)) < rate


def groups(**changed: torch.Tensor) -> dict[str, torch.Tensor]:
    made = {"original": coins(5, 0.3, 0), "generated": coins(7, 0.2, 1)}
    return made | {"ensemble": coins(1, 0.1, 2)} | changed


@pytest.fixture(scope="module")
def replicates() -> pd.DataFrame:
    return bootstrap(groups(), 2000, SEEDS)


def test_means_of_replicates_are_the_true_accuracies(replicates):
    wrong = groups()
    for column, name in (
        ("original_mean", "original"),
        ("generated_mean", "generated"),
        ("ensemble", "ensemble"),
    ):
        true = 1 - wrong[name].double().mean().item()
        error = replicates[column].std() / math.sqrt(len(replicates))
        assert replicates[column].mean() == pytest.approx(true, abs=4 * error)


def test_the_standard_error_of_one_model_is_the_binomials(replicates):
    p = 1 - groups()["ensemble"].double().mean().item()
    assert replicates["ensemble"].std() == pytest.approx(math.sqrt(p * (1 - p) / IMAGES), rel=0.08)


def test_models_are_drawn_too():
    """Models that differ much: the mean of M varies by std / sqrt(M), though all images agree."""
    rates = torch.tensor([0.0, 1.0])
    generated = rates.repeat(8)[:, None].expand(-1, IMAGES).bool()
    found = bootstrap(groups(generated=generated), 2000, SEEDS)["generated_mean"]
    assert found.std() == pytest.approx(0.5 / math.sqrt(16), rel=0.08)


def test_the_best_is_the_best_of_the_models_drawn():
    generated = torch.ones(2, IMAGES, dtype=torch.bool)
    generated[0] = False
    found = bootstrap(groups(generated=generated), 2000, SEEDS)["generated_best"]
    assert set(found) == {0.0, 1.0}
    assert found.mean() == pytest.approx(0.75, abs=0.04)


def test_two_experiments_draw_the_same_images():
    """Whatever their other models and seeds are."""
    shared = coins(1, 0.1, 2)
    first = bootstrap(groups(ensemble=shared), 50, SEEDS)
    others = {"original": coins(9, 0.5, 3), "generated": coins(2, 0.4, 4), "ensemble": shared}
    second = bootstrap(others, 50, {"original": 5, "generated": 6})
    assert first["ensemble"].tolist() == second["ensemble"].tolist()
    assert first["ensemble"].nunique() > 10
    assert first["original_mean"].corr(second["original_mean"]) < 0.9


def test_the_same_seeds_give_the_same_replicates_and_others_draw_other_models():
    first, again = (bootstrap(groups(), 20, SEEDS) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    other = bootstrap(groups(), 20, SEEDS | {"generated": 2})
    assert (first["original_mean"] == other["original_mean"]).all()
    assert (first["generated_mean"] != other["generated_mean"]).any()


def test_identical_originals_are_fully_similar():
    same = coins(1, 0.3, 0).expand(4, -1)
    found = bootstrap(groups(original=same, generated=same), 50, SEEDS)
    for name in ("original", "generated"):
        for end in ("", "_low", "_high"):
            assert set(found[f"{name}_max_similarity{end}"]) == {1.0}


def test_models_without_errors_are_identical():
    none = torch.zeros(3, IMAGES, dtype=torch.bool)
    found = bootstrap({"original": none, "generated": none, "ensemble": none[:1]}, 5, SEEDS)
    assert set(found["original_max_similarity"]) == {1.0} == set(found["generated_max_similarity"])
    assert set(found["ensemble"]) == {1.0}


def test_a_single_original_has_no_similarity_and_the_rest_stays():
    found = bootstrap(groups(original=coins(1, 0.3, 0)), 20, SEEDS)
    undefined = [name for name in found if found[name].isna().any()]
    assert undefined == [
        "original_max_similarity",
        "original_max_similarity_low",
        "original_max_similarity_high",
    ]
    assert found[undefined].isna().all(axis=None)


def test_replicates_equal_a_direct_computation():
    """Without grouping images by their pattern of errors: every replicate's images in full."""
    wrong = {
        "original": coins(4, 0.4, 0, 30),
        "generated": coins(3, 0.3, 1, 30),
        "ensemble": coins(1, 0.2, 2, 30),
    }
    images = make_generator(30, "bootstrap", "images")
    models = {name: make_generator(seed, "bootstrap", name) for name, seed in SEEDS.items()}
    rows = []
    for _ in range(25):
        shown = torch.randint(30, (30,), generator=images)
        row = {"ensemble": 1 - wrong["ensemble"][0, shown].float().mean().item()}
        for name, generator in models.items():
            count = len(wrong[name])
            drawn = torch.randint(count, (count,), generator=generator)
            accuracy = 1 - wrong[name][drawn][:, shown].float().mean(1)
            originals, own = wrong["original"][:, shown], wrong[name][:, shown]
            similar = (
                max_similarity_among(own) if name == "original" else max_similarity(own, originals)
            )[drawn]
            row |= {
                f"{name}_best": accuracy.max().item(),
                f"{name}_mean": accuracy.mean().item(),
                f"{name}_max_similarity": similar.mean().item(),
                f"{name}_max_similarity_low": similar.min().item(),
                f"{name}_max_similarity_high": similar.max().item(),
            }
        rows.append(row)
    pd.testing.assert_frame_equal(bootstrap(wrong, 25, SEEDS), pd.DataFrame(rows), atol=1e-6)


def test_the_interval_holds_the_middle_95_percent():
    assert interval(pd.Series(range(1001))) == pytest.approx((25.0, 975.0))
    assert interval(np.array([1.0, 2.0, 3.0]), level=0.0) == (2.0, 2.0)


def test_the_interval_of_an_undefined_number_is_undefined():
    assert all(math.isnan(end) for end in interval(np.array([0.5, math.nan])))

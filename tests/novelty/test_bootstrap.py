"""Bootstrap replicates: against true values, textbook formulas and a computation without tricks."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.signal import lfilter

from pdiff.config import SeedConfig
from pdiff.core.runtime import make_generator
from pdiff.novelty import bootstrap as module
from pdiff.novelty.bootstrap import interval, preference, weighted_iou
from pdiff.novelty.iou import max_similarity, max_similarity_among, wrong_iou
from pdiff.novelty.series import block_length, draw_blocks, draws_for_mean
from pdiff.system.errors import InputError

SEEDS = SeedConfig(base=0, model=1)
IMAGES = 400


def coins(models: int, rate: float, seed: int, images: int = IMAGES) -> torch.Tensor:
    """Models that err on each image by chance, (M, N)."""
    return torch.rand(models, images, generator=torch.Generator().manual_seed(seed)) < rate


def groups(**changed: torch.Tensor) -> dict[str, torch.Tensor]:
    made = {"original": coins(5, 0.3, 0), "generated": coins(7, 0.2, 1)}
    return made | {"ensemble": coins(1, 0.1, 2)} | changed


def bootstrap(
    wrong: dict[str, torch.Tensor], replicates: int, seeds: SeedConfig = SEEDS
) -> pd.DataFrame:
    """Where the split that chooses is the one that is reported."""
    return module.bootstrap(wrong, wrong, replicates, seeds)


@pytest.fixture(scope="module")
def replicates() -> pd.DataFrame:
    return bootstrap(groups(), 2000)


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
    found = bootstrap(groups(generated=generated), 2000)["generated_mean"]
    assert found.std() == pytest.approx(0.5 / math.sqrt(16), rel=0.08)


def test_the_best_is_the_best_of_the_models_drawn():
    generated = torch.ones(2, IMAGES, dtype=torch.bool)
    generated[0] = False
    found = bootstrap(groups(generated=generated), 2000)["generated_best"]
    assert set(found) == {0.0, 1.0}
    assert found.mean() == pytest.approx(0.75, abs=0.04)


def test_two_experiments_draw_the_same_images():
    """Whatever their other models and seeds are."""
    shared = coins(1, 0.1, 2)
    first = bootstrap(groups(ensemble=shared), 50)
    others = {"original": coins(9, 0.5, 3), "generated": coins(2, 0.4, 4), "ensemble": shared}
    second = bootstrap(others, 50, SeedConfig(base=5, model=6))
    assert first["ensemble"].tolist() == second["ensemble"].tolist()
    assert first["ensemble"].nunique() > 10
    assert first["original_mean"].corr(second["original_mean"]) < 0.9


def test_the_same_seeds_give_the_same_replicates_and_others_draw_other_models():
    first, again = (bootstrap(groups(), 20) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    other = bootstrap(groups(), 20, SeedConfig(base=0, model=2))
    assert (first["original_mean"] == other["original_mean"]).all()
    assert (first["generated_mean"] != other["generated_mean"]).any()


def test_identical_originals_are_fully_similar():
    same = coins(1, 0.3, 0).expand(4, -1)
    found = bootstrap(groups(original=same, generated=same), 50)
    for name in ("original", "generated"):
        for end in ("", "_low", "_high"):
            assert set(found[f"{name}_max_similarity{end}"]) == {1.0}


def test_models_without_errors_are_identical():
    none = torch.zeros(3, IMAGES, dtype=torch.bool)
    found = bootstrap({"original": none, "generated": none, "ensemble": none[:1]}, 5)
    assert set(found["original_max_similarity"]) == {1.0} == set(found["generated_max_similarity"])
    assert set(found["ensemble"]) == {1.0}


def test_a_single_original_has_no_similarity_and_the_rest_stays():
    found = bootstrap(groups(original=coins(1, 0.3, 0)), 20)
    undefined = [name for name in found if found[name].isna().any()]
    assert undefined == [
        "original_max_similarity",
        "original_max_similarity_low",
        "original_max_similarity_high",
    ]
    assert found[undefined].isna().all(axis=None)


def drifting(models: int, images: int, seed: int = 0, rate: float = 0.4) -> torch.Tensor:
    """Models of a run: each image's chance to err drifts as a random walk does."""
    generator = torch.Generator().manual_seed(seed)
    walk = torch.randn(models, 1, generator=generator).cumsum(0) * 0.3
    return torch.rand(models, images, generator=generator) < torch.sigmoid(walk) * 2 * rate


def test_replicates_equal_a_direct_computation():
    """Every replicate's images and models in full, none of them grouped or left out."""
    wrong = {
        "generated": coins(3, 0.3, 1, 30),
        "original": drifting(40, 30),
        "ensemble": coins(1, 0.2, 2, 30),
        "soup_2": coins(4, 0.3, 5, 30),
        "latent_gaussian": coins(2, 0.3, 6, 30),
        "held_back": drifting(30, 30, seed=3),
    }
    choosing = {group: coins(len(errors), 0.4, 7, 20) for group, errors in wrong.items()}
    images = make_generator(30, "bootstrap", "images")
    seeds = dict.fromkeys(wrong, SEEDS.base) | {"generated": 1, "latent_gaussian": 1}
    models = {name: make_generator(seed, "bootstrap", name) for name, seed in seeds.items()}
    series = {name: 1 - wrong[name].double().mean(1).numpy() for name in ("original", "held_back")}
    lengths = {name: block_length(series[name]) if name in series else 1 for name in wrong}
    assert lengths["original"] > 3 < lengths["held_back"]
    rows = []
    for _ in range(25):
        shown, row = torch.randint(30, (30,), generator=images), {}
        for name, generator in models.items():
            count = len(wrong[name])
            drawn = draw_blocks(count, lengths[name], generator)
            some = draws_for_mean(series[name], lengths[name]) if name in series else count
            accuracy = 1 - wrong[name][drawn][:, shown].double().mean(1)
            originals, own = wrong["original"][:, shown], wrong[name][:, shown]
            similar = (
                max_similarity_among(own) if name == "original" else max_similarity(own, originals)
            )[drawn]
            row["ensemble" if name == "ensemble" else f"{name}_mean"] = (
                accuracy[:some].mean().item()
            )
            row[f"{name}_max_similarity"] = similar[:some].mean().item()
            if name in ("original", "generated"):
                liked = 1 - choosing[name][drawn].double().mean(1).numpy()
                row |= {
                    f"{name}_best": accuracy.max().item(),
                    f"{name}_chosen": accuracy[min(drawn[liked == liked.max()]) == drawn][0].item(),
                    f"{name}_max_similarity_low": similar.min().item(),
                    f"{name}_max_similarity_high": similar.max().item(),
                }
        rows.append(row)
    found = module.bootstrap(wrong, choosing, 25, SEEDS)
    pd.testing.assert_frame_equal(found, pd.DataFrame(rows), atol=1e-6, check_like=True)


def test_a_run_is_drawn_in_blocks_so_that_its_mean_varies_more():
    run, shuffled = drifting(100, IMAGES), drifting(100, IMAGES)
    shuffled = shuffled[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    spread = [
        bootstrap(groups(original=errors), 300)["original_mean"].std() for errors in (run, shuffled)
    ]
    assert spread[0] > 2 * spread[1]


def test_the_best_of_a_run_is_the_best_of_all_its_draws():
    """The mean averages fewer, but the best would be too low if it were the best of those."""
    run = drifting(60, IMAGES)
    drawn = module._draw("original", run, 200, SEEDS)
    assert drawn.averaged < 60
    found = bootstrap(groups(original=run), 200)
    weights = module._image_weights(IMAGES, 200)
    accuracy = (1 - weights @ run.float().T / IMAGES).gather(1, drawn.models).amax(1)
    torch.testing.assert_close(torch.tensor(found["original_best"]).float(), accuracy)


def test_the_chosen_model_is_the_first_that_the_choosing_split_likes_best():
    assert preference(torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1]]).bool()).tolist() == [2, 0, 1]


def test_a_chosen_model_keeps_its_own_accuracy_on_the_split_that_is_reported():
    wrong = groups(generated=torch.tensor([[False], [True]]).expand(-1, IMAGES))
    choosing = wrong | {"generated": ~wrong["generated"]}
    found = module.bootstrap(wrong, choosing, 400, SEEDS)["generated_chosen"]
    assert set(found) == {0.0, 1.0}
    assert found.mean() == pytest.approx(0.25, abs=0.07)  # only if the worse is not drawn


def test_a_group_draws_the_same_models_whatever_other_groups_there_are():
    alone = bootstrap(groups(), 20)
    beside = bootstrap({"soup_2": coins(3, 0.2, 8), **groups()}, 20)
    pd.testing.assert_frame_equal(alone, beside[alone.columns])


def test_every_group_has_a_mean_and_a_maximum_similarity():
    wrong = groups(noised_0=groups()["original"][:2], ema=coins(1, 0.2, 3))
    found = bootstrap(wrong, 10)
    assert set(found["noised_0_max_similarity"]) == {1.0}
    assert {"ema_mean", "ema_max_similarity", "ensemble_max_similarity"} <= set(found)
    assert "ensemble_mean" not in found and "ema_best" not in found


def test_a_group_without_models_is_refused_by_name():
    with pytest.raises(InputError, match="groups without a model: soup_2"):
        bootstrap(groups(soup_2=torch.zeros(0, IMAGES, dtype=torch.bool)), 5)


def test_the_weighted_iou_is_that_of_repeated_images():
    a, b = coins(4, 0.3, 0, 12), coins(3, 0.5, 1, 12)
    times = torch.tensor([0, 1, 2, 3] * 3)
    repeated = [errors.repeat_interleave(times, 1) for errors in (a, b)]
    found = weighted_iou(a.float(), b.float(), times.float())
    torch.testing.assert_close(found, wrong_iou(*repeated))


def two_level_coverage(sets: int = 500, replicates: int = 100) -> float:
    """How often the interval holds the true difference of mean accuracies, of 40 models each.

    A model errs on an image if its level, the image's difficulty and chance add up to more than 0,
    all normal, so that true accuracies are known. The originals' levels are autocorrelated.
    """
    random, hits = np.random.default_rng(0), 0
    means = {"original": -1.0, "generated": -1.2}
    true = {g: stats.norm.sf(m / math.sqrt(1 + 0.3**2 + 0.5**2)) for g, m in means.items()}
    for _ in range(sets):
        images, wrong = random.normal(size=150), {}
        for group, mean in means.items():
            phi = 0.6 if group == "original" else 0.0
            noise = random.normal(0, 0.3 * math.sqrt(1 - phi**2), size=100)
            levels = lfilter([1], [1, -phi], noise)[-40:, None]
            chance = random.normal(0, 0.5, size=(40, 150))
            wrong[group] = torch.from_numpy(mean + levels + images + chance > 0)
        found = bootstrap(wrong, replicates)
        low, high = interval(found["generated_mean"] - found["original_mean"])
        hits += low <= true["generated"] - true["original"] <= high
    return hits / sets


def test_the_two_level_bootstrap_covers_a_difference_of_accuracies(monkeypatch):
    """Single pairs of model and image count up to three times (Owen 2007), so more than 95 % is
    right, and less than 93 % would be wrong. Similarities are left out to save time."""
    monkeypatch.setattr(
        module,
        "_max_similarities",
        lambda wrong, weights, counts, draws: {g: torch.zeros_like(c) for g, c in counts.items()},
    )
    assert two_level_coverage() >= 0.93


def test_without_drawing_models_the_interval_would_cover_less(monkeypatch):
    """The same simulation, so that the test above can fail."""
    monkeypatch.setattr(
        module,
        "_draw",
        lambda group, errors, replicates, seeds: module.Draws(
            torch.arange(len(errors)).expand(replicates, -1), len(errors)
        ),
    )
    monkeypatch.setattr(
        module,
        "_max_similarities",
        lambda wrong, weights, counts, draws: {g: torch.zeros_like(c) for g, c in counts.items()},
    )
    assert two_level_coverage(200) < 0.88


def test_the_interval_holds_the_middle_95_percent():
    assert interval(pd.Series(range(1001))) == pytest.approx((25.0, 975.0))
    assert interval(np.array([1.0, 2.0, 3.0]), level=0.0) == (2.0, 2.0)


def test_the_interval_of_an_undefined_number_is_undefined():
    assert all(math.isnan(end) for end in interval(np.array([])))
    assert all(math.isnan(end) for end in interval(np.array([0.5, math.nan])))

"""Bootstrap replicates: against true values, textbook formulas and a computation without tricks."""

import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from pdiff.core.runtime import make_generator
from pdiff.novelty import bootstrap as module
from pdiff.novelty.bootstrap import (
    Replicates,
    bootstrap,
    by_group,
    interval_around,
    save_replicates,
)
from pdiff.novelty.iou import max_similarity, max_similarity_among

IMAGES = 400


def coins(models: int, rate: float, seed: int, images: int = IMAGES) -> torch.Tensor:
    """Models that err on each image by chance, (M, N)."""
    return torch.rand(models, images, generator=torch.Generator().manual_seed(seed)) < rate


def groups(**changed: torch.Tensor) -> dict[str, torch.Tensor]:
    made = {"original": coins(5, 0.3, 0), "generated": coins(7, 0.2, 1)}
    return made | {"ensemble": coins(1, 0.1, 2)} | changed


def drawn(count: int, seed: int = 1, **changed: torch.Tensor) -> dict[str, Replicates]:
    return bootstrap(groups(**changed), count, seed)


def test_models_without_errors_are_identical():
    none = torch.zeros(3, IMAGES, dtype=torch.bool)
    found = drawn(5, original=none, generated=none)
    assert {*found["original"].similarity, *found["generated"].similarity} == {1.0}


def test_a_single_original_has_no_similarity_and_the_rest_stays():
    undefined = [
        (group, name)
        for group, own in drawn(20, original=coins(1, 0.3, 0)).items()
        for name, values in asdict(own).items()
        if np.isnan(values).any()
    ]
    names = ("similarity", "similarity_low", "similarity_high")
    assert undefined == [("original", name) for name in names]


def test_replicates_equal_a_direct_computation():
    """Every replicate's images and models in full, whatever the order of the groups.

    The images depend on their number alone, so that two runs may be subtracted.
    """
    wrong = {"generated": coins(3, 0.3, 1, 30), "original": coins(8, 0.4, 0, 30)}
    wrong |= {"ensemble": coins(1, 0.2, 2, 30), "soup_2": coins(4, 0.3, 5, 30)}
    found = bootstrap(wrong, 25, 1)
    images = make_generator(30, "bootstrap", "images")
    random = make_generator(1, "bootstrap", "generated")
    for r in range(25):
        shown = torch.randint(30, (30,), generator=images)
        originals = wrong["original"][:, shown]
        for group, errors in wrong.items():
            models = torch.arange(len(errors))
            if group == "generated":
                models = torch.randint(3, (3,), generator=random)
            own = errors[:, shown]
            same = group == "original"
            similar = max_similarity_among(own) if same else max_similarity(own, originals)
            similar = similar[models]
            accuracy = 1 - own[models].double().mean(1)
            row = [accuracy.mean(), accuracy.max(), similar.mean(), similar.min(), similar.max()]
            replicate = [values[r] for values in asdict(found[group]).values()]
            assert replicate == pytest.approx([value.item() for value in row], abs=1e-6)


def test_replicates_come_back_from_their_file_in_six_digits(tmp_path):
    found = drawn(5)
    save_replicates(tmp_path / "data/bootstrap.csv", found)
    table = pd.read_csv(tmp_path / "data/bootstrap.csv")
    assert table["group"].tolist() == [group for group in found for _ in range(5)]
    assert table["replicate"].tolist() == [*range(5)] * 3
    again = by_group(table)
    assert list(again) == list(found)
    for group, own in found.items():
        for name, values in asdict(own).items():
            np.testing.assert_allclose(getattr(again[group], name), values, atol=6e-7)


def test_the_interval_covers_a_difference_given_the_originals(monkeypatch):
    """A model errs if its level, the image's difficulty and chance add up to more than 0.

    All are normal, so that the true accuracies given the originals' levels are known. Pairs of
    model and image count up to three times (Owen 2007): more than 95 % is right, less than 93 %
    would be wrong. Similarities are left out to save time.
    """
    monkeypatch.setattr(
        module,
        "_max_similarities",
        lambda wrong, weights: {g: torch.zeros(len(weights), len(w)) for g, w in wrong.items()},
    )
    random, hits, sets = np.random.default_rng(0), 0, 200
    levels = random.normal(-1.0, 0.3, size=(40, 1))
    true = stats.norm.sf(-levels / math.sqrt(1 + 0.5**2)).mean()
    true -= stats.norm.sf(1.2 / math.sqrt(1 + 0.3**2 + 0.5**2))
    for _ in range(sets):
        images, wrong = random.normal(size=150), {}
        own = random.normal(-1.2, 0.3, size=(40, 1))
        for group, level in (("original", levels), ("generated", own)):
            chance = random.normal(0, 0.5, size=(40, 150))
            wrong[group] = torch.from_numpy(level + images + chance > 0)
        found = bootstrap(wrong, 100, 1)
        difference = wrong["original"].double().mean() - wrong["generated"].double().mean()
        draws = found["generated"].accuracy - found["original"].accuracy
        low, high = interval_around(difference.item(), draws)
        hits += low <= true <= high
    assert hits / sets >= 0.93


def test_the_interval_of_an_undefined_number_is_undefined():
    assert all(math.isnan(end) for end in interval_around(0.5, np.array([])))
    assert all(math.isnan(end) for end in interval_around(0.5, np.array([0.5, math.nan])))


def test_an_interval_holds_the_middle_95_percent_around_the_estimate():
    replicates = np.arange(1001.0)  # their mean is 500
    assert interval_around(500.0, replicates) == pytest.approx((25.0, 975.0))
    assert interval_around(2.0, replicates) == pytest.approx((-473.0, 477.0))

"""Principal components of the originals, of made-up models."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from pdiff.audit import projection
from pdiff.audit.projection import project
from tests.toys.audit import toy_matrices


@pytest.mark.parametrize("length", [3, 24])
def test_the_components_are_those_of_an_exact_decomposition(length):
    m = toy_matrices(length)
    table, shares = project(m)
    pca = PCA(2, svd_solver="full").fit(m["original"].double().numpy())
    expected = pca.transform(m["generated"].double().numpy())
    found = table.loc[table["group"] == "generated", ["pc1", "pc2"]].to_numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-6)
    assert shares == pytest.approx(pca.explained_variance_ratio_.tolist())


def test_a_group_shows_a_few_of_its_models_spread_evenly(monkeypatch):
    monkeypatch.setattr(projection, "MODELS", 4)
    table, _ = project(toy_matrices())
    assert table["group"].value_counts().max() == 4
    assert table.loc[table["group"] == "original", "model"].tolist() == [0, 4, 7, 11]


def test_of_many_levels_three_are_shown():
    table, _ = project(toy_matrices() | {f"noised_{n}": torch.ones(1, 24) for n in (0.1, 0.2)})
    shown = table["group"][table["group"].str.startswith("noised")]
    assert list(shown.unique()) == ["noised_0.05", "noised_0.2", "noised_2"]


def test_models_with_nan_are_left_out():
    m = toy_matrices()
    m["generated"][[0, 3], 1] = torch.nan
    table, _ = project(m)
    assert table.loc[table["group"] == "generated", "model"].tolist() == [1, 2, 4, 5, 6, 7]
    assert not table.isna().any(axis=None)


@pytest.mark.parametrize("originals", [torch.ones(6, 4), torch.zeros(1, 4), torch.rand(6, 1)])
def test_originals_without_two_components_have_no_map(originals):
    assert project({"original": originals, "generated": originals})[0].empty

"""Principal components of the originals, and t-SNE, of made-up models."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from sklearn.decomposition import PCA

from pdiff.audit.projection import plot_projection, project
from tests.toys.audit import toy_matrices


def test_the_components_are_those_of_scikit_learn():
    m = toy_matrices()
    table, facts = project(m, 60, seed=0)
    pca = PCA(2).fit(m["original"].double().numpy())
    expected = pca.transform(m["generated"].double().numpy())
    found = table.loc[table["group"] == "generated", ["pc1", "pc2"]].to_numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-9)
    shares = [facts["explained_1"], facts["explained_2"]]
    assert shares == pytest.approx(pca.explained_variance_ratio_.tolist())


def test_more_parameters_than_models_and_fewer_are_alike():
    m = toy_matrices(length=3)
    pca = PCA(2).fit(m["original"].double().numpy())
    _, facts = project(m, 60, seed=0)
    assert facts["explained_1"] == pytest.approx(pca.explained_variance_ratio_[0])


def test_the_same_seed_gives_the_same_map():
    a, b = (project(toy_matrices(), 60, seed=3)[0] for _ in range(2))
    assert a.equals(b)


def test_at_most_so_many_models_of_a_group():
    table, _ = project(toy_matrices(), 4, seed=0)
    assert table["group"].value_counts().max() == 4
    assert table.loc[table["group"] == "original", "model"].tolist() == [0, 4, 7, 11]


def test_neighbours_stay_neighbours_in_the_map(generator):
    far = 50 * torch.eye(2, 20)
    m = {
        "original": torch.randn(12, 20, generator=generator) + far[0],
        "generated": torch.randn(12, 20, generator=generator) + far[1],
    }
    table, _ = project(m, 60, seed=0)
    points = torch.from_numpy(table[["tsne1", "tsne2"]].to_numpy())
    nearest = torch.cdist(points, points).fill_diagonal_(torch.inf).argmin(1)
    groups = table["group"].to_numpy()
    assert (groups[nearest.numpy()] == groups).all()


def test_models_with_nan_are_left_out_and_counted():
    m = toy_matrices()
    m["generated"][[0, 3], 1] = torch.nan
    table, facts = project(m, 60, seed=0)
    assert facts["left_out"] == 2
    assert table.loc[table["group"] == "generated", "model"].tolist() == [1, 2, 4, 5, 6, 7]
    assert not table.isna().any(axis=None)


def test_identical_models_have_a_map():
    table, facts = project({"original": torch.ones(6, 4), "generated": torch.ones(3, 4)}, 60, 0)
    assert facts["explained_1"] == 0
    assert (table[["pc1", "pc2"]] == 0).all(axis=None)
    assert table["tsne1"].notna().all()


def test_a_single_original_has_no_components():
    m = toy_matrices()
    table, facts = project(m | {"original": m["original"][:1]}, 60, seed=0)
    assert (facts["explained_1"], facts["explained_2"]) == (0, 0)
    assert table["tsne1"].notna().all()


def test_fewer_than_five_models_have_no_t_sne(tmp_path):
    m = toy_matrices()
    table, facts = project({"original": m["original"][:3], "ensemble": m["ensemble"]}, 60, seed=0)
    assert table["tsne1"].isna().all()
    assert table["pc1"].notna().all()
    plot_projection(tmp_path / "a.png", table, facts)
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_the_figure_says_what_it_does_not_show(monkeypatch):
    kept = []
    monkeypatch.setattr(
        "pdiff.audit.projection.save_small", lambda figure, path: kept.append(figure)
    )
    m = toy_matrices()
    m["noised_2"] = 100 * m["noised_2"]
    m["generated"][0] = torch.nan
    plot_projection(Path("nowhere.png"), *project(m, 60, seed=0))
    texts = " | ".join(text.get_text() for text in kept[0].findobj(plt.Text))
    assert "5 of 67 models lie outside of the PCA panel" in texts
    assert "1 models with NaN are left out" in texts
    plt.close("all")

"""The audit's figures: the same bytes for the same data, small, and defined at the edges."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from pdiff.audit.distance_figures import plot_copying, plot_distances, plot_performant
from pdiff.audit.draw import back_to_front, few_levels, ladders
from pdiff.audit.figures import plot_pareto, plot_similarities, plot_similarity_matrix
from pdiff.audit.parameters import nearest_rows, plot_heat_map, plot_values
from pdiff.audit.similarity import similarity_matrix
from pdiff.baselines.registry import name
from tests.toys.audit import (
    figures,
    toy_copying,
    toy_distances,
    toy_matrices,
    toy_models,
    toy_performant,
    toy_wrong,
)

NOWHERE = Path("nowhere.png")
FIGURES = dict(figures())


@pytest.fixture
def drawn(monkeypatch):
    """The figures that a call draws, still open; what it would have saved goes nowhere."""
    kept = []
    for module in ("audit_figures", "distance_figures", "parameter_figures", "drawing"):
        monkeypatch.setattr(f"pdiff.{module}.save_small", lambda figure, path: kept.append(figure))
    yield kept
    plt.close("all")


def texts(figure: plt.Figure) -> str:
    return " | ".join(text.get_text() for text in figure.findobj(plt.Text))


@pytest.mark.parametrize("which", FIGURES)
def test_a_figure_is_a_small_picture_and_the_same_each_time(which, tmp_path):
    for file in ("a.png", "b.png"):
        FIGURES[which](tmp_path / file)
    first = (tmp_path / "a.png").read_bytes()
    assert first == (tmp_path / "b.png").read_bytes()
    assert len(first) < 80_000
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        assert set(picture.info) <= {"dpi", "transparency"}  # no time, no program


def test_originals_and_generated_models_stand_in_front():
    order = back_to_front(["generated", "noised_0.1", "original", "soup_2", "ensemble"])
    assert order == ["noised_0.1", "soup_2", "original", "generated", "ensemble"]


def test_a_ladder_is_a_family_with_several_levels():
    groups = ["noised_0.5", "noised_0.1", "original", "soup_2"]
    assert ladders(groups) == {"noised": ["noised_0.1", "noised_0.5"]}


def test_of_a_long_ladder_three_levels_remain():
    groups = [name("noised", level) for level in (0.1, 0.2, 0.3, 0.4, 0.5)] + ["original"]
    assert few_levels(groups) == ["original", "noised_0.1", "noised_0.3", "noised_0.5"]


def test_failed_models_do_not_flatten_the_picture(drawn):
    plot_pareto(NOWHERE, toy_models(toy_wrong()), "test")
    low, high = drawn[0].axes[0].get_ylim()
    assert low > 70
    assert high < 100
    assert "5 of 68 models lie below this picture: noise 5" in texts(drawn[0])


def test_a_picture_without_failures_says_nothing_of_them(drawn):
    models = toy_models(toy_wrong())
    plot_pareto(NOWHERE, models[models["group"] != "noised_2"], "test")
    assert "lie below" not in texts(drawn[0])


def test_generated_models_that_all_fail_are_in_the_picture(drawn):
    models = toy_models(toy_wrong())
    models.loc[models["group"] == "generated", "accuracy"] = 0.1
    plot_pareto(NOWHERE, models, "test")
    assert drawn[0].axes[0].get_ylim()[0] < 10


def test_models_that_are_all_the_same_have_a_pareto_figure(drawn):
    plot_pareto(NOWHERE, toy_models(toy_wrong()).assign(accuracy=0.5, max_similarity=1.0), "test")
    low, high = drawn[0].axes[0].get_ylim()
    assert low < 50 < high


def test_a_single_original_without_similarity_leaves_the_others(drawn):
    models = toy_models({g: w[:1] for g, w in toy_wrong().items()})
    assert models["max_similarity"].isna().any()
    plot_pareto(NOWHERE, models, "test")
    plot_similarities(NOWHERE, models)
    assert len(drawn) == 2


def test_no_similarity_at_all_is_said(drawn):
    plot_pareto(NOWHERE, toy_models(toy_wrong()).assign(max_similarity=np.nan), "test")
    assert "no model has a maximum similarity" in texts(drawn[0])


def test_a_matrix_without_any_pair_has_a_figure(drawn):
    plot_similarity_matrix(NOWHERE, similarity_matrix({"original": torch.zeros(1, 4).bool()}))
    assert len(drawn) == 1


def test_a_small_matrix_shows_its_numbers(drawn):
    wrong = {g: toy_wrong()[g] for g in ("original", "generated")}
    table = similarity_matrix(wrong)
    plot_similarity_matrix(NOWHERE, table)
    assert f"{table.loc[0, 'generated']:.2f}" in texts(drawn[0])


def test_exact_copies_have_a_place_on_the_distance_axis(drawn):
    table = toy_distances()
    table.loc[table["group"] == "soup_2", "nearest"] = 0.0
    plot_distances(NOWHERE, table)
    assert drawn[0].axes[0].get_xscale() == "symlog"


def test_without_held_out_checkpoints_there_is_no_mark_of_them(drawn):
    table = toy_distances().assign(nearest_held_back=np.nan).drop(columns="nearest_second_run")
    plot_distances(NOWHERE, table[~table["group"].isin(("held_back", "second_run"))])
    assert "median distance" not in texts(drawn[0])


def test_distances_that_are_not_known_have_a_figure(drawn):
    table = toy_distances().assign(nearest=np.nan, interpolation_index=np.nan)
    plot_distances(NOWHERE, table)
    assert len(drawn) == 1


def test_the_copying_figure_names_both_directions(drawn):
    plot_copying(NOWHERE, toy_copying().assign(z_held_back=np.nan))
    assert "copying" in texts(drawn[0])
    assert "underfitting" in texts(drawn[0])


def test_a_group_of_one_has_no_line_of_shares(drawn):
    plot_performant(NOWHERE, toy_performant())
    assert "generated" in texts(drawn[0])
    assert "ensemble" not in texts(drawn[0])


def test_nearest_originals_by_hand():
    originals = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert nearest_rows(torch.tensor([[0.9, 0.9], [0.1, 0.0]]), originals) == [1, 0]


def test_the_heat_map_shows_finite_models_beside_their_nearest(drawn):
    m = toy_matrices()
    generated = m["original"][[5, 2, 7]].clone()
    generated[0] = torch.nan
    plot_heat_map(NOWHERE, generated, m["original"], slice(0, 24), models=2)
    names = [text.get_text() for text in drawn[0].axes[0].get_yticklabels()]
    assert names == ["generated 1", "original 2", "generated 2", "original 7"]
    above, below = (axes.images[0].get_array() for axes in drawn[0].axes[:2])
    assert (above[0] == above[1]).all()
    assert (below == 0).all()


def test_generated_models_of_nan_are_said(drawn):
    m = toy_matrices()
    plot_heat_map(NOWHERE, m["generated"] * torch.nan, m["original"], slice(0, 24), models=2)
    assert "no generated model has finite parameters" in texts(drawn[0])


@pytest.mark.parametrize("length", [1, 2, 24])
def test_values_of_few_parameters_have_a_figure(drawn, length):
    m = {g: matrix[:, :length] for g, matrix in toy_matrices().items()}
    plot_values(NOWHERE, {g: m[g] for g in ("original", "generated")}, parameters=9)
    assert texts(drawn[0]).count("parameter ") == min(length, 9)


def test_values_go_from_the_most_to_the_least_varying_parameter(drawn):
    spread = torch.tensor([1.0, 3.0, 2.0])
    m = {"original": torch.tensor([[-1.0], [1.0]]) * spread, "generated": torch.ones(2, 3)}
    plot_values(NOWHERE, m, parameters=3)
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert [title.split(",")[0] for title in titles] == [f"parameter {i}" for i in (1, 2, 0)]


def test_originals_that_do_not_vary_have_figures(drawn):
    same = {g: torch.zeros(3, 5) for g in ("original", "generated")}
    plot_values(NOWHERE, same, parameters=9)
    plot_heat_map(NOWHERE, same["generated"], same["original"], slice(0, 5), models=10)
    assert len(drawn) == 2


def test_one_group_of_distances_is_enough(drawn):
    plot_distances(NOWHERE, pd.DataFrame(toy_distances().query("group == 'generated'")))
    assert len(drawn) == 1

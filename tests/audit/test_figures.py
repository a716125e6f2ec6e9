"""Figures are drawn at the edges, and show what they should."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from pdiff.audit.analysis import analyses
from pdiff.audit.distances import places, plot_distances
from pdiff.audit.evidence import Evidence
from pdiff.audit.parameters import plot_heat_map
from pdiff.audit.pareto import pareto_front, plot_pareto
from pdiff.audit.projection import plot_projection
from pdiff.novelty.pictures import back_to_front, kinds, plot_scatter, plot_similarities
from tests.toys.audit import toy_evidence, toy_matrices, toy_models, toy_wrong


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(figure: plt.Figure) -> str:
    return " | ".join(text.get_text() for text in figure.findobj(plt.Text))


def one_original() -> Evidence:
    matrices, wrong = toy_matrices(), toy_wrong()
    for groups in (matrices, wrong):
        groups["original"] = groups["original"][:1]
    return toy_evidence(matrices, wrong)


def all_equal() -> Evidence:
    matrices = {group: torch.ones_like(m) for group, m in toy_matrices().items()}
    return toy_evidence(matrices, {g: torch.zeros_like(w) for g, w in toy_wrong().items()})


def not_finite() -> Evidence:
    matrices = toy_matrices()
    matrices["generated"][:] = torch.nan
    matrices["original"][3, 0] = torch.inf
    return toy_evidence(matrices)


def without_unseen() -> Evidence:
    unseen = ("held_back", "fresh")
    return toy_evidence({g: m for g, m in toy_matrices().items() if g not in unseen})


@pytest.mark.parametrize("make", [one_original, all_equal, not_finite, without_unseen])
@pytest.mark.parametrize("analysis", analyses(), ids=lambda analysis: analysis.name)
def test_an_analysis_draws_without_error(analysis, make):
    if (analysis.name, make) == ("codec", one_original):
        pytest.skip("a run has two checkpoints at least")
    evidence = make()
    table = analysis.table(evidence) if analysis.table else None
    for draw in analysis.figures.values():
        figure = draw(evidence, table)
        if make is all_equal:  # a layout takes most of the time
            figure.draw_without_rendering()


def test_originals_and_generated_models_stand_in_front():
    order = back_to_front(["generated", "noised_0.1", "original", "soup_2", "ensemble"])
    assert order == ["noised_0.1", "soup_2", "original", "generated", "ensemble"]


def test_a_kind_holds_its_levels_as_they_rise():
    found = kinds(["noised_0.5", "noised_0.1", "soup_greedy", "soup_2"])
    expected = {"soup": ["soup_2"], "soup_greedy": ["soup_greedy"]}
    assert found == expected | {"noised": ["noised_0.1", "noised_0.5"]}


def test_failed_models_do_not_flatten_the_picture():
    figure = plot_scatter(toy_models(toy_wrong()), "test")
    low, high = figure.axes[0].get_ylim()
    assert 70 < low < high < 100
    assert "5 of 77 models lie below this picture: noise 2 (5)" in texts(figure)
    assert "Pareto front" not in texts(figure)


def test_generated_models_that_all_fail_are_in_the_picture():
    models = toy_models(toy_wrong())
    models.loc[models["group"].isin(("generated", "noised_2")), "accuracy"] = 0.1
    figure = plot_scatter(models, "test", pareto_front(models))
    assert figure.axes[0].get_ylim()[0] < 10
    assert "lie below" not in texts(figure) and "Pareto front" in texts(figure)


def test_a_row_of_similarities_names_its_group_and_counts_its_models():
    labels = plot_similarities(toy_models(toy_wrong())).axes[0].get_yticklabels()
    first = [label.get_text() for label in labels][:3]
    assert first == ["original (12)", "ensemble (1)", "generated (8)"]


def test_exact_copies_have_a_place_on_the_distance_axis():
    matrices = toy_matrices()
    matrices["soup_2"] = matrices["original"][:5].clone()
    evidence = toy_evidence(matrices)
    assert (places(evidence)["nearest"] == 0).any()
    assert plot_distances(evidence, None).axes[0].get_xscale() == "symlog"


def test_the_heat_map_shows_finite_models_beside_their_nearest():
    matrices = toy_matrices()
    matrices["generated"] = matrices["original"][[5, 2, 7, 0, 1, 3, 4, 6]].clone()
    matrices["generated"][0] = torch.nan
    axes = plot_heat_map(toy_evidence(matrices), None).axes
    names = [text.get_text() for text in axes[0].get_yticklabels()]
    assert names[:4] == ["generated 1", "original 2", "generated 2", "original 7"]
    above, below = (panel.images[0].get_array() for panel in axes[:2])
    assert (above[0] == above[1]).all()
    assert (below == 0).all()


def test_what_cannot_be_drawn_is_said():
    evidence = toy_evidence()
    evidence.models["max_similarity"] = np.nan
    assert "no model has a maximum similarity" in texts(plot_pareto(evidence, None))
    assert "no generated model has finite" in texts(plot_heat_map(not_finite(), None))
    assert "no two principal components" in texts(plot_projection(one_original(), None))

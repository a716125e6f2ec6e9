"""Figures are drawn at the edges, and show what they should."""

import re

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from pdiff.audit.analysis import analyses
from pdiff.audit.copying import copying_table, plot_copying
from pdiff.audit.distances import distance_summary, places, plot_distances
from pdiff.audit.evidence import Evidence
from pdiff.audit.parameters import plot_heat_map
from pdiff.audit.pareto import front_table, pareto_front, plot_pareto
from pdiff.audit.projection import plot_projection
from pdiff.audit.similarity import plot_matrix
from pdiff.novelty.looks import MAIN, OTHER
from pdiff.novelty.pictures import (
    back_to_front,
    few,
    in_words,
    kinds,
    plot_scatter,
    plot_similarities,
    save_both,
)
from pdiff.novelty.summary import similarity_table
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
        figure, words = draw(evidence, table)
        assert words.endswith(".") and len(words) > 20
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
    figure, _ = plot_scatter(toy_models(toy_wrong()), "test")
    low, high = figure.axes[0].get_ylim()
    assert 70 < low < high < 100
    assert re.search(r"\d+ of 77 models lie outside this picture: .*noise 2 \(5\)", texts(figure))
    assert "Pareto front" not in texts(figure)


def test_generated_models_that_all_fail_are_in_the_picture():
    models = toy_models(toy_wrong())
    models.loc[models["group"].isin(("generated", "noised_2")), "accuracy"] = 0.1
    figure, _ = plot_scatter(models, "test", MAIN, pareto_front(models))
    assert figure.axes[0].get_ylim()[0] < 10
    assert "lie outside" not in texts(figure) and "Pareto front" in texts(figure)


def test_named_groups_have_their_colours_and_all_others_share_a_grey():
    figure, words = plot_scatter(toy_models(toy_wrong()), "test")
    entries = {text.get_text() for text in figure.legends[0].get_texts()}
    named = {"original (12)", "ensemble (1)", "generated (8)", "fresh run (6)"}
    assert entries == named | {"10 other groups (50)"}
    faces = [to_hex(c) for own in figure.axes[0].collections for c in own.get_facecolors()]
    shown = (MAIN[group].colour for group in ("original", "ensemble", "generated", "fresh"))
    assert set(faces) == {colour.lower() for colour in (*shown, OTHER.colour)}
    assert re.search(r"original: 9\d\.\d\d % at 0\.\d{3}; ensemble: ", words)


def test_a_row_of_similarities_names_its_group_and_counts_its_models():
    labels = plot_similarities(toy_models(toy_wrong()))[0].axes[0].get_yticklabels()
    first = [label.get_text() for label in labels][:3]
    assert first == ["original (12)", "ensemble (1)", "generated (8)"]


def test_exact_copies_have_a_place_on_the_distance_axis():
    matrices = toy_matrices()
    matrices["soup_2"] = matrices["original"][:5].clone()
    evidence = toy_evidence(matrices)
    table = distance_summary(places(evidence))
    assert (places(evidence)["nearest"] == 0).any()
    axes = plot_distances(evidence, table)[0].axes[0]
    assert axes.get_xscale() == "symlog" and axes.get_xlim()[0] <= 0


def test_groups_beyond_the_axis_of_the_index_are_named_and_not_drawn_outside():
    matrices = toy_matrices()
    matrices["noised_2"] *= 50
    evidence = toy_evidence(matrices)
    figure, _ = plot_distances(evidence, distance_summary(places(evidence)))
    assert "beyond the right axis: noise 2" in texts(figure)
    assert all(line.get_clip_on() for line in figure.axes[1].lines)


def test_the_figure_of_copying_draws_shares_and_no_band_that_promises_a_test():
    evidence = toy_evidence()
    table = copying_table(places(evidence))
    figure, words = plot_copying(evidence, table)
    (axes,) = figure.axes
    assert axes.get_xlim() == (-3, 103) and not axes.patches
    row = table.set_index("group").loc["generated"]
    assert f"in {100 * row['farther_held_back']:.0f} % of pairs" in words
    drawn = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == len(table)]
    held_back, fresh = (100 * table[f"farther_{n}"].to_numpy() for n in ("held_back", "fresh"))
    np.testing.assert_array_equal(drawn, [held_back, fresh])


def test_the_map_of_similarities_says_its_numbers():
    evidence = toy_evidence()
    table = similarity_table(evidence.wrong)
    figure, words = plot_matrix(evidence, table)
    rows = table.set_index("group")
    assert f"mean IoU of {rows.loc['generated', 'generated']:.3f}" in words
    groups = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    place = groups.index("generated"), groups.index("fresh run")
    cells = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert cells[place[::-1]] == f"{rows.loc['generated', 'fresh']:.2f}"
    own = groups.index("ensemble")
    assert (own, own) not in cells  # a single model has no pair


def test_three_levels_of_a_kind_stand_for_more():
    levels = [f"soup_{n}" for n in (2, 4, 8, 16, 32, 64)]
    assert few([*levels, "original"]) == ["original", "soup_2", "soup_8", "soup_64"]


def test_what_groups_have_is_told_apart_where_a_label_holds_a_comma():
    assert in_words({"gaussian_full": "1", "soup_8": "0.5"}) == "Gaussian, full: 1; soup of 8: 0.5"


def test_png_and_pdf_have_the_same_bytes_each_time(tmp_path):
    def draw(folder: str) -> list[bytes]:
        figure, axes = plt.subplots(figsize=(2, 2))
        axes.plot([1, 2], label="a")
        axes.legend()
        files = save_both(figure, tmp_path / folder / "figure.png")
        assert [file.suffix for file in files] == [".png", ".pdf"]
        return [file.read_bytes() for file in files]

    assert draw("one") == draw("two")
    assert b"Date" not in (tmp_path / "one/figure.pdf").read_bytes()


def test_the_heat_map_shows_finite_models_beside_their_nearest():
    matrices = toy_matrices()
    matrices["generated"] = matrices["original"][[5, 2, 7, 0, 1, 3, 4, 6]].clone()
    matrices["generated"][0] = torch.nan
    figure, words = plot_heat_map(toy_evidence(matrices), None)
    axes = figure.axes
    assert "by 0.00 of what these differ" in words  # they are copies
    names = [text.get_text() for text in axes[0].get_yticklabels()]
    assert names[:4] == ["generated 1", "original 2", "generated 2", "original 7"]
    above, below = (panel.images[0].get_array() for panel in axes[:2])
    assert (above[0] == above[1]).all()
    assert (below == 0).all()


def test_what_cannot_be_drawn_is_said():
    evidence = toy_evidence()
    evidence.models["max_similarity"] = np.nan
    for (figure, words), said in (
        (plot_scatter(evidence.models, "test"), "no model has a maximum similarity"),
        (plot_heat_map(not_finite(), None), "no generated model has finite parameters"),
        (plot_projection(one_original(), None), "the originals have no two principal components"),
    ):
        assert said in texts(figure) and said in words


def test_the_front_says_how_many_of_its_models_are_generated():
    evidence = toy_evidence()
    table = front_table(evidence.models)
    own = table.set_index("group")["on_front"].get("generated", 0)
    _, words = plot_pareto(evidence, table)
    assert words.startswith(f"Of {table['on_front'].sum()} models on the Pareto front {own} are")

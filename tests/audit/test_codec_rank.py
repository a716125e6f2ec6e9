"""The codec among exact codecs of each rank: R2, places in the table, the figure."""

import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from pdiff.audit.codec_rank import OTHERS, explained, plot_codec_rank, rank_table
from pdiff.audit.evidence import Evidence
from pdiff.baselines.originals import projections
from pdiff.parameters.subset import Models, Subset
from tests.toys.audit import made_of, toy_models

COUNT, LENGTH, IMAGES = 9, 12, 150
SUBSET = Subset({"x": (LENGTH,)})
EXACT = ["ensemble", "projected_1", "projected_4", "original"]


@pytest.fixture(scope="module")
def matrices() -> dict[str, torch.Tensor]:
    """Originals that vary less from direction to direction; `reconstructed` is of rank 4."""
    generator = torch.Generator().manual_seed(0)
    scale = 0.7 ** torch.arange(LENGTH)
    originals = 2 + scale * torch.randn(COUNT, LENGTH, generator=generator)
    found = {"original": originals, "ensemble": originals.mean(0, keepdim=True)}
    for rank in (1, 4):
        weights = projections(Models(SUBSET, originals), rank, 5)
        found[f"projected_{rank}"] = (weights @ originals.double()).float()
    found["reconstructed"] = found["projected_4"].clone()
    for group in ("generated", "fresh"):
        found[group] = 2 + scale * torch.randn(6, LENGTH, generator=generator)
    return found


@pytest.fixture(scope="module")
def wrong(matrices) -> dict[str, torch.Tensor]:
    """Each model is a linear rule; it errs where its output is large."""
    images = torch.randn(LENGTH, IMAGES, generator=torch.Generator().manual_seed(1))
    return {group: (values - 2) @ images > 0.8 for group, values in matrices.items()}


def evidence_of(wrong, matrices) -> Evidence:
    return made_of(wrong, matrices, toy_models(wrong), {})


@pytest.fixture(scope="module")
def table(matrices, wrong) -> pd.DataFrame:
    return rank_table(evidence_of(wrong, matrices))


def test_ranks_rise_from_the_ensemble_to_the_originals_and_the_others_follow(table):
    assert list(table["group"]) == [*EXACT, "reconstructed", "generated", "fresh"]
    assert list(table["rank"].dropna()) == [0, 1, 4, COUNT - 1]
    assert list(table["rank"].isna()) == [False] * 4 + [True] * 3


def test_r2_of_all_originals_is_the_share_of_variance_of_the_first_components(matrices):
    originals = matrices["original"]
    squared = torch.linalg.svdvals(originals.double() - originals.double().mean(0)).square()
    for rank in (1, 2, 5):
        weights = projections(Models(SUBSET, originals), rank, COUNT)
        models = (weights @ originals.double()).float()
        share = squared[:rank].sum() / squared.sum()
        assert explained(models, originals) == pytest.approx(share.item(), abs=1e-6)


def test_r2_is_none_at_the_ensemble_all_at_the_originals_and_below_none_off_them(matrices, table):
    r2 = table.set_index("group")["r2"]
    assert r2["ensemble"] == pytest.approx(0, abs=1e-6)
    assert r2["original"] == 1
    assert 0 < r2["projected_1"] < r2["projected_4"] < 1
    assert r2[["generated", "fresh"]].isna().all()
    originals = matrices["original"]
    assert explained(2 * originals.mean(0) - originals, originals) == pytest.approx(-3, abs=1e-5)
    # of some originals it is that of the ones they stand for
    assert explained(originals[[0, 4, 8]], originals) == 1
    assert explained(originals[[0, 1, 2]], originals) < 0.9
    assert pd.isna(explained(torch.zeros(2, 3), torch.ones(4, 3)))  # nothing to explain


def test_a_trained_codec_that_is_exact_stands_at_its_rank(table):
    rows = table.set_index("group").drop(columns="rank")
    pd.testing.assert_series_equal(
        rows.loc["reconstructed"], rows.loc["projected_4"], check_names=False
    )
    assert (rows.loc["projected_4"] != rows.loc["projected_1"]).sum() >= 4


def test_the_ensemble_is_alike_to_itself_and_the_originals_leave_themselves_out(table, wrong):
    rows = table.set_index("group")
    assert rows.loc["ensemble", "similarity_within"] == 1
    own = toy_models({"original": wrong["original"]})["max_similarity"].mean()
    assert rows.loc["original", "max_similarity"] == pytest.approx(own)
    assert rows.loc["original", "max_similarity_others"] == pytest.approx(own)


def test_a_copy_of_its_original_is_as_similar_to_others_as_the_original(matrices, wrong):
    """With its own original it has similarity 1, which would say nothing of the others."""
    same = {**wrong, "projected_4": wrong["original"][[0, 2, 4, 6, 8]]}
    row = rank_table(evidence_of(same, matrices)).set_index("group").loc["projected_4"]
    models = toy_models(wrong)
    among = models.loc[models["group"] == "original", "max_similarity"].iloc[[0, 2, 4, 6, 8]]
    assert row["max_similarity"] == 1
    assert row["max_similarity_others"] == pytest.approx(among.mean())
    assert among.mean() < 0.99


def test_without_a_fresh_run_or_ranks_the_rest_stands(matrices, wrong):
    left = {g: errors for g, errors in wrong.items() if not g.startswith(("fresh", "projected"))}
    found = rank_table(evidence_of(left, matrices))
    assert list(found["group"]) == ["ensemble", "original", "reconstructed", "generated"]


def test_the_curve_goes_through_the_exact_codecs_and_no_others(table, matrices, wrong):
    figure, _ = plot_codec_rank(evidence_of(wrong, matrices), table)
    exact = table[:4]
    for axes, y in zip(figure.axes, (100 * exact["accuracy"], exact[OTHERS]), strict=True):
        curve = axes.lines[0].get_xydata()
        assert curve.tolist() == pd.concat([exact["similarity_within"], y], axis=1).values.tolist()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    plt.close(figure)
    others = ["original", "reconstructed", "generated", "fresh run"]
    assert legend == ["exact codec of rank N", "ensemble", *others]

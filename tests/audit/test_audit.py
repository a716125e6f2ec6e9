"""The audit of a whole toy pipeline: with everything, without, and at its edges."""

import html
import json
import math
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from pdiff.audit.analyses import lead
from pdiff.baselines.registry import ordered
from pdiff.core.files import load_tensors, save_tensors
from tests.conftest import change
from tests.toys.pipeline import hashes, run_stages

TABLES = {
    *("boundaries", "codec", "comparisons", "copying", "distances", "equal_accuracy", "front"),
    *("groups", "performant", "similarity_matrix"),
}
FIGURES = {
    *("boundaries", "codec", "copying", "distances", "heat_map", "pareto", "performant"),
    *("projection", "similarity", "similarity_matrix", "values"),
}
EVALUATION = ("evaluate_originals", "evaluate_generated", "novelty")


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"report/audit/{name}.csv").set_index("group")


def test_every_analysis_leaves_a_table_or_a_figure_and_the_report_holds_them(finished):
    found = {path.name for path in (finished / "report/audit").iterdir()}
    expected = {f"{name}.csv" for name in TABLES} | {f"{name}.png" for name in FIGURES}
    assert found == expected | {"report.html"}
    assert (finished / "report/audit/report.html").read_text().count("data:image/png") == len(
        FIGURES
    )


def test_every_group_that_was_evaluated_stands_in_every_table(finished):
    evaluated = set()
    for name in ("originals", "generated"):
        tensors = load_tensors(finished / f"data/predictions_{name}.safetensors")[0]
        evaluated |= {key.removesuffix(".test") for key in tensors if key.endswith(".test")}
    evaluated.remove("labels")
    for name in ("groups", "copying", "distances", "similarity_matrix"):
        assert set(table(finished, name).index) == evaluated, name
    assert list(table(finished, "groups").index) == ordered(evaluated)
    assert set(table(finished, "comparisons").index) == evaluated - {"generated"}


def test_parameters_that_are_drawn_again_are_those_that_were_evaluated(finished):
    """Distances know nothing of predictions, and copies must be copies in both."""
    near = table(finished, "distances")["nearest_mean"]
    similar = table(finished, "groups")["max_similarity"]
    assert near["noised_0.001"] < near["noised_0.15"] < near["noised_0.5"]
    assert similar["noised_0.001"] > similar["noised_0.5"]
    spans = table(finished, "distances")["outside_span_mean"]
    for group in ("original", "interpolated", "soup_2", "ema", "projected_4", "gaussian_full"):
        assert spans[group] == pytest.approx(0, abs=1e-4)
    assert spans["noised_0.15"] > 0.01


def test_the_same_audit_gives_the_same_bytes(finished, copied, tiny_raw):
    run_stages(copied, tiny_raw, ("novelty",))
    assert hashes(copied) == hashes(finished)


def test_without_an_audit_nothing_but_the_rivals_is_missing(finished, copied, tiny_raw):
    off = change(tiny_raw, novelty__audit=False)
    run_stages(copied, off, ("finetune_again", *EVALUATION))
    assert list((copied / "report/audit").iterdir()) == []
    assert json.loads((copied / "data/greedy_soup.json").read_text())["members"] == []
    for name in ("summary.csv", "similarity.csv", "scatter.png"):
        assert (copied / "report" / name).read_bytes() == (finished / "report" / name).read_bytes()
    before, after = (
        json.loads((f / "metrics/novelty.json").read_text()) for f in (finished, copied)
    )
    del before["audit"]
    assert after == before


def _with_values(folder: Path, name: str, value: float, rows: slice) -> None:
    path = folder / f"data/{name}.safetensors"
    tensors, header = load_tensors(path)
    for tensor in tensors.values():
        tensor[rows] = value
    save_tensors(path, tensors, **header)


def test_generated_models_with_nan_are_wrong_everywhere_and_spoil_no_others(
    finished, copied, tiny_raw
):
    _with_values(copied, "generated", math.nan, slice(0, 2))
    run_stages(copied, tiny_raw, EVALUATION[1:])
    models = pd.read_csv(copied / "data/models.csv")
    generated = models[models["group"] == "generated"]
    assert (generated["accuracy"].iloc[:2] == 0).all() and (
        generated["accuracy"].iloc[2:] > 0
    ).all()
    before, after = table(finished, "distances"), table(copied, "distances")
    others = before.index.drop("generated")
    pd.testing.assert_frame_equal(before.loc[others], after.loc[others])
    performant = table(copied, "performant").loc["generated"]
    assert (performant["novel"] < 0.67).all()


def test_all_generated_models_equal_is_a_defined_result(copied, tiny_raw):
    _with_values(copied, "generated", 0.5, slice(None))
    run_stages(copied, tiny_raw, EVALUATION[1:])
    row = table(copied, "groups").loc["generated"]
    assert row["similarity_within"] == 1


def test_the_report_leads_with_the_fit_and_says_what_it_misses(finished):
    metrics = json.loads((finished / "metrics/novelty.json").read_text())
    fit, within = metrics["fit"], metrics["similarity"]["reconstructed_within"]
    said = lead(metrics, ["it is bad", "it is worse"])
    assert said.startswith(f"The codec explains R² = {fit['r2']:.3f} of the checkpoints' deviation")
    assert f"the mean similarity is {within:.3f} among reconstructed models" in said
    assert f"{fit['variance_least']:.2f} to {fit['variance_most']:.2f} of their variance" in said
    assert f"{fit['loss_held_out']:.3f} on held-out latents" in said
    assert said.endswith(
        "The generator does not fit: it is bad; it is worse; no claim about the method can be made "
        "from this run."
    )
    assert lead(metrics, []).endswith("The generator fits.")


def test_the_report_of_a_generator_that_has_not_learned_claims_nothing(finished):
    """Twenty steps teach it nothing."""
    report = (finished / "report/audit/report.html").read_text()
    said = html.unescape(report).partition("The generator does not fit: ")[2][:500]
    assert "leading directions generated latents have" in said
    assert "no claim about the method can be made from this run.</p>" in said
    assert report.index("The codec explains") < report.index('<div class="verdict">')
    assert '<span class="outcome open">' in report
    assert not re.findall('<span class="outcome (holds|fails)">', report)


def test_one_generated_model_has_an_audit(copied, tiny_raw):
    raw = change(tiny_raw, generate__models=1)
    run_stages(copied, raw, ("generate", *EVALUATION[1:]))
    row = table(copied, "groups").loc["generated"]
    assert row["models"] == 1 and pd.isna(row["similarity_within"])


def test_foreign_checkpoints_without_unseen_ones_have_an_audit(copied, tiny_raw):
    for name in ("held_back", "second_run"):
        path = copied / f"data/{name}.safetensors"
        tensors, header = load_tensors(path)
        save_tensors(path, {n: torch.empty(0, *t.shape[1:]) for n, t in tensors.items()}, **header)
    run_stages(copied, tiny_raw, EVALUATION)
    groups = table(copied, "groups").index
    assert not {"held_back", "second_run"} & set(groups)
    assert table(copied, "copying")["z_second_run"].isna().all()

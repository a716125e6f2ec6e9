"""Names and order of the groups of models; a new one takes one function."""

import shutil

import pytest
import torch

from pdiff.baselines import registry
from pdiff.baselines.registry import FAMILIES, count_models, label, name, ordered, split
from pdiff.evaluation.predictions import load_predictions
from pdiff.parameters.subset import Models
from tests.toys.pipeline import run_stages

GROUPS = ["noised_1e-05", "soup_8", "noised_0.15", "soup_64"]
GROUPS += ["soup_greedy", "generated", "original"]


def test_a_name_gives_back_family_and_level():
    for kind, entry in FAMILIES.items():
        group = name(kind, 0.15 if entry.levels else None)
        assert split(group) == (kind, 0.15 if entry.levels else 0.0)


def test_groups_are_ordered_by_family_and_then_by_level():
    expected = ["original", "generated", "soup_8", "soup_64", "soup_greedy"]
    assert ordered(GROUPS) == [*expected, "noised_1e-05", "noised_0.15"]


@pytest.mark.parametrize("unknown", ["noise_0.1", "noised", "generated_2", "soup_many", "soup_-1"])
def test_an_unknown_group_is_refused_by_name(unknown):
    with pytest.raises(ValueError, match=f"unknown group '{unknown}'; families are generated, "):
        split(unknown)


def test_a_label_holds_the_level():
    assert [label(g) for g in ("noised_0.15", "soup_8")] == ["noise 0.15", "soup of 8"]


@pytest.fixture
def median(monkeypatch):
    """A throw-away baseline, registered by this one function."""
    monkeypatch.setattr(registry, "FAMILIES", dict(FAMILIES))

    @registry.baseline("median of {}", order=125, levels="soups")
    def median(originals, draw):
        """The median of N random originals."""
        whole = originals.block(slice(0, originals.subset.length))
        generator = torch.Generator().manual_seed(draw.seed)
        chosen = [
            torch.randperm(len(whole), generator=generator)[: draw.level]
            for _ in range(draw.models)
        ]
        return Models(originals.subset, torch.stack([whole[i].median(0).values for i in chosen]))


def test_a_new_baseline_is_labelled_ordered_and_counted(median, tiny):
    assert label("median_8") == "median of 8"
    assert registry.FAMILIES["median"].what == "The median of N random originals."
    groups = ["projected_4", "median_8", "soup_8", "median_2", "soup_greedy"]
    assert ordered(groups) == ["soup_8", "median_2", "median_8", "soup_greedy", "projected_4"]
    with_median = count_models(tiny)
    del registry.FAMILIES["median"]
    sizes = len(tiny.baselines.soups)
    assert with_median - count_models(tiny) == sizes * tiny.baselines.rival_models


def test_a_new_baseline_is_evaluated(median, finished, tiny_raw, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    run_stages(tmp_path / "run", tiny_raw, ("evaluate_originals",))
    assert "guessing" not in capsys.readouterr().err  # of nets that learned
    path = "data/predictions_originals.safetensors"
    before, now = (load_predictions(f / path, "test")[0] for f in (finished, tmp_path / "run"))
    assert now.keys() - before.keys() == {"median_2", "median_8", "median_16"}
    assert len(now["median_8"]) == tiny_raw["baselines"]["rival_models"]
    assert all(torch.equal(now[group], rows) for group, rows in before.items())

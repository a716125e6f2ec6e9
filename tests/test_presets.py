"""The presets against the authors' 81 experiments, and the paper's counts of parameters."""

import csv
from functools import cache
from operator import attrgetter

import pytest
import torch

from pdiff.config import Params, parse_params
from pdiff.nets.registry import build_net
from pdiff.paper.definitions import table
from pdiff.paper.experiments import make_experiment
from pdiff.paper.render import counts_table
from pdiff.parameters.subset import select_subset
from tests.conftest import ROOT

CONF = ROOT / "pdiff/conf"
with (ROOT / "pdiff/reference/recipes.csv").open() as file:
    RECIPES = list(csv.DictReader(file))
FEW = ("main/cifar100_resnet18", "full/mnist_cnnmedium", "ablation/layers_fc0000")
"""One of each kind: a part of a net, a whole net, an ablation."""


@pytest.fixture(scope="module")
def composed():
    """Compose presets into checked parameters, each list of overrides once."""
    return cache(lambda overrides: parse_params(make_experiment(overrides.split()).params))


def as_fact(value: object) -> str:
    """A parameter as `recipes.csv` writes it; numbers compare as floats."""
    if isinstance(value, tuple):
        return " ".join(as_fact(part) for part in value)
    try:
        return str(value).lower() if isinstance(value, bool) else str(float(value))
    except ValueError:
        return value


def of_recipe(composed, row: dict[str, str]) -> Params:
    return composed(row["overrides"] + " data.root=/images")  # some sets have no place of their own


def differences(composed, row: dict[str, str]) -> dict[str, tuple[str, str]]:
    """(ours, the authors') of the parameters that differ."""
    params, found = of_recipe(composed, row), {}
    for key, cell in row.items():
        if "." in key and cell:
            ours, theirs = as_fact(attrgetter(key)(params)), as_fact(tuple(cell.split()))
            found |= {key: (ours, theirs)} if ours != theirs else {}
    return found


def test_a_recipe_holds_the_authors_values(composed):
    rows = [row for row in RECIPES if row["tag"] in FEW]
    assert len(rows) == len(FEW)
    assert {row["tag"]: differences(composed, row) for row in rows} == {tag: {} for tag in FEW}


@pytest.mark.slow
def test_all_recipes_hold_the_authors_values_and_generate_as_many_parameters(composed):
    wrong = {row["tag"]: differences(composed, row) for row in RECIPES}
    assert {tag: found for tag, found in wrong.items() if found} == {}
    lengths = {}
    for row in RECIPES:
        params = of_recipe(composed, row)
        key = (params.base.net, params.data.size, params.subset.select)
        if key not in lengths:
            with torch.device("meta"):  # shapes without numbers
                net = build_net(params.base.net, int(row["classes"]), params.data.size)
            lengths[key] = select_subset(net, params.subset.select).length
        assert lengths[key] == int(row["n_params"]), row["tag"]


@pytest.mark.slow
def test_every_ablation_composes_with_the_quick_recipe_on_digits(composed):
    for path in (CONF / "ablation").glob("*.yaml"):
        assert composed(f"recipe=quick ablation={path.stem}").data.name == "digits"


def test_every_net_of_table_6_has_the_papers_number_of_generated_parameters():
    counts = counts_table(table("6"))
    assert len(counts) == 11
    assert list(counts["ours"]) == list(counts["paper"])


def test_each_paper_preset_belongs_to_a_recipe():
    groups = [dict(part.split("=") for part in row["overrides"].split()) for row in RECIPES]
    pairs = {f"paper_{g['data']}_{g['net']}" for g in groups if "ablation" not in g}
    variants = {f"paper_{g['ablation']}" for g in groups if "ablation" in g}
    found = {path.stem for path in (CONF / "pair").glob("paper_*.yaml")}
    assert {name for name in found if "detection" not in name} == pairs  # theirs is classification
    assert {path.stem for path in (CONF / "variant").glob("paper_*.yaml")} <= variants


def test_a_net_of_imagenet_is_taken_as_timm_has_it(composed):
    params = composed("recipe=paper data=imagenet net=vit_base data.root=/images")
    assert (params.base.pretrained, params.base.epochs) == (True, 0)


def test_a_single_override_wins_over_a_variant(composed):
    params = composed("recipe=paper ablation=layers_fc ddpm.steps=7")
    assert (params.ddpm.steps, params.autoencoder.latent_dim) == (7, 512)

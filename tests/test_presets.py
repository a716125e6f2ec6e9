"""The presets against the authors' 81 experiments, and the facts that stand in the repository."""

import csv
import re

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pdiff.config import Params, parse_params
from pdiff.nets.registry import build_net
from pdiff.parameters.subset import select_subset
from tests.conftest import ROOT

REFERENCE = ROOT / "pdiff/reference"


def read_csv(name: str) -> list[dict[str, str]]:
    with (REFERENCE / name).open() as file:
        return list(csv.DictReader(file))


RECIPES = read_csv("recipes.csv")
ABLATIONS = sorted(path.stem for path in (ROOT / "pdiff/conf/ablation").glob("*.yaml"))
every_recipe = pytest.mark.parametrize("row", RECIPES, ids=lambda row: row["tag"])


@pytest.fixture(scope="module")
def composed():
    """Compose presets into checked parameters, each list of overrides once."""
    known: dict[str, Params] = {}

    def make(overrides: str) -> Params:
        if overrides not in known:
            config = compose("config", overrides=overrides.split())
            known[overrides] = parse_params(OmegaConf.to_container(config, resolve=True))
        return known[overrides]

    with initialize_config_dir(str(ROOT / "pdiff/conf"), version_base=None):
        yield make


def of_recipe(composed, row: dict[str, str]) -> Params:
    return composed(row["overrides"] + " data.root=/images")  # some sets have no place of their own


def as_fact(value: object) -> str:
    """A parameter as `recipes.csv` writes it; numbers compare as floats."""
    if isinstance(value, tuple):
        return " ".join(as_fact(part) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else str(float(value))


def as_number(cell: str) -> str:
    """`1 2` and `1.0 2.0` are the same cell; words stay."""
    try:
        return " ".join(str(float(part)) for part in cell.split())
    except ValueError:
        return cell


@every_recipe
def test_a_recipe_holds_the_authors_values(composed, row):
    params = of_recipe(composed, row)
    facts = {key: as_number(cell) for key, cell in row.items() if "." in key and cell}
    values = {key: getattr(getattr(params, key.split(".")[0]), key.split(".")[1]) for key in facts}
    assert {key: as_fact(value) for key, value in values.items()} == facts


def test_a_recipe_generates_as_many_parameters_as_the_authors(composed):
    counts, classes = {}, {}
    for row in RECIPES:
        params = of_recipe(composed, row)
        key = (params.base.net, params.data.size, params.subset.select)
        counts.setdefault(key, set()).add(int(row["n_params"]))
        classes.setdefault(key, int(row["classes"]))
    found = {}
    for net, size, select in counts:
        with torch.device("meta"):  # shapes without numbers
            built = build_net(net, classes[net, size, select], size)
        found[net, size, select] = {select_subset(built, select).length}
    assert found == counts


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_composes_with_the_quick_recipe_on_digits(composed, name):
    assert composed(f"recipe=quick ablation={name}").data.name == "digits"


def test_each_paper_preset_belongs_to_a_recipe():
    groups = [dict(part.split("=") for part in row["overrides"].split()) for row in RECIPES]
    pairs = {f"paper_{g['data']}_{g['net']}" for g in groups if "ablation" not in g}
    variants = {f"paper_{g['ablation']}" for g in groups if "ablation" in g}
    conf = ROOT / "pdiff/conf"
    assert {path.stem for path in (conf / "pair").glob("paper_*.yaml")} == pairs
    assert {path.stem for path in (conf / "variant").glob("paper_*.yaml")} <= variants


def test_a_net_of_imagenet_is_taken_as_timm_has_it(composed):
    params = composed("recipe=paper data=imagenet net=vit_base data.root=/images")
    assert (params.base.pretrained, params.base.epochs) == (True, 0)


def test_a_single_override_wins_over_a_variant(composed):
    params = composed("recipe=paper ablation=layers_fc ddpm.steps=7")
    assert (params.ddpm.steps, params.autoencoder.latent_dim) == (7, 512)


def test_every_experiment_that_the_facts_name_has_a_recipe():
    tags = {row["tag"] for row in RECIPES}
    text = (REFERENCE / "paper_tables.yaml").read_text()
    named = set(re.findall(r"\b(?:main|full|ablation)/[a-z0-9]+_[a-z0-9]+", text))
    logged = {row["tag"] for row in read_csv("author_logs.csv")}
    assert len(named) > 15
    assert len(logged) == 62
    assert named | logged <= tags


def test_tables_1_and_2_have_an_experiment_in_each_cell():
    tables = yaml.safe_load((REFERENCE / "paper_tables.yaml").read_text())
    rows = [row for name in ("table_1", "table_2") for row in tables[name]["values"].values()]
    tags = [row["tag"] for row in RECIPES]
    of_tables = [tag for tag in tags if re.match("main/(?!cifar10_)|full/(?!mnist|svhn)", tag)]
    assert len(of_tables) == sum(len(row) for row in rows) == 46

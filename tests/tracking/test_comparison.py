"""The ten columns, names, notes and the models that MLflow lists, from hand-made files."""

import json
import math
from types import SimpleNamespace as Namespace

import numpy as np
import pandas as pd
import pytest
import yaml

from pdiff.audit.pareto import pareto_front
from pdiff.novelty.claims import bracket, shown
from pdiff.tracking import comparison
from pdiff.tracking.comparison import COLUMNS, as_markdown, as_text, changed, title
from pdiff.tracking.files import Folder, flat_params, key_of
from tests.conftest import ROOT
from tests.toys.tracked import write

PARAMS = {"noise": {"latent": 0.1}, "seed": {"model": 0}}
FIT = json.loads((ROOT / "metrics/novelty.json").read_text())
GROUPS = """group,models,accuracy,accuracy_difference,accuracy_difference_low,\
accuracy_difference_high,max_similarity,similarity_within
original,300,0.9162,0.0023,{low},{high},0.9766,0.7353
ensemble,1,0.9211,-0.0051,-0.0105,0.0002,0.9333,
generated,200,0.9160,,,,0.9080,0.7510
"""


@pytest.fixture
def experiment(tmp_path, raw):
    """A folder with the files of one experiment; the interval and the fit may be given."""

    def made(low: float = 0.0009, high: float = 0.0037, **fit: float | None) -> Folder:
        metrics = {**FIT, "fit": {**FIT["fit"], **fit}}
        files = {
            "metrics/novelty.json": json.dumps(metrics),
            "report/audit/groups.csv": GROUPS.format(low=low, high=high),
            "params.yaml": yaml.safe_dump(raw),
        }
        write(files, tmp_path)
        return Folder(tmp_path)

    return made


# Names


def test_what_changed_is_said_against_the_reference():
    reference = flat_params(PARAMS)
    other = {**reference, "noise.latent": "0.01", "seed.model": "1"}
    assert changed(other, reference) == "noise.latent=0.01, seed.model=1"
    assert changed(reference, reference) == ""


def test_another_data_set_stands_for_all_that_follows_from_it():
    reference = {"data.name": "digits", "data.size": "32", "data.root": ".", "ddpm.steps": "800"}
    other = {"data.name": "mnist", "data.size": "28", "data.root": "/x", "ddpm.steps": "9"}
    assert changed(other, reference) == "data.name=mnist, ddpm.steps=9"


def test_where_files_lie_is_no_change():
    assert changed({"data.root": "/x", "base.watch": "a.py"}, {"data.root": "."}) == ""


OTHER = {**PARAMS, "noise": {"latent": 0.01}}


@pytest.mark.parametrize(
    ("key", "params", "baseline", "name"),
    [
        ("mine", OTHER, PARAMS, "mine"),
        ("batch-norm", OTHER, PARAMS, "batch-norm"),  # but no words of DVC's
        ("glued-coof", OTHER, PARAMS, "noise.latent=0.01"),
        (key_of(OTHER), OTHER, PARAMS, "noise.latent=0.01"),
        ("repro-0a1b2c3d", OTHER, PARAMS, "repro-0a1b2c3d"),  # of other parameters
        ("glued-coof", PARAMS, PARAMS, "default"),
        ("glued-coof", PARAMS, {}, "glued-coof"),  # nothing to compare with
        ("glued-coof", {"a": dict.fromkeys("bcdef", 1)}, PARAMS, "a.b=1, a.c=1, a.d=1 +2"),
    ],
)
def test_an_experiment_without_a_name_is_called_by_its_overrides(key, params, baseline, name):
    assert title(key, params, baseline) == name


# One experiment


@pytest.mark.parametrize(
    ("low", "high", "fit", "word"),
    [
        (0.0009, 0.0037, {}, "better"),
        (-0.003, -0.0001, {}, "worse"),
        (-0.0019, 0.0019, {}, "equal"),  # novelty.margin_accuracy is 0.002
        (-0.0019, 0.0021, {}, "unknown"),
        (math.nan, math.nan, {}, "unknown"),
        (0.0009, 0.0037, {"r2": 0.97}, "unfit"),
        (0.0009, 0.0037, {"r2": None}, "unfit"),
        (0.0009, 0.0037, {"variance_most": 1.3}, "unfit"),
    ],
)
def test_the_word_is_of_the_interval_and_only_where_the_generator_fits(
    experiment, low, high, fit, word
):
    assert comparison.texts(experiment(low, high, **fit))["word"] == word


def test_the_columns_come_from_the_audit_and_the_fit(experiment):
    assert comparison.texts(experiment()) == {
        "gen - orig": "+0.23 [+0.09, +0.37]",
        "gen - ens": "-0.51 [-1.05, +0.02]",
        "word": "better",
        "latents": "0.81-1.11",
    }


def test_without_an_audit_differences_have_no_interval(experiment, tmp_path):
    experiment()
    (tmp_path / "report/audit/groups.csv").unlink()
    found = comparison.texts(Folder(tmp_path))
    assert (found["gen - orig"], found["gen - ens"]) == ("-0.02", "-0.51")


def test_results_of_an_earlier_version_have_the_columns_that_they_have(experiment, tmp_path):
    experiment()
    (tmp_path / "params.yaml").write_text("noise: {latent: 0.1}")
    assert comparison.texts(Folder(tmp_path)).keys() == {"gen - orig", "gen - ens"}
    assert "The generator" not in comparison.note(Folder(tmp_path))


@pytest.mark.parametrize("value", [0.00235, -0.0005, 0.0])
def test_a_difference_is_rounded_as_in_the_verdict(value):
    written = f"{shown(value, 'accuracy')} {bracket(value - 1, value + 1, 'accuracy')}"
    assert comparison.points(value, value - 1, value + 1) == written


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, ""), (45.2, "45 s"), (720.0, "12 min"), (12_240.0, "3.4 h")]
)
def test_durations_are_short(seconds, text):
    assert comparison.duration(seconds) == text


def test_the_note_says_whether_the_generator_fits_and_compares_the_groups(experiment):
    lines = comparison.note(experiment(r2=0.5)).splitlines()
    assert lines[0].startswith("**The generator does not fit: the codec's R² is 0.50")
    assert lines[4:7] == [
        "| generated | 200 | 91.60 | - | 0.908 | 0.751 |",
        "| original | 300 | 91.62 | +0.23 [+0.09, +0.37] | 0.977 | 0.735 |",
        "| ensemble | 1 | 92.11 | -0.51 [-1.05, +0.02] | 0.933 | - |",
    ]


def test_the_front_is_that_of_the_audit_and_the_best_are_generated(tmp_path):
    draw = np.random.default_rng(0)
    table = pd.DataFrame({"group": ["original"] * 30 + ["generated"] * 40})
    table["model"] = table.groupby("group").cumcount()
    table["accuracy"], table["max_similarity"] = draw.random(70), draw.random(70)
    write({"data/models.csv": table.to_csv(index=False)}, tmp_path)
    found = comparison.best_models(Folder(tmp_path))
    named = ["group", "model"]
    front = table[pareto_front(table)]
    assert len(front) > 2
    assert found[found["on_front"]][named].values.tolist() == front[named].values.tolist()
    best = table[table["group"] == "generated"].nlargest(20, "accuracy")
    assert {*best["model"]} <= {*found[found["group"] == "generated"]["model"]}
    assert len(found) == len({*map(tuple, [*front[named].values, *best[named].values])})


def test_equal_models_count_once_on_the_front(tmp_path):
    table = "group,model,accuracy,max_similarity\n" + "noised,0,0.9,0.5\n" * 50 + "noised,1,,0.1\n"
    write({"data/models.csv": table}, tmp_path)
    assert len(comparison.best_models(Folder(tmp_path))) == 1


def test_without_a_table_of_models_there_are_none(tmp_path):
    assert comparison.best_models(Folder(tmp_path)).empty


# The table


def row(**given: str) -> dict[str, str]:
    difference = "-10.02 [-10.19, +10.12]"
    values = {"gen - orig": difference, "gen - ens": difference, "word": "unknown"}
    values |= {"max sim": "0.908", "within": "0.751", "codec R2": "0.988", "time": "12 min"}
    return dict.fromkeys(COLUMNS, "") | values | {"latents": "0.81-1.11"} | given


def test_the_table_fits_a_terminal_of_120_characters_and_loses_nothing():
    long = {"name": "a name that somebody has thought of", "changed": "seed.model=1, ddpm.steps=9"}
    lines = as_text([row(**long)]).splitlines()
    assert max(map(len, lines)) <= 120
    starts = [lines[0].index(heading) for heading in ("name", "changed", "gen - orig")]
    for name, start, end in zip(long, starts, starts[1:], strict=False):
        whole = "".join(line[start:end].strip() for line in lines[1:])
        assert whole.replace(" ", "") == long[name].replace(" ", "")


def test_the_table_has_a_heading_and_a_line_each():
    lines = as_text([row(name="b", changed="x=1"), row(name="c")]).splitlines()
    assert [line.split()[0] for line in lines] == ["name", "b", "c"]
    assert as_text([]).split() == " ".join(COLUMNS).split()
    assert as_markdown([row(name="b")]).count("\n") == 2


def test_a_run_without_results_says_its_status():
    tags = {"word": "equal", "time": "1 min", "changed": "x=1"}
    data = Namespace(tags=tags, metrics={"max sim": 0.5})
    run = Namespace(data=data, info=Namespace(run_name="a", status="FAILED"))
    (found,) = comparison.rows([run])
    assert (found["word"], found["changed"], found["max sim"]) == ("failed", "x=1", "0.500")
    assert tuple(sorted(found)) == tuple(sorted(COLUMNS))

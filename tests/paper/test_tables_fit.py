"""The table that says whether generators learned, from what finished runs have left."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pdiff.paper.fit import write_fit
from pdiff.paper.pipelines import Setting
from pdiff.paper.results import Result
from pdiff.system.errors import InputError
from pdiff.tracking.files import Folder

SETTING = Setting("quick", "digits", "resnet18", ("data.root=/images",))
FITTED = {
    **{"r2": 0.99, "variance_first": 1.0, "variance_least": 0.9, "variance_median": 1.0},
    **{"variance_most": 1.1, "outside": 0.01, "loss_training": 0.2, "loss_held_out": 0.2},
    **{"loss_gaussian": 0.25, "reconstructed_more_alike": 0.01},
}


def result(folder: Path, fit: dict, accuracy: float = 0.91, within: float = 0.7) -> Result:
    """A finished run whose generated models have this accuracy and similarity."""
    (folder / "metrics").mkdir(parents=True)
    (folder / "metrics/novelty.json").write_text(json.dumps({"fit": fit}))
    groups = {"original": (0.91, 0.68), "second_run": (0.912, 0.7), "ensemble": (0.92, None)}
    groups |= {"reconstructed": (0.911, 0.69), "generated": (accuracy, within)}
    rows = [
        {"group": g, "accuracy": a, "max_similarity": 0.8, "similarity_within": w}
        for g, (a, w) in groups.items()
    ]
    (folder / "report/audit").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "report/audit/groups.csv", index=False)
    return Result(Folder(folder), "abc1234", folder.name)


@pytest.fixture
def written(tmp_path):
    def write(recipe: list[Result], old: Sequence[Result] = (), setting: Setting = SETTING):
        found = {(i, i): {"": run} for i, run in enumerate(recipe)}
        found |= {(9, i): {"normalise_tensor": run} for i, run in enumerate(old)}
        paths, frame = write_fit(setting, found, ["s7: not run"], tmp_path / "out", "make fit")
        return paths[1], frame

    return write


def cells(path: Path, start: str) -> list[str]:
    [line] = [line for line in path.read_text().splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_bars_are_held_against_the_mean_over_runs(tmp_path, written):
    runs = [result(tmp_path / "a", FITTED), result(tmp_path / "b", FITTED | {"r2": 0.98})]
    old = FITTED | {"r2": 0.2, "variance_least": 0.1, "loss_held_out": None}
    text, frame = written(runs, [result(tmp_path / "c", old)])
    assert "2 of this recipe, 1 of normalise_tensor" in text.read_text()
    assert cells(text, "codec: R²")[1:] == ["at least 0.98", "0.985 ± 0.007", "**0.200**, missed"]
    assert cells(text, "latents: least")[2:] == ["0.900 ± 0.000", "**0.100**, missed"]
    assert cells(text, "latents: held-out")[2:] == ["0.800 ± 0.000", "**not measured**, missed"]
    bars = frame[frame["recipe"] == ""].dropna(subset="met")
    assert bars["met"].all()
    assert len(bars) == 8


@pytest.mark.parametrize(("accuracy", "within"), [(0.92, 0.7), (0.912, 0.8)])
def test_models_are_held_against_fresh_runs(tmp_path, written, accuracy, within):
    _, frame = written([result(tmp_path / "a", FITTED, accuracy, within)])
    bars = frame.dropna(subset="met").set_index("row")
    wrong = [name for name, met in bars["met"].items() if not met]
    expected = "accuracy" if accuracy > 0.915 else "similarity within"
    assert wrong == [f"models: {expected}, less fresh runs'"]


def test_groups_stand_beside_each_other_with_their_spread(tmp_path, written):
    runs = [result(tmp_path / "a", FITTED, 0.91), result(tmp_path / "b", FITTED, 0.93)]
    text, _ = written(runs)
    assert cells(text, "generated")[1:] == ["92.00 ± 1.41", "0.800 ± 0.000", "0.700 ± 0.000"]
    assert cells(text, "ensemble")[1:] == ["92.00 ± 0.00", "0.800 ± 0.000", "-"]


def test_a_run_without_an_audit_is_named(tmp_path, written):
    old = result(tmp_path / "old", FITTED)
    (tmp_path / "old/report/audit/groups.csv").unlink()
    with pytest.raises(InputError, match="old: no audit or no measured fit"):
        written([old])


def test_nothing_run_is_said_with_what_is_missing(written):
    expected = "no experiment of digits, resnet18, recipe quick is there: s7: not run"
    with pytest.raises(InputError, match=expected):
        written([])


def test_other_overrides_have_files_of_their_own_and_many_fit_the_file_system(tmp_path, written):
    run = result(tmp_path / "a", FITTED)
    assert written([run])[0].name == "fit_quick_digits_resnet18.md"
    many = (*SETTING.overrides, *(f"data.mean=[{i / 7}]" for i in range(60)))
    path, _ = written([run], setting=replace(SETTING, overrides=many))
    assert path.name.startswith("fit_quick_digits_resnet18_data.mean")
    assert path.read_text().endswith("\n- s7: not run\n")

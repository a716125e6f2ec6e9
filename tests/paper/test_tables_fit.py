"""The table that says whether generators learned, from what finished runs have left."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pdiff import outputs
from pdiff.core.files import write_json
from pdiff.paper.experiments import Setting
from pdiff.paper.fit import write_fit
from pdiff.paper.results import Result
from pdiff.system.errors import InputError
from pdiff.tracking.files import Folder
from tests.toys.runs import FIT, cells, write_groups

SETTING = Setting("quick", "digits", "resnet18", ("data.root=/images",))


def result(folder: Path, fit: dict, accuracy: float = 0.91, within: float = 0.7) -> Result:
    """A finished run whose generated models have this accuracy and similarity."""
    write_json(folder / outputs.NOVELTY_METRICS, {"fit": fit})
    groups = {"original": (0.91, 0.8, 0.68), "fresh": (0.912, 0.8, 0.7)}
    groups |= {"ensemble": (0.92, 0.8, None), "reconstructed": (0.911, 0.8, 0.69)}
    write_groups(folder, groups | {"generated": (accuracy, 0.8, within)})
    return Result(Folder(folder), "abc1234", folder.name)


@pytest.fixture
def written(tmp_path):
    def write(recipe: list[Result], old: Sequence[Result] = (), setting: Setting = SETTING):
        found = {(i, i): {"": run} for i, run in enumerate(recipe)}
        found |= {(9, i): {"normalise_tensor": run} for i, run in enumerate(old)}
        paths, frame = write_fit(setting, found, ["s7: not run"], tmp_path / "out", "make fit")
        return paths[1], frame

    return write


def test_bars_are_held_against_the_mean_over_runs(tmp_path, written):
    runs = [result(tmp_path / "a", FIT), result(tmp_path / "b", FIT | {"r2": 0.98})]
    old = FIT | {"r2": 0.2, "variance_least": 0.1, "loss_held_out": None}
    path, frame = written(runs, [result(tmp_path / "c", old)])
    text = path.read_text()
    assert "2 of this recipe, 1 of normalise_tensor" in text
    assert cells(text, "codec: R²", 3) == ["at least 0.98", "0.985 ± 0.007", "**0.200**, missed"]
    assert cells(text, "latents: least", 2) == ["0.850 ± 0.000", "**0.100**, missed"]
    assert cells(text, "latents: held-out", 2) == ["0.900 ± 0.000", "**not measured**, missed"]
    assert frame[frame["recipe"] == ""].dropna(subset="met")["met"].tolist() == [True] * 8


@pytest.mark.parametrize(
    ("accuracy", "within", "data", "wrong"),
    [
        (0.92, 0.7, "digits", ["accuracy"]),
        (0.912, 0.8, "digits", ["similarity within"]),
        (0.917, 0.7, "digits", []),  # 360 test images are few
        (0.917, 0.7, "cifar10", ["accuracy"]),
    ],
)
def test_models_are_held_against_fresh_runs(tmp_path, written, accuracy, within, data, wrong):
    run = result(tmp_path / "a", FIT, accuracy, within)
    _, frame = written([run], setting=replace(SETTING, data=data))
    bars = frame.dropna(subset="met").set_index("row")["met"].astype(bool)
    assert list(bars.index[~bars]) == [f"models: {name}, less fresh runs'" for name in wrong]


def test_groups_stand_beside_each_other_with_their_spread(tmp_path, written):
    runs = [result(tmp_path / "a", FIT, 0.91), result(tmp_path / "b", FIT, 0.93)]
    text = written(runs)[0].read_text()
    assert cells(text, "generated", 3) == ["92.00 ± 1.41", "0.800 ± 0.000", "0.700 ± 0.000"]
    assert cells(text, "ensemble", 3) == ["92.00 ± 0.00", "0.800 ± 0.000", "-"]
    assert "| soup of 8" not in text and text.endswith("\n- s7: not run\n")


def test_a_run_without_an_audit_is_named(tmp_path, written):
    old = result(tmp_path / "old", FIT)
    (tmp_path / "old/report/audit/groups.csv").unlink()
    with pytest.raises(InputError, match="old: no audit or no measured fit"):
        written([old])


def test_nothing_run_is_said_with_what_is_missing(written):
    expected = "no experiment of digits, resnet18, recipe quick is there: s7: not run"
    with pytest.raises(InputError, match=expected):
        written([])


def test_other_overrides_have_files_of_their_own(tmp_path, written):
    run = result(tmp_path / "a", FIT)
    assert written([run])[0].name == "fit_quick_digits_resnet18.md"
    other = replace(SETTING, overrides=("noise.latent=0.5",))
    assert written([run], setting=other)[0].name == "fit_quick_digits_resnet18_noise.latent_0.5.md"

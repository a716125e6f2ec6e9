"""The table that compares checkpoints of one run with those of thirty, from what runs left."""

from pathlib import Path

import pandas as pd
import pytest

from pdiff.novelty.summary import save_table
from pdiff.paper.cli import main
from pdiff.paper.experiments import Setting
from pdiff.paper.results import Result
from pdiff.paper.runs import write_runs
from pdiff.system.errors import InputError
from pdiff.tracking.files import Folder
from tests.toys.runs import cells, write_groups

SETTING = Setting("quick", "digits", "resnet18")


def leave_audit(folder: Path, accuracy: float, apart: float = 0.8) -> Result:
    """A run whose originals and generated models have this accuracy."""
    groups = {"original": (accuracy, 0.9, 0.7), "generated": (accuracy, 0.85, 0.72)}
    write_groups(folder, groups | {"ensemble": (0.95, 0.8, None)})
    names, ways = ["original", "generated", "ensemble"], ["itself", "neighbours"]
    near = {"left_out": ways, "max_similarity": [0.9, apart], "nearest": [0.3, 5.0]}
    others = {
        "distances": {"group": names, "nearest_mean": [0.3, 6.0, 4.5]},
        "votes": {"group": names[:2], "vote_gain": [0.008, 0.005]},
        "neighbours": near,
    }
    for name, columns in others.items():
        save_table(folder / f"report/audit/{name}.csv", pd.DataFrame(columns))
    return Result(Folder(folder), "abc1234", "run")


def test_each_row_is_the_mean_over_pipelines_of_one_group(tmp_path):
    found = {(i, i): {"": leave_audit(tmp_path / f"{i}", 0.9 + i / 50)} for i in range(2)}
    found[0, 0]["runs_30"] = leave_audit(tmp_path / "thirty", 0.93, apart=0.75)
    paths, frame = write_runs(SETTING, found, ["s9: not run"], tmp_path, "make it")
    text = paths[1].read_text()
    assert "2 of one run, 1 of thirty runs, `ablation=runs_30`;" in text
    one = [line for line in text.splitlines() if line.startswith("| one run | original")]
    assert cells("\n".join(one[:1]), "one run")[2:] == [
        *("91.00 ± 1.41", "0.900 ± 0.000", "0.700 ± 0.000", "0.30 ± 0.00", "0.80 ± 0.00")
    ]
    assert cells(one[1], "one")[1:4] == ["originals, without neighbours", "-", "0.800 ± 0.000"]
    assert cells(text, "one run | generated")[-1] == "0.50 ± 0.00"
    thirty = frame[frame["runs"] == "runs_30"].set_index("group")
    assert thirty.loc["apart", "max_similarity"] == 0.75
    assert thirty.loc["generated", ["accuracy", "n"]].tolist() == [0.93, 1]
    assert text.endswith("- s9: not run\n")


def test_a_run_without_an_audit_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    run = Result(Folder(tmp_path / "empty"), "abc1234", "s0")
    with pytest.raises(InputError, match=r"s0: no report/audit/groups\.csv"):
        write_runs(SETTING, {(0, 0): {"": run}}, [], tmp_path, "make it")
    with pytest.raises(InputError, match="runs: no experiment of digits"):
        write_runs(SETTING, {}, [], tmp_path, "make it")


def test_a_dry_run_names_both_experiments_of_each_seed(capsys):
    arguments = ["runs", "--data", "digits", "--recipe", "quick", "--seeds", "7,8", "--whole"]
    assert main([*arguments, "--dry-run"]) == 0
    assert "runs: 4 experiments, 4 to run" in capsys.readouterr().out

"""The paper's claims over whole pipelines: what is measured, and the document that says it."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from scipy import stats

from pdiff.novelty.claims import Claim
from pdiff.novelty.summary import save_table
from pdiff.paper import cli, results
from pdiff.paper.cli import seed_pairs
from pdiff.paper.experiments import Setting, make_experiment
from pdiff.paper.results import Found
from pdiff.paper.verdict import (
    ABLATIONS,
    ALONE,
    PRIMARY,
    QUESTIONS,
    claims_of,
    group_means,
    nearest_soup,
    write_verdict,
)
from pdiff.system.errors import InputError
from tests.conftest import ROOT
from tests.toys.runs import (
    AUDIT,
    FIT,
    GROUPS,
    UNFITTED,
    cells,
    leave,
    make_pipelines,
    make_run,
    write_results,
)

SETTING = Setting("quick", "digits", "resnet18")
WHOLE = (0.0, 0.001, -0.001)


def write(found: Found, folder: Path, setting: Setting = SETTING) -> tuple[str, pd.DataFrame]:
    """The document, and the rows of this setting."""
    paths, frame = write_verdict(setting, found, [], folder, "make it")
    return paths[1].read_text(), frame.set_index("row")


def words(claims: dict[str, Claim]) -> list[str | None]:
    return [claims[key].word for key in PRIMARY]


# what is measured


@pytest.mark.parametrize(
    ("generated", "word"), [(GROUPS["generated"], "better"), ((0.79, 0.99, 0.92), "worse")]
)
def test_primary_claims_are_better_where_they_are_true_and_worse_where_false(
    tmp_path, generated, word
):
    claims = claims_of(make_pipelines(tmp_path, *WHOLE, groups=GROUPS | {"generated": generated}))
    assert words(claims) == [word] * 3
    assert {key for key, claim in claims.items() if claim.word} == {*PRIMARY, *ALONE}


def test_models_that_differ_by_less_than_the_margin_are_equal(tmp_path):
    close = GROUPS | {"generated": (0.90, 0.93, 0.92)}
    shifts = (0.0003, -0.0003, 0.0002, -0.0002)
    found = claims_of(make_pipelines(tmp_path, *shifts, groups=close))
    assert words(found) == ["equal within the margin", "worse", "equal within the margin"]


def test_a_difference_is_positive_where_the_paper_is_right(tmp_path):
    claims = claims_of(make_pipelines(tmp_path, 0.0, 0.0))
    expected = {"1": 0.02, "2": 0.01, "3": 0.05, "3b": 0.01, "4": -0.01, "4b": 0.02, "5": 0.02}
    expected |= {"5b": 0.005, "1b": 0.02, "7": 0.04, "7b": 0.02, "8": 0.01, "8b": 0.01}
    assert {key: claims[key].estimate for key in expected} == pytest.approx(expected)
    assert {key: claims[key].low for key in expected} == pytest.approx(expected)


def test_the_chosen_model_is_the_one_that_validation_likes_best(tmp_path):
    run = make_run(tmp_path / "run")
    path = run.tree.path / "data/models.csv"
    models = pd.read_csv(path)
    models.loc[(models["group"] == "generated") & (models["model"] == 0), "choosing_accuracy"] = 1
    models.to_csv(path, index=False)
    chosen = group_means(run)["chosen"]
    assert chosen[["generated", "original"]].tolist() == pytest.approx([0.91, 0.91])


@pytest.mark.parametrize("changed", [{"soup_8": (0.8, 0.9, 0.919)}, {"ensemble": (0.9, 0.9, 0.92)}])
def test_the_soup_of_equal_accuracy_is_chosen_on_validation(tmp_path, changed):
    groups = GROUPS | {"soup_2": (0.92, 0.95, 0.90)} | changed  # soup_2 is as good on test images
    assert nearest_soup(group_means(make_run(tmp_path, groups=groups))) in changed
    text = write(make_pipelines(tmp_path, *WHOLE, groups=groups), tmp_path)[0]
    label = "soup of 8" if "soup_8" in changed else "ensemble"
    assert f"Soups of equal accuracy: {label} in 3 runs." in text


def test_several_models_of_one_base_are_averaged_first(tmp_path):
    shifts = {(0, 0): 0.0, (0, 1): 0.002, (1, 0): 0.01}
    found = {
        pair: {"": make_run(tmp_path / f"{i}", shift)}
        for i, (pair, shift) in enumerate(shifts.items())
    }
    assert claims_of(found)["1"].differences == pytest.approx((0.021, 0.03))
    text, frame = write(found, tmp_path)
    assert "2 pipelines, 3 runs, reported on the test split" in text
    assert frame.loc["1", "n"] == 2


def test_groups_that_are_not_there_are_not_run_and_the_others_are_judged(tmp_path):
    few = {name: GROUPS[name] for name in ("original", "ensemble", "generated")}
    text, frame = write(make_pipelines(tmp_path, *WHOLE, groups=few), tmp_path)
    answers = ["better", "better", "not run: soup of equal accuracy", "not run: gaussian_full"]
    assert frame.loc[["1", "2", "3", "7"], "answer"].tolist() == answers
    assert cells(text, "7 |")[2:6] == ["-", "-", "-", "0"]


def test_a_pipeline_without_a_group_does_not_count_in_its_row(tmp_path):
    found = make_pipelines(tmp_path / "a", *WHOLE)
    few = {name: values for name, values in GROUPS.items() if name != "held_back"}
    found[0, 0] = {"": make_run(tmp_path / "b", groups=few)}
    claims = claims_of(found)
    assert (len(claims["5"].differences), len(claims["1"].differences)) == (2, 3)


def test_ablations_are_held_against_each_other(tmp_path):
    similar = {"checkpoints_10": 0.97, "noise_latent": 0.9, "noise_param": 0.9, "noise_none": 0.9}
    accuracy = {"noise_latent": 0.92, "noise_param": 0.91}
    found = make_pipelines(tmp_path, *WHOLE)
    for name, value in similar.items():
        groups = GROUPS | {"generated": (accuracy.get(name, 0.9), value, 0.9)}
        for pair in list(found)[:2]:
            found[pair][name] = make_run(tmp_path / name, groups=groups)
    claims = claims_of(found)
    estimates = [claims[key].estimate for key in ("9", "10", "10b")]
    assert estimates == pytest.approx([0.09, 0.01, 0.02])
    assert len(claims["9"].differences) == 2


def test_no_stage_but_the_check_of_all_params_depends_on_the_margins():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    listed = {name: str(stage.get("params")) for name, stage in stages.items()}
    whole = {name for name, stage in stages.items() if "novelty" in stage.get("params", [])}
    assert (whole | {name for name, text in listed.items() if "margin" in text}) <= {"check_params"}


# a generator that has not learned has no verdict


def test_the_bars_are_held_against_the_mean_over_the_runs(tmp_path):
    found = make_pipelines(tmp_path / "well", *WHOLE, 0.0)
    most = [1.27, 1.2, 1.3, 1.2]  # 1.2425 on average; the bar is 1.25
    for (pair, value), name in zip(zip(found, most, strict=True), "abcd", strict=True):
        found[pair] = {"": make_run(tmp_path / name, fit=FIT | {"variance_most": value})}
    assert claims_of(found)["1"].word == "better"
    text, _ = write(found, tmp_path)
    assert cells(text, "0 |")[-1] == "**fits: on average; 2 of 4 runs miss a bar**"
    found[3, 3] = {"": make_run(tmp_path / "e", fit=FIT | {"variance_most": 1.25})}
    assert claims_of(found)["1"].word is None


@pytest.mark.parametrize(
    ("fit", "numbers", "answer"),
    [
        (FIT, "R² 0.99, variance of the first latent direction 1.10, outside 0.03, ", "fits"),
        (UNFITTED, "R² 0.99, variance of the first latent direction 0.12, ", "does not fit"),
        (FIT | {"r2": None}, "R² -, variance of the first latent direction 1.10, ", "does not fit"),
        (None, "R² -, variance of the first latent direction -, outside -, ", "not measured"),
    ],
)
def test_row_0_says_whether_the_generator_learned(tmp_path, fit, numbers, answer):
    text, frame = write(make_pipelines(tmp_path, *WHOLE, fit=fit), tmp_path)
    question, *others, word = cells(text, "0 |")[1:]
    assert question.startswith(f"did the generator learn? ({numbers}")
    loss = "-" if fit is None else "0.90"
    assert question.endswith(f"held-out / Gaussian loss {loss})")
    number = "-" if not fit or fit["r2"] is None else "R² 0.990"
    assert others == [number, "-" if number == "-" else "[0.990, 0.990]", "-", "3"]
    assert word == f"**{frame.loc['0', 'answer']}**"
    assert word.startswith(f"**{answer}")
    if fit is UNFITTED:
        assert "along the originals' leading directions generated latents have 0.10 to" in word
    expected = "better" if fit is FIT else f"no word: {answer}"
    assert cells(text, "1 |")[-1].startswith(f"**{expected}**")


# the document


def test_a_row_shows_the_difference_its_interval_and_the_word(tmp_path):
    text, frame = write(make_pipelines(tmp_path, *WHOLE), tmp_path)
    # 2 points, give or take t (4.302653) times 0.1 / sqrt(3); twice the p of t = 34.64, as
    # claim 3, without any spread, comes first
    answer = "**better** (power 19%)"
    assert cells(text, "1 |")[2:] == ["+2.00", "[+1.75, +2.25]", "0.002", "3", answer]
    assert frame.loc["1", "p"] == pytest.approx(2 * 2 * stats.t.sf(0.02 / 0.001 * 3**0.5, 2))
    alone = ["-0.010", "[-0.010, -0.010]", "0.000", "3", "**worse** (power 100%)"]
    assert cells(text, "4 |")[2:] == alone
    assert cells(text, "7 |")[-1] == "described"
    section = text.partition("## digits")[2]
    order = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| ")]
    keys = ["0", *PRIMARY, *ALONE, "6", *(key for key in QUESTIONS if key not in PRIMARY | ALONE)]
    assert order == ["| #", "| -", *(f"| {key}" for key in keys)]


def test_what_is_unknown_stands_there_with_the_power_at_the_margin(tmp_path):
    text, frame = write(make_pipelines(tmp_path, 0.03, -0.02, -0.05), tmp_path)
    assert 0.016 < frame.loc["1", "power"] < 0.03
    assert cells(text, "1 |")[-1] == "**unknown** (power 2%)"
    assert frame.loc["3", "power"] == 1


def test_one_pipeline_is_only_described(tmp_path):
    text, frame = write(make_pipelines(tmp_path, 0.0), tmp_path)
    assert cells(text, "1 |")[2:] == ["+2.00", "-", "-", "1", "**no word: one pipeline**"]
    assert frame.loc["1", ["low", "high", "p", "power"]].isna().all()


def test_a_verdict_on_one_data_set_leaves_the_others(tmp_path):
    others = Setting("quick", "cifar10_images", "resnet18", ("data.root=/somewhere",))
    write(make_pipelines(tmp_path / "a", *WHOLE), tmp_path)
    write(make_pipelines(tmp_path / "b", *WHOLE), tmp_path, others)
    worse = make_pipelines(tmp_path / "c", -0.04, -0.041, -0.039)
    text, _ = write(worse, tmp_path)
    assert text == write(worse, tmp_path)[0]
    titles = [line for line in text.splitlines() if line.startswith("#")]
    expected = ["cifar10_images, resnet18, recipe quick", "digits, resnet18, recipe quick"]
    assert titles[0] == "# Do the paper's claims hold?"
    assert titles[3:] == [f"## {title}" for title in expected]
    first = [line for line in text.splitlines() if line.startswith("| 1 better than")]
    answers = [cell.split()[0] for cell in cells(first[0], "1 better")[2:]]
    assert answers == ["**better**", "**worse**"]
    frame = pd.read_csv(tmp_path / "verdict.csv").set_index(["section", "row"])
    assert [frame.loc[(title, "1"), "answer"] for title in expected] == ["better", "worse"]


def test_other_overrides_are_another_section_and_where_files_lie_is_not():
    same = replace(SETTING, overrides=("data.root=/elsewhere",))
    other = replace(SETTING, overrides=("autoencoder.decode_norm=running",))
    assert same.title == SETTING.title
    assert other.title == "digits, resnet18, recipe quick, autoencoder.decode_norm=running"
    weights = replace(SETTING, overrides=("base.weights=/somewhere/of/mine.safetensors",))
    assert weights.title == "digits, resnet18, recipe quick, base.weights=mine.safetensors"


def test_near_duplicates_are_described_where_there_was_an_audit(tmp_path):
    text, _ = write(make_pipelines(tmp_path / "a", *WHOLE, audit=AUDIT), tmp_path)
    assert "models lie 0.50 times as far from the nearest checkpoint as checkpoints do" in text
    assert "at 0.40 of the checkpoints' distance from their mean, 25% of it (squared)" in text
    text, _ = write(make_pipelines(tmp_path / "b", *WHOLE), tmp_path)
    assert "nearest checkpoint" not in text


@pytest.mark.parametrize(
    ("twentieth", "answer", "shown"),
    [
        ((6.0, 7.0, 8.0), "none", "7.0 steps [4.5, 9.5]"),
        ((0.1, 0.1, 0.2), "near-duplicates", "0.1 steps [-0.0, 0.3]"),
        ((0.5, 1.0, 4.0), "unknown", "1.8 steps [-2.9, 6.5]"),
    ],
)
def test_near_duplicates_lie_within_an_optimiser_step_of_a_checkpoint(
    tmp_path, twentieth, answer, shown
):
    """Distances are in units of the originals' mean distance to their nearest, 0.5 here."""
    found = make_pipelines(tmp_path, *WHOLE)
    for runs, value in zip(found.values(), twentieth, strict=True):
        rows = [("original", 0.5, 0.2), ("generated", 9.0, value / 2), ("fresh", 9.0, 4.0)]
        columns = ["group", "nearest_mean", "nearest_median_low"]
        path = runs[""].tree.path / "report/audit/distances.csv"
        save_table(path, pd.DataFrame(rows, columns=columns))
    text, _ = write(found, tmp_path)
    row = cells(text, "6 |")
    assert row[1] == "no near-duplicates of checkpoints (a fresh run: 8.0 steps)"
    assert f"{row[2]} {row[3]}" == shown
    assert row[-1].startswith(f"**{answer}** (power ")


def test_programs_read_the_same_rows(tmp_path):
    paths, frame = write_verdict(SETTING, make_pipelines(tmp_path, *WHOLE), [], tmp_path, "make it")
    found = {row["row"]: row for row in json.loads(paths[2].read_text())}
    assert list(found) == ["0", *PRIMARY, *ALONE, "6"]
    first = frame.set_index("row").loc["1"]
    assert found["1"] == {
        "setting": SETTING.title,
        "row": "1",
        "claim": "better than its checkpoints on average",
        "paper": "+0.8 (Table 8: 77.7 and 76.9 %)",
        "ours": first["estimate"],
        "interval": [first["low"], first["high"]],
        "unit": "accuracy",
        "verdict": "better",
        "power": first["power"],
        "pipelines": 3,
        "command": "make it",
        "commit": "abc1234",
    }
    assert found["6"]["ours"] is None


def test_a_test_split_that_also_chose_is_said(tmp_path):
    run = make_run(tmp_path / "run")
    paper = make_run(tmp_path / "paper", params={"data.split": "paper"})
    assert "Both splits are the test images" in write({(0, 0): {"": paper}}, tmp_path)[0]
    assert "Both splits" not in write({(0, 0): {"": run}}, tmp_path)[0]


def test_runs_that_are_not_there_are_named_with_the_reason_or_the_command(tmp_path):
    found, absent = make_pipelines(tmp_path, *WHOLE), ["s8: train_ddpm: lr", "s9: not run"]
    text = write_verdict(SETTING, found, absent, tmp_path, "make it")[0][1].read_text()
    assert "- s8: train_ddpm: lr\n- s9: not run\n" in text
    assert cells(text, "9 |")[-1] == "not run: ablation=checkpoints_10"
    assert cells(text, "6 |")[-1] == "**not run: the audit**"
    assert "- What was not run, runs with `make it --ablations`." in text


def test_without_any_run_nothing_is_written(tmp_path):
    with pytest.raises(InputError, match=r"no experiment of digits, resnet18, recipe quick .*: lr"):
        write_verdict(SETTING, {}, ["lr"], tmp_path, "command")
    assert not list(tmp_path.iterdir())


# the command


def test_seeds_pair_up_for_whole_pipelines_and_multiply_otherwise():
    assert seed_pairs("0,1,2", None, True) == [(0, 0), (1, 1), (2, 2)]
    assert seed_pairs("0,1", "3, 4", False) == [(3, 0), (3, 1), (4, 0), (4, 1)]
    assert seed_pairs("0,1,1", None, False) == [(0, 0), (0, 1)]


DIGITS = ("verdict", "--data", "digits", "--recipe", "quick", "--seeds", "0,1", "--whole")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder in which two pipelines and the ablation noise_latent of one have run."""
    for name in ("pdiff", "stages", "dvc.yaml", "requirements.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    tags, sources = {"mlflow.source.git.commit": "abc1234567"}, []
    for seed, row in ((0, ()), (1, ()), (1, ("ablation=noise_latent",))):
        experiment = SETTING.experiment(row, f"seed.base={seed}", f"seed.model={seed}")
        folder = tmp_path / "runs" / experiment.name
        accuracy, *rest = GROUPS["generated"]
        write_results(folder, GROUPS | {"generated": (accuracy + 0.01 * seed, *rest)})
        sources.append(leave(folder, experiment, **tags))
    monkeypatch.setattr(results, "experiments", lambda folder: sources)
    return tmp_path


def test_the_command_finds_runs_by_their_parameters(workplace, capsys, monkeypatch):
    logged = []
    monkeypatch.setattr(cli.tracking, "log_table", lambda *table: logged.append(table))
    assert cli.main([*DIGITS, "--no-run"]) == 0
    text = (workplace / "results/verdict.md").read_text()
    assert f"`python -m pdiff.paper {' '.join(DIGITS)}`, run at commit abc1234: 2 pip" in text
    assert cells(text, "10 |")[-1] == "not run: ablation=noise_param"
    assert f"wrote {workplace}/results/verdict.md" in capsys.readouterr().out
    ((name, table, paths),) = logged
    assert name == "verdict (digits, resnet18, recipe quick)"
    assert table["answer"].iloc[0] == "fits"
    assert table["estimate"].iloc[1] == pytest.approx((0.02 + 0.03) / 2)
    assert [path.name for path in paths] == ["verdict.csv", "verdict.md", "verdict.json"]


def test_a_dry_run_lists_what_is_missing_and_writes_nothing(workplace, capsys):
    arguments = [*DIGITS[:-2], "1", "--whole", "--dry-run", "--ablations"]
    assert cli.main(arguments) == 0
    assert f"verdict: {1 + len(ABLATIONS)} experiments, 3 to run" in capsys.readouterr().out
    assert cli.main([*DIGITS[:-2], "1", "--base-seeds", "3", "--dry-run"]) == 0
    assert " -S seed.base=3 -S seed.model=1\n" in capsys.readouterr().out
    assert not (workplace / "results").exists()


def test_the_experiments_are_the_ones_that_a_user_would_queue():
    by_hand = make_experiment(["recipe=quick", "data=digits", "net=resnet18", "seed.base=3"])
    assert SETTING.experiment((), "seed.base=3", "seed.model=0").sha == by_hand.sha

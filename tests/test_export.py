"""Models taken away: they load without p-diff and predict what the pipeline says they predict."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
import yaml

from pdiff.config import parse_params
from pdiff.core.files import load_tensors
from pdiff.export import main
from pdiff.images.batches import EvaluationBatches, load_images
from pdiff.nets.registry import load_net
from pdiff.parameters.stack import load_stack
from tests.conftest import ROOT, change
from tests.toys.pipeline import STAGES, run_stages

PREDICTIONS = {
    "generated": "data/predictions_generated.safetensors",
    "reconstructed": "data/predictions_generated.safetensors",
    "original": "data/predictions_originals.safetensors",
    "ensemble": "data/predictions_originals.safetensors",
}


@pytest.fixture
def folder(finished, tmp_path, monkeypatch) -> Path:
    """A copy of a finished pipeline, as working directory."""
    copy = tmp_path / "project"
    shutil.copytree(finished, copy)
    monkeypatch.chdir(copy)
    return copy


def predicted(net: torch.nn.Module, folder: Path) -> torch.Tensor:
    data = parse_params(yaml.safe_load((folder / "params.yaml").read_text())).data
    images = load_images(folder / "data/images.safetensors").test
    with torch.inference_mode():
        return torch.cat([net.eval()(x).argmax(1) for x in EvaluationBatches(images, data, 500)])


def expected(folder: Path, group: str, index: int) -> torch.Tensor:
    return load_tensors(folder / PREDICTIONS[group])[0][f"{group}.test"][index]


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt"])
@pytest.mark.parametrize(
    ("group", "index"), [("generated", 4), ("original", 11), ("ensemble", 0), ("reconstructed", 2)]
)
def test_plain_timm_loads_it_and_predicts_the_same(folder, group, index, suffix):
    file = f"out/model.{suffix}"
    assert main([str(index), "--group", group, "--to", file]) == 0
    net = timm.create_model("test_resnet", num_classes=10, checkpoint_path=file)
    assert torch.equal(predicted(net, folder), expected(folder, group, index))


def test_all_but_the_subset_is_the_base_nets_and_the_subset_is_bit_exact(folder):
    assert main(["3", "--to", "model.pth"]) == 0
    state = torch.load("model.pth", weights_only=True)
    base = load_net(Path("models/base.safetensors")).state_dict()
    subset, matrix = load_stack(Path("data/generated.safetensors"))
    assert list(state) == list(base)
    changed = {name for name in base if not torch.equal(state[name], base[name])}
    assert changed == set(subset.names)
    assert torch.equal(torch.cat([state[n].flatten() for n in subset.names]), matrix[3])


def test_best_is_the_model_that_the_other_split_chooses(folder, capsys):
    table = pd.read_csv("data/models.csv")
    table.loc[table["group"] == "generated", "choosing_accuracy"] = [0.1, 0.2, 0.9, 0.3, 0.9, 0.5]
    table.loc[table["group"] == "generated", "accuracy"] = [0.9, 0.2, 0.1, 0.3, 0.4, 0.5]
    table.to_csv("data/models.csv", index=False)
    assert main(["best", "--to", "best.pth"]) == main(["2", "--to", "two.pth"]) == 0
    best, two = (torch.load(name, weights_only=True) for name in ("best.pth", "two.pth"))
    assert all(torch.equal(best[name], two[name]) for name in two)
    card = Path("best.md").read_text()
    assert "generated model 2" in card
    assert "best of 6 generated models on the validation split" in card
    assert "| this model | 10.00 % | 90.00 % |" in card
    assert "picked by its index among 6" in Path("two.md").read_text()


def test_the_card_loads_the_model_and_says_what_the_tables_say(folder):
    assert main(["1", "--to", "model.safetensors"]) == 0
    card = Path("model.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    assert code.count("\n") == 3
    names = {"images": torch.zeros(2, 3, 32, 32)}
    exec(code, names)
    assert names["logits"].shape == (2, 10)
    assert torch.equal(predicted(names["net"], folder), expected(folder, "generated", 1))
    table = pd.read_csv("data/models.csv").set_index(["group", "model"])
    row = table.loc[("generated", 1)]
    assert (
        f"| this model | {100 * row['accuracy']:.2f} % | {100 * row['choosing_accuracy']:.2f} % "
        f"| {row['max_similarity']:.3f} |"
    ) in card
    mean = 100 * table.loc["original", "accuracy"].mean()
    assert f"| mean of 12 original models | {mean:.2f} % |" in card
    assert "Classes, in the order of the logits: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9." in card
    assert "mean [0.5, 0.5, 0.5]" in card and "pixel noise of std 0.1" in card
    assert "`noise`: param 0.001, latent 0.1" in card
    assert str(folder) not in card


def test_a_card_names_only_what_its_group_was_made_from(folder):
    assert main(["0", "--group", "original", "--to", "model.pth"]) == 0
    card = Path("model.md").read_text()
    assert "- `finetune`: " in card and "data/checkpoints.safetensors" in card
    assert "denoiser" not in card and "- `ddpm`" not in card


def test_without_git_and_lock_the_lineage_is_unknown(folder):
    assert main(["0", "--to", "model.pth"]) == 0
    card = Path("model.md").read_text()
    assert "- commit: unknown" in card
    assert "- `models/base.safetensors`: md5 in dvc.lock unknown\n" in card
    assert f"torch {torch.__version__.partition('+')[0]}" in card


def test_the_lineage_is_that_of_commit_and_lock(folder):
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    outputs = [{"path": "models/base.safetensors", "md5": "0" * 32}]
    path = Path("data/generated.safetensors")
    md5 = subprocess.run(["md5sum", path], capture_output=True, text=True, check=True).stdout[:32]
    outputs.append({"path": str(path), "md5": md5})
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"some": {"outs": outputs}}}))
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "state"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert main(["0", "--to", "model.pth"]) == 0
    card = Path("model.md").read_text()
    assert f"- commit: {head.stdout.strip()}\n" in card
    assert f"dvc.lock {'0' * 32} (the exported file is another)" in card
    assert f"- `{path}`: md5 in dvc.lock {md5}\n" in card
    assert main(["0", "--to", "model.pth", "--force"]) == 0
    assert ", with uncommitted changes\n" in Path("model.md").read_text()


@pytest.mark.parametrize("lock", ["", "stages: [", "[1]", "stages: {a: {outs: [3]}}"])
def test_a_broken_lock_is_unknown(folder, lock):
    Path("dvc.lock").write_text(lock)
    assert main(["0", "--to", "model.pth"]) == 0
    assert "dvc.lock unknown" in Path("model.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["6"], "MODEL: 6 is out of range; generated has 0 to 5"),
        (["-1"], "MODEL: -1 is out of range; generated has 0 to 5"),
        (["1", "--group", "ensemble"], "MODEL: 1 is out of range; ensemble has 0 to 0"),
        (["first"], "MODEL: 'first' is neither an index nor `best`"),
        (["0", "--group", "noised_0.05"], "--group: unknown 'noised_0.05'; known: generated, "),
        (["0", "--to", "model.onnx"], "--to: model.onnx must end in .safetensors, .pth, .pt"),
        (["0", "--to", "model"], "--to: model must end in .safetensors, .pth, .pt"),
        (["0", "--to", "params.yaml/model.pth"], "--to: params.yaml/model.pth cannot be written"),
    ],
)
@pytest.mark.parametrize("default", ["model.pth", "model.safetensors"])
def test_a_mistake_is_one_line_and_writes_nothing(folder, capsys, arguments, message, default):
    if default.endswith("safetensors") and "--to" in arguments:
        arguments = [word.replace(".pth", ".safetensors") for word in arguments]
        message = message.replace("model.pth", "model.safetensors")
    before = sorted(folder.rglob("*"))
    assert main(arguments if "--to" in arguments else [*arguments, "--to", default]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("existing", ["model.pth", "model.md"])
def test_an_existing_file_is_kept_unless_forced(folder, capsys, existing):
    Path(existing).write_text("mine")
    assert main(["0", "--to", "model.pth"]) == 1
    assert capsys.readouterr().err == f"error: --to: {existing} exists; --force overwrites it\n"
    assert Path(existing).read_text() == "mine"
    assert main(["0", "--to", "model.pth", "--force"]) == 0
    assert Path(existing).read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("group", "missing"),
    [
        ("generated", "data/models.csv"),
        ("generated", "data/generated.safetensors"),
        ("generated", "models/base.safetensors"),
        ("generated", "params.yaml"),
        ("original", "data/checkpoints.safetensors"),
        ("reconstructed", "models/autoencoder.safetensors"),
    ],
)
def test_a_missing_file_is_named(folder, capsys, group, missing):
    Path(missing).unlink()
    assert main(["0", "--group", group, "--to", "model.pth"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {missing} is missing")
    assert error.count("\n") == 1
    assert not Path("model.pth").exists() and not Path("model.md").exists()


@pytest.mark.parametrize("text", ["", "group,model\ngenerated,0\n", "\0\1"])
def test_a_broken_table_is_named(folder, capsys, text):
    Path("data/models.csv").write_text(text)
    assert main(["0", "--to", "model.pth"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: data/models.csv ") and error.count("\n") == 1


def test_files_of_different_runs_are_refused(folder, capsys):
    table = pd.read_csv("data/models.csv")
    table[table["model"] < 5].to_csv("data/models.csv", index=False)
    assert main(["0", "--to", "model.pth"]) == 1
    assert "data/models.csv and the generated models are of different" in capsys.readouterr().err


def test_a_base_net_of_another_run_is_refused(folder, tiny_raw, capsys):
    run_stages(folder, change(tiny_raw, base__net="test_vit"), ("train_base",))
    assert main(["0", "--to", "model.pth"]) == 1
    assert "models/base.safetensors and the generated models are of" in capsys.readouterr().err


def test_a_net_of_ours_loads_with_pdiff(tiny_raw, tmp_path, monkeypatch):
    raw = change(
        tiny_raw,
        base__net="convnet_mini",
        data__size=64,
        data__resize=64,
        subset__select="last_norms:1",
    )
    run_stages(tmp_path, raw, STAGES)
    monkeypatch.chdir(tmp_path)
    assert main(["2", "--to", "model.safetensors"]) == 0
    card = Path("model.md").read_text()
    assert "`convnet_mini` is one of p-diff's own small nets and not timm's" in card
    names = {}
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1), names)
    assert torch.equal(predicted(names["net"], tmp_path), expected(tmp_path, "generated", 2))
    subset, matrix = load_stack(Path("data/generated.safetensors"))
    for net in (names["net"], load_net(Path("model.safetensors"))):
        assert torch.equal(torch.cat([v.flatten() for v in subset.read(net).values()]), matrix[2])


def test_a_single_original_has_no_similarity_in_its_card(folder):
    table = pd.read_csv("data/models.csv")
    table.loc[table["group"] == "original", "max_similarity"] = float("nan")
    table.to_csv("data/models.csv", index=False)
    assert main(["0", "--group", "original", "--to", "model.pth"]) == 0
    assert re.search(r"\| this model \|.*\| unknown \|", Path("model.md").read_text())


def test_one_split_for_both_is_said(folder, tiny_raw):
    Path("params.yaml").write_text(yaml.safe_dump(change(tiny_raw, data__split="paper")))
    assert main(["best", "--to", "model.pth"]) == 0
    assert "Both splits are the same images here" in Path("model.md").read_text()


def test_the_command_needs_neither_dvc_nor_mlflow(folder):
    code = (
        "import sys\n"
        "from pdiff.export import main\n"
        "code = main(['0', '--to', 'model.pth'])\n"
        "print(code, [name for name in ('dvc', 'mlflow') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 []"

"""Models taken away: they load without p-diff and predict what the pipeline says they predict."""

import errno
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
import yaml
from safetensors import SafetensorError

from pdiff import outputs
from pdiff.core import files
from pdiff.evaluation.predictions import load_predictions
from pdiff.export.__main__ import main
from pdiff.nets.registry import build_net, load_net, save_net
from pdiff.parameters.stack import load_stack
from pdiff.parameters.subset import select_subset
from tests.conftest import ROOT, change
from tests.toys.exports import code_of, git, logits_of, run_card


def expected(group: str, index: int) -> torch.Tensor:
    decoded = group in ("generated", "reconstructed")
    path = outputs.PREDICTIONS_GENERATED if decoded else outputs.PREDICTIONS_ORIGINALS
    return load_predictions(path, "test")[0][group][index]


def change_table(column: str, group: str, values: object) -> None:
    table = pd.read_csv(outputs.MODELS)
    table.loc[table["group"] == group, column] = values
    table.to_csv(outputs.MODELS, index=False)


@pytest.mark.parametrize(
    ("group", "index", "file"),
    [
        ("generated", 4, "out/model.safetensors"),
        ("generated", 4, "out/model.pt"),
        ("original", 11, "model.pth"),
        ("ensemble", 0, "model.pth"),
        ("reconstructed", 2, "model.pth"),
    ],
)
def test_plain_timm_loads_the_base_net_with_another_subset_and_predicts_the_same(
    folder, group, index, file
):
    assert main([str(index), "--group", group, "--to", file]) == 0
    net = timm.create_model("test_resnet", num_classes=10, checkpoint_path=file)
    assert torch.equal(logits_of(net).argmax(1), expected(group, index))
    subset, matrix = load_stack(outputs.GENERATED)
    state, base = net.state_dict(), load_net(outputs.BASE).state_dict()
    assert {name for name in base if not torch.equal(state[name], base[name])} == set(subset.names)
    if group == "generated":  # to the last bit
        assert torch.equal(torch.cat([state[n].flatten() for n in subset.names]), matrix[4])


def test_best_is_the_model_that_the_other_split_chooses(folder, tiny_raw, capsys):
    change_table("choosing_accuracy", "generated", [0.1, 0.2, 0.9, 0.3, 0.9, 0.5])
    change_table("accuracy", "generated", [0.9, 0.2, 0.1, 0.3, 0.4, 0.5])
    assert main(["best", "--to", "best.pth"]) == main(["2", "--to", "two.pth"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "wrote" not in line] == [
        "generated model 2, the best of 6 on validation (90.00 %); 10.00 % on test",
        "generated model 2 of 6; 10.00 % on test",
    ]
    best, two = (torch.load(name, weights_only=True) for name in ("best.pth", "two.pth"))
    torch.testing.assert_close(best, two, rtol=0, atol=0)
    card = Path("best.md").read_text()
    assert "generated model 2" in card and "| this model | 10.00 % | 90.00 % |" in card
    assert "best of 6 generated models on the validation split" in card
    assert "picked by its index among 6" in Path("two.md").read_text()
    Path("params.yaml").write_text(yaml.safe_dump(change(tiny_raw, data__split="paper")))
    assert main(["best", "--to", "same.pth"]) == 0
    assert "Both splits are the same images here" in Path("same.md").read_text()


def test_the_card_loads_the_model_and_says_what_the_tables_say(folder):
    assert main(["1", "--to", "model.safetensors"]) == 0
    card = Path("model.md").read_text()
    assert code_of(card).count("\n") == 3
    names = run_card(card, images=torch.zeros(2, 3, 32, 32))
    assert names["logits"].shape == (2, 10)
    assert torch.equal(logits_of(names["net"]).argmax(1), expected("generated", 1))
    table = pd.read_csv(outputs.MODELS).set_index(["group", "model"])
    row, mean = table.loc[("generated", 1)], 100 * table.loc["original", "accuracy"].mean()
    assert (
        f"| this model | {100 * row['accuracy']:.2f} % | {100 * row['choosing_accuracy']:.2f} % "
        f"| {row['max_similarity']:.3f} |\n"
    ) in card
    assert f"| mean of 12 original models | {mean:.2f} % |" in card
    assert "Classes, in the order of the logits: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9.\n" in card
    assert "mean [0.5, 0.5, 0.5]" in card and "pixel noise of std 0.1" in card
    assert "- `noise`: param 0.001, latent 0.1\n" in card
    assert str(folder) not in card and len(card.splitlines()) <= 80


def test_a_card_names_only_what_its_group_was_made_from(folder):
    change_table("max_similarity", "original", float("nan"))
    assert main(["0", "--group", "original", "--to", "model.pth"]) == 0
    card = Path("model.md").read_text()
    assert "- `finetune`: " in card and "data/checkpoints.safetensors" in card
    assert "denoiser" not in card and "- `ddpm`" not in card
    assert re.search(r"\| this model \|.*\| unknown \|", card)


@pytest.mark.parametrize("lock", [None, "", "stages: [", "stages: {a: {outs: [3]}}"])
def test_without_git_and_a_readable_lock_the_lineage_is_unknown(folder, lock):
    if lock is not None:
        Path("dvc.lock").write_text(lock)
    assert main(["0", "--to", "model.pth"]) == 0
    card = Path("model.md").read_text()
    assert "- commit: unknown\n" in card
    assert "- `models/base.safetensors`: md5 in dvc.lock unknown\n" in card
    assert f"torch {torch.__version__.partition('+')[0]}" in card


def test_the_lineage_is_that_of_commit_and_lock(folder):
    md5 = hashlib.md5(outputs.GENERATED.read_bytes()).hexdigest()
    md5s = {str(outputs.BASE): "0" * 32, str(outputs.GENERATED): md5}
    listed = [{"path": path, "md5": value} for path, value in md5s.items()]
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"some": {"outs": listed}}}))
    git("init", "-q"), git("add", "-A"), git("commit", "-qm", "state")
    assert main(["0", "--to", "model.pth"]) == 0
    card = Path("model.md").read_text()
    assert f"- commit: {git('rev-parse', 'HEAD')}\n" in card
    assert f"dvc.lock {'0' * 32} (the exported file is another)\n" in card
    assert f"- `{outputs.GENERATED}`: md5 in dvc.lock {md5}\n" in card
    assert main(["0", "--to", "model.pth", "--force"]) == 0
    assert ", with uncommitted changes\n" in Path("model.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["6"], "MODEL: '6' is neither `best` nor an index; generated has 0 to 5"),
        (["1", "--group", "ensemble"], "MODEL: '1' is neither `best` nor an index; ensemble has 0"),
        (["first"], "MODEL: 'first' is neither `best` nor an index; generated has 0 to 5"),
        (["0", "--group", "noised_0.05"], "--group: unknown 'noised_0.05'; known: generated, "),
        (["0", "--to", "model.onnx"], "--to: model.onnx must end in .safetensors, .pth, .pt"),
        (["0", "--to", "params.yaml/model.pth"], "--to: params.yaml/model.pth cannot be written"),
        (["0", "--to", f"{300 * 'm'}.pth"], f"{300 * 'm'}.pth: File name too long; needed: a sh"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(folder, capsys, arguments, message):
    before = sorted(folder.rglob("*"))
    assert main([*arguments] if "--to" in arguments else [*arguments, "--to", "model.pth"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("file", ["model.pth", "model.safetensors", "model.md"])
def test_a_full_disk_is_one_line_with_the_path_and_leaves_no_part(
    folder, monkeypatch, capsys, file
):
    def full(path: Path, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_too(tensors: object, path: Path, metadata: object) -> None:
        path.write_text("part")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    if file.endswith("safetensors"):
        monkeypatch.setattr(files, "save_file", full_too)
    else:
        monkeypatch.setattr(Path, "write_text" if file.endswith("md") else "write_bytes", full)
    before = sorted(folder.rglob("*"))
    assert main(["0", "--to", file.replace("md", "pth")]) == 1
    error = capsys.readouterr().err
    assert error == f"error: {file}: No space left on device; needed: free space on its disk\n"
    assert sorted(path for path in folder.rglob("*") if path.name != "model.pth") == before


@pytest.mark.parametrize("existing", ["model.pth", "model.md"])
def test_an_existing_file_is_kept_unless_forced(folder, capsys, existing):
    Path(existing).write_text("mine")
    assert main(["0", "--to", "model.pth"]) == 1
    assert capsys.readouterr().err == f"error: --to: {existing} exists; --force overwrites it\n"
    assert Path(existing).read_text() == "mine"
    assert main(["0", "--to", "model.pth", "--force"]) == 0
    assert Path(existing).read_bytes() != b"mine"


def other_net() -> None:
    save_net(outputs.BASE, build_net("test_vit", 10, 32), "test_vit", 10, 32)


def fewer_models() -> None:
    table = pd.read_csv(outputs.MODELS)
    table[table["model"] < 5].to_csv(outputs.MODELS, index=False)


@pytest.mark.parametrize(
    ("group", "spoil", "message"),
    [
        ("generated", outputs.MODELS.unlink, "data/models.csv cannot be read: [Errno 2] No such"),
        ("original", outputs.CHECKPOINTS.unlink, "data/checkpoints.safetensors is missing"),
        ("reconstructed", outputs.AUTOENCODER.unlink, "models/autoencoder.safetensors is missing"),
        ("generated", lambda: outputs.MODELS.write_text("\0\1"), "data/models.csv "),
        ("generated", lambda: outputs.MODELS.write_text("group,model\n"), "data/models.csv cannot"),
        ("generated", fewer_models, "data/models.csv and the generated models are of different"),
        ("generated", other_net, "models/base.safetensors and the generated models are of"),
    ],
)
def test_a_missing_broken_or_foreign_file_is_named(folder, capsys, group, spoil, message):
    spoil()
    assert main(["0", "--group", group, "--to", "model.pth"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert not Path("model.pth").exists() and not Path("model.md").exists()


def test_a_net_of_ours_loads_with_pdiff(toy):
    matrix = toy("convnet_mini", 64)
    assert main(["2", "--to", "model.safetensors"]) == 0
    card = Path("model.md").read_text()
    assert "`convnet_mini` is one of p-diff's own small nets and not timm's" in card
    assert "Classes, in the order of the logits: unknown." in card
    names = run_card(card)
    for loaded in (names["net"], load_net(Path("model.safetensors"))):
        subset = select_subset(loaded, "last_norms:1")
        values = torch.cat([loaded.get_parameter(name).flatten() for name in subset.names])
        assert torch.equal(values, matrix[2])


@pytest.mark.slow
def test_the_command_needs_neither_dvc_nor_mlflow(folder):
    code = (
        "import sys\n"
        "from pdiff.export.__main__ import main\n"
        "code = main(['0', '--to', 'model.pth'])\n"
        "print(code, [name for name in ('dvc', 'mlflow') if name in sys.modules])\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"

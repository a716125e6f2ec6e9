"""Two processes do what one does: the real thing, on the CPU."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from pdiff.files import load_tensors
from tests.conftest import ROOT, change
from tests.toy_pipeline import run_stages

pytestmark = pytest.mark.slow

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
ORIGINALS = "data/predictions_originals.safetensors"
SOUP = "data/greedy_soup.json"
GENERATED = "data/predictions_generated.safetensors"


def start(folder, *command, **more):
    own = {"DVC_ROOT": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | own | more,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def run(folder, *command, code=0, **more):
    process = start(folder, *command, **more)
    text = process.communicate(timeout=300)[0]
    assert process.returncode == code, text
    return text


@pytest.fixture
def copy(finished, tiny_raw, tmp_path):
    """A copy of the finished pipeline, with a stage's own outputs and state gone."""

    def copy(name, *gone, **changes):
        folder = tmp_path / name
        shutil.copytree(finished, folder)
        shutil.rmtree(folder / ".work")
        for path in gone:
            (folder / path).unlink()
        (folder / "params.yaml").write_text(yaml.safe_dump(change(tiny_raw, **changes)))
        return folder

    return copy


def records(folder):
    return [path.name for path in folder.glob(".work/runs/*/*") if path.is_file()]


def test_two_processes_predict_and_choose_what_one_does(copy, tiny_raw):
    folder = copy("two", ORIGINALS, SOUP, evaluate__batch_size=30)
    one = copy("one", ORIGINALS, SOUP)
    run_stages(one, change(tiny_raw, evaluate__batch_size=30), ("evaluate_originals",))
    text = run(folder, "-m", "stages.evaluate_originals", PDIFF_PROCESSES="2")
    assert (folder / ORIGINALS).read_bytes() == (one / ORIGINALS).read_bytes()
    assert (folder / SOUP).read_text() == (one / SOUP).read_text()
    assert '"members": []' not in (folder / SOUP).read_text()
    assert records(folder) == ["evaluate_originals.json"]
    assert text == ""


def test_a_process_without_images_changes_nothing(copy, finished):
    folder = copy("two", GENERATED)  # one batch holds all images
    run(folder, *TORCHRUN, "stages.evaluate_generated")
    assert (folder / GENERATED).read_bytes() == (finished / GENERATED).read_bytes()


def train(folder, raw, **more):
    """Curve and weights of the base net, from two processes and from one."""
    results = []
    for processes in ("2", "1"):
        run(folder, "-m", "stages.train_base", PDIFF_PROCESSES=processes, **more)
        curve = pd.read_csv(folder / "plots/train_base.csv")
        results.append((curve, load_tensors(folder / "models/base.safetensors")[0]))
    return results


def test_two_processes_train_a_vit_as_one_does(copy, tiny_raw):
    """117 images: the last batch of 17 goes to the two in parts of 8 and 9."""
    size = {"data__size": 64, "data__resize": 64, "data__train_size": 117}
    net = {"base__net": "vit_mini", "base__epochs": 3}
    folder = copy("two", **size, **net)
    raw = yaml.safe_load((folder / "params.yaml").read_text())
    run_stages(folder, raw, ("prepare_data",))
    (two, weights), (one, expected) = train(folder, raw)
    torch.testing.assert_close(
        torch.tensor(two.base_loss), torch.tensor(one.base_loss), rtol=1e-5, atol=0
    )
    assert two.base_validation_accuracy.equals(one.base_validation_accuracy)
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)
    assert not all(torch.equal(value, expected[name]) for name, value in weights.items())


def test_two_processes_train_a_net_with_batch_norm(copy, tiny_raw):
    folder = copy("two", base__epochs=6, base__lr=5e-3)
    (two, weights), (one, _) = train(folder, tiny_raw)
    print(pd.concat([two, one], axis=1).to_string())
    assert two.base_loss.iloc[-1] < 0.8 * two.base_loss.iloc[0]
    torch.testing.assert_close(
        torch.tensor(two.base_loss), torch.tensor(one.base_loss), rtol=0.2, atol=0
    )
    assert all(value.isfinite().all() for value in weights.values())


def test_a_stage_that_cannot_be_shared_says_so_once(copy):
    folder = copy("two", "data/latents.safetensors")
    text = run(folder, *TORCHRUN, "stages.train_autoencoder", code=1)
    said = [line for line in text.splitlines() if line.startswith("error: ")]
    assert said == ["error: this stage cannot be shared out; start it with python, not torchrun"]
    assert not (folder / "data/latents.safetensors").exists()


def test_such_a_stage_runs_alone_where_processes_are_wanted(copy):
    folder = copy("two", "report/summary.csv")
    run(folder, "-m", "stages.novelty", PDIFF_PROCESSES="2")
    assert (folder / "report/summary.csv").exists()


def test_an_error_of_all_processes_is_said_once(copy):
    folder = copy("two", "models/base.safetensors")
    text = run(folder, "-m", "stages.evaluate_originals", PDIFF_PROCESSES="2", code=1)
    assert text == "error: models/base.safetensors is missing\n"


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def second_process(agent):
    """The process of rank 1 that torchrun started."""
    children = Path(f"/proc/{agent}/task").glob("*/children")
    for pid in " ".join(path.read_text() for path in children).split():
        if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes():
            return int(pid)
    return None


def test_a_killed_process_ends_the_others_and_the_training_goes_on_from_there(copy):
    settings = {"PDIFF_PROCESSES": "2", "PDIFF_SAVE_EVERY_S": "0"}
    folder, whole = (copy(name, base__epochs=40) for name in ("killed", "whole"))
    process = start(folder, "-m", "stages.train_base", **settings)
    wait_for(lambda: [*folder.glob(".work/train_base/*/state.safetensors")])
    os.kill(second_process(process.pid), signal.SIGKILL)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert text.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in text
    assert [*folder.glob(".work/train_base/*/state.safetensors")]

    for path in (folder, whole):
        run(path, "-m", "stages.train_base", **settings)
    for name in ("models/base.safetensors", "plots/train_base.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()

"""A training's state survives, and only for the same parameters, inputs and code."""

import threading

import pytest
import torch

from pdiff.system import resume
from pdiff.system.resume import Checkpointer


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "work"


STATE = {
    "step": 3,
    "nested": {0: {"exp_avg": torch.arange(4.0)}, "list": [torch.ones(2), 1.5, None, "x"]},
}


def test_a_state_comes_back_whole(folder):
    with pytest.raises(RuntimeError), Checkpointer(folder, every_s=0.0) as kept:
        kept.save(lambda: STATE)
        raise RuntimeError("killed")
    with Checkpointer(folder, every_s=1000.0) as kept:
        loaded = kept.load()
    assert loaded["step"] == 3
    assert loaded["nested"]["list"][1:] == [1.5, None, "x"]
    assert torch.equal(loaded["nested"][0]["exp_avg"], torch.arange(4.0))


def test_states_are_saved_now_and_then_and_nothing_is_left_after_success(folder):
    with Checkpointer(folder, every_s=1000.0) as kept:
        kept.save(lambda: pytest.fail("too soon"))
        assert kept.load() is None
    with Checkpointer(folder, every_s=0.0) as kept:
        kept.save(lambda: STATE)
    assert not folder.exists()


def test_a_state_that_was_cut_short_is_left_aside(folder):
    with Checkpointer(folder, every_s=0.0) as kept:
        kept.save(lambda: STATE)
        path = folder / "state.pt"
        path.write_bytes(path.read_bytes()[:-5])
        assert kept.load() is None


def a_full_disk(folder, monkeypatch) -> None:
    def cut_short(state, path) -> None:
        path.write_bytes(b"part")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")

    monkeypatch.setattr(torch, "save", cut_short)


def a_folder_that_cannot_be_made(folder, monkeypatch) -> None:
    folder.parent.rmdir()
    folder.parent.write_text("a file")


def a_lock_that_the_disk_does_not_know(folder, monkeypatch) -> None:
    def refused(*arguments) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(resume.fcntl, "flock", refused)


@pytest.mark.parametrize(
    "trouble", [a_full_disk, a_folder_that_cannot_be_made, a_lock_that_the_disk_does_not_know]
)
def test_a_state_that_cannot_be_kept_costs_one_warning_and_no_training(
    tmp_path, monkeypatch, capsys, trouble
):
    folder = tmp_path / "work/key"
    folder.parent.mkdir()
    trouble(folder, monkeypatch)
    with Checkpointer(folder, every_s=0.0) as kept:
        assert kept.load() is None
        for _ in range(3):
            kept.save(lambda: STATE)
        assert not [*tmp_path.rglob("*.partial"), *tmp_path.rglob("state.pt")]
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {folder}: no state is kept")


def test_a_second_process_waits_for_the_first(folder, capsys):
    ended = []

    def second():
        with Checkpointer(folder, every_s=1000.0):
            ended.append("second")

    with Checkpointer(folder, every_s=1000.0):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        ended.append("first")
    thread.join(10)
    assert ended == ["first", "second"]
    assert "waiting for another process at the same training" in capsys.readouterr().out


def test_the_key_depends_on_parameters_inputs_code_and_device(params, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(resume, "PACKAGE", tmp_path / "pdiff")
    (tmp_path / "pdiff/room").mkdir(parents=True)

    def key(noise=params.noise, content="a", code="pass", device="cpu"):
        (tmp_path / "input").write_text(content)
        (tmp_path / "pdiff/room/code.py").write_text(code)
        device = torch.device(device)
        return resume.make_checkpointer("train", [noise], [tmp_path / "input"], device)._folder

    other = params.noise.model_copy(update={"latent": 1.0})
    keys = [key(), key(other), key(content="b"), key(code="return"), key(device="cuda")]
    assert len(set(keys)) == 5 and key() == keys[0]
    assert keys[0].parent == tmp_path / ".work" / "train"

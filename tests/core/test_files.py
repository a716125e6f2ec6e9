"""Files: whole or not at all, never a pickle that runs code."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pdiff.core.files import load_header, load_state_dict, load_tensors, save_tensors, write_json
from pdiff.parameters.stack import load_stack
from pdiff.system.errors import InputError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.arange(6.0).view(2, 3)}, note="hello")
    return path


def test_tensors_and_header_come_back(saved):
    tensors, header = load_tensors(saved)
    assert tensors["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert header == {"note": "hello"}


def test_a_header_is_read_alone_and_checked(saved, tmp_path):
    assert load_header(saved) == {"note": "hello"}
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(saved.read_bytes()[:20])
    for name, message in (
        ("foreign", "was not written by p-diff"),
        ("broken", "is not a whole safetensors file"),
        ("gone", "is missing"),
    ):
        with pytest.raises(InputError, match=rf"{name}\.safetensors {message}"):
            load_header(tmp_path / f"{name}.safetensors")


def test_tensors_that_share_memory_are_both_saved(tmp_path):
    one = torch.arange(6.0)
    save_tensors(tmp_path / "x", {"whole": one, "again": one, "part": one[2:4]})
    tensors, _ = load_tensors(tmp_path / "x")
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "whole": [0, 1, 2, 3, 4, 5],
        "again": [0, 1, 2, 3, 4, 5],
        "part": [2, 3],
    }


def test_nothing_is_left_beside_the_file(saved):
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_failed_write_keeps_what_was_there(saved):
    before = saved.read_bytes()
    with pytest.raises(TypeError):
        save_tensors(saved, {"a": torch.zeros(1)}, note=object())
    assert saved.read_bytes() == before


@pytest.mark.parametrize("keep", [0, 5, 60, -4])
def test_a_truncated_file_is_named(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"x\.safetensors is not a whole safetensors file"):
        load_tensors(saved)


def test_a_foreign_safetensors_file_is_named(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match=r"foreign\.safetensors was not written by p-diff"):
        load_tensors(tmp_path / "foreign.safetensors")


def test_another_of_our_files_is_not_a_stack(saved):
    with pytest.raises(InputError, match="is not a stack"):
        load_stack(saved)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="is missing"):
        load_tensors(tmp_path / "none.safetensors")


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state}])
def test_a_foreign_state_dict_loads(tmp_path, wrap):
    torch.save(wrap({"w": torch.ones(2)}), tmp_path / "net.pth")
    assert load_state_dict(tmp_path / "net.pth")["w"].tolist() == [1, 1]


class Attack:
    def __reduce__(self):
        return (Path.touch, (Path("attacked"),))


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Attack()}, "evil.pth")
    with pytest.raises(InputError, match=r"evil\.pth is not a state dict that loads safely"):
        load_state_dict(Path("evil.pth"))
    Path("plain.pth").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(InputError, match=r"plain\.pth is not a state dict that loads safely"):
        load_state_dict(Path("plain.pth"))
    assert not Path("attacked").exists()


def test_a_pickle_of_something_else_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds no state dict"):
        load_state_dict(tmp_path / "list.pth")


def test_nan_becomes_null(tmp_path):
    write_json(tmp_path / "m.json", {"a": {"b": float("nan"), "c": 1.0}})
    assert (
        tmp_path / "m.json"
    ).read_text() == '{\n  "a": {\n    "b": null,\n    "c": 1.0\n  }\n}\n'

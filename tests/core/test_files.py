"""Files: whole or not at all, never a pickle that runs code."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pdiff.core.files import (
    load_header,
    load_state_dict,
    load_tensor,
    load_tensors,
    save_tensors,
    write_json,
)
from pdiff.system.errors import InputError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.arange(6.0).view(2, 3)}, note="hello")
    return path


def test_tensors_and_header_come_back(saved):
    tensors, header = load_tensors(saved)
    assert tensors["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert header == load_header(saved) == {"note": "hello"}
    assert torch.equal(load_tensor(saved, "a"), tensors["a"])
    with pytest.raises(InputError, match=r"x\.safetensors .* does not contain tensor b"):
        load_tensor(saved, "b")


@pytest.mark.parametrize("load", [load_header, load_tensors])
def test_a_missing_foreign_or_truncated_file_is_named(saved, tmp_path, load):
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    for keep in (0, 5, 60, -4):
        (tmp_path / f"cut{keep}.safetensors").write_bytes(saved.read_bytes()[:keep])
    cut = dict.fromkeys(("cut0", "cut5", "cut60"), "is not a whole safetensors file")
    named = cut | {"foreign": "was not written by p-diff", "gone": "is missing"}
    if load is load_tensors:
        named |= {"cut-4": "is not a whole safetensors file"}
    for name, message in named.items():
        with pytest.raises(InputError, match=rf"{name}\.safetensors {message}"):
            load(tmp_path / f"{name}.safetensors")


def test_tensors_that_share_memory_are_both_saved(tmp_path):
    one = torch.arange(6.0)
    save_tensors(tmp_path / "x", {"whole": one, "again": one, "part": one[2:4]})
    tensors, _ = load_tensors(tmp_path / "x")
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "whole": [0, 1, 2, 3, 4, 5],
        "again": [0, 1, 2, 3, 4, 5],
        "part": [2, 3],
    }


def test_a_failed_write_keeps_what_was_there_and_leaves_nothing_beside_it(saved):
    before = saved.read_bytes()
    with pytest.raises(TypeError):
        save_tensors(saved, {"a": torch.zeros(1)}, note=object())
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


class Attack:
    def __reduce__(self):
        return (Path.touch, (Path("attacked"),))


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Attack()}, "evil.pth")
    with pytest.raises(InputError, match=r"evil\.pth is .* safely: it contains code \(getattr\)$"):
        load_state_dict(Path("evil.pth"))
    Path("plain.pth").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(InputError, match=r"plain\.pth is .*: it is a pickle of other things"):
        load_state_dict(Path("plain.pth"))
    assert not Path("attacked").exists()


def test_a_folder_is_no_state_dict(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path} is a folder$"):
        load_state_dict(tmp_path)


@pytest.mark.parametrize(
    "content", [{0: torch.zeros(1)}, {"w": torch.nested.nested_tensor([torch.zeros(2)])}]
)
def test_what_is_no_named_tensor_is_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth holds no state dict"):
        load_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_what_json_has_no_number_for_becomes_null(tmp_path, number):
    path = tmp_path / "m.json"
    write_json(path, {"a": {"b": float(number), "c": 1.0}})
    assert path.read_text() == '{\n  "a": {\n    "b": null,\n    "c": 1.0\n  }\n}\n'

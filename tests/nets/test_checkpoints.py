"""Checkpoints that somebody else has trained: read bit for bit, or refused in one line."""

import os

import pytest
import torch
from safetensors.torch import save_file

from pdiff.nets import given
from pdiff.nets.given import list_checkpoints
from pdiff.nets.registry import build_net
from pdiff.parameters.subset import Subset, select_subset
from pdiff.system.errors import InputError


@pytest.fixture(scope="module")
def subset() -> Subset:
    return select_subset(build_net("test_resnet", 10, 32), "last_norms:2")


def state(subset: Subset, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(shape, generator=generator) for n, shape in subset.shapes.items()}


def load_checkpoints(paths, subset) -> torch.Tensor:
    return torch.stack(list(given.load_checkpoints(paths, subset)))


def row(subset: Subset, values: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([values[name].flatten() for name in subset.names])


@pytest.mark.parametrize("kept", ["full", "subset"])
@pytest.mark.parametrize("suffix", ["pth", "pt", "safetensors"])
def test_checkpoints_come_back_bit_for_bit(tmp_path, subset, suffix, kept):
    expected = []
    for i in range(3):
        values = state(subset, i)
        expected.append(row(subset, values))
        if kept == "full":
            values = build_net("test_resnet", 10, 32).state_dict() | values
        path = tmp_path / f"{i}.{suffix}"
        save_file(values, path) if suffix == "safetensors" else torch.save(values, path)
    matrix = load_checkpoints(list_checkpoints(tmp_path, 3), subset)
    assert torch.equal(matrix, torch.stack(expected))


def test_order_and_precision_of_a_file_do_not_matter(tmp_path, subset):
    values = {name: tensor.half() for name, tensor in state(subset, 0).items()}
    torch.save({"state_dict": dict(reversed(values.items()))}, tmp_path / "0.pth")
    matrix = load_checkpoints([tmp_path / "0.pth"], subset)
    assert matrix.dtype == torch.float32
    assert torch.equal(matrix[0], row(subset, values).float())


NAMES = ["2.pth", "10.pth", "1.safetensors", "01.pth", "epoch_3.pt"]


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]])
def test_files_are_ordered_by_number_and_others_left_out(tmp_path, names):
    for name in [*names, "notes.txt", "._1.pth"]:
        (tmp_path / name).touch()
    found = [path.name for path in list_checkpoints(tmp_path, 5)]
    assert found == ["01.pth", "1.safetensors", "2.pth", "10.pth", "epoch_3.pt"]
    assert [path.name for path in list_checkpoints(tmp_path, 2)] == found[:2]


def test_odd_digits_in_a_name_are_text(tmp_path):
    for name in ("²5.pth", "٣.pth"):
        (tmp_path / name).touch()
    assert len(list_checkpoints(tmp_path, 2)) == 2


def refused(call, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("finetune.")
    return str(caught.value)


def test_a_folder_that_is_none_is_named(tmp_path):
    (tmp_path / "file").touch()
    for name in ("gone", "file"):
        message = refused(list_checkpoints, tmp_path / name, 2)
        assert f"finetune.folder: '{tmp_path / name}' is not a folder" in message


def test_too_few_files_are_counted(tmp_path):
    (tmp_path / "1.pth").touch()
    message = refused(list_checkpoints, tmp_path, 2)
    assert message.startswith("finetune.checkpoints: 2 are wanted")
    assert f"{tmp_path} holds 1 files that end in .safetensors, .pth, .pt" in message


def test_the_file_that_lacks_a_parameter_is_named(tmp_path, subset):
    torch.save(state(subset, 0), tmp_path / "1.pth")
    broken = state(subset, 1)
    del broken[subset.names[-1]]
    torch.save(broken, tmp_path / "2.pth")
    message = refused(load_checkpoints, [tmp_path / "1.pth", tmp_path / "2.pth"], subset)
    assert f"{tmp_path / '2.pth'} has no {subset.names[-1]!r}" in message


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.zeros(3, 5), "has shape (3, 5) in {path}, and {shape} in the net"),
        (float("nan"), "holds NaN or infinity in {path}"),
    ],
)
def test_a_wrong_tensor_is_named(tmp_path, subset, value, reason):
    (name, shape), path = next(iter(subset.shapes.items())), tmp_path / "1.pth"
    broken = value if isinstance(value, torch.Tensor) else torch.full(shape, value)
    torch.save(state(subset, 0) | {name: broken}, path)
    message = refused(load_checkpoints, [path], subset)
    assert f"{name!r} {reason.format(path=path, shape=shape)}" in message


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, subset, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Harmful()}, tmp_path / "1.pth")
    message = refused(load_checkpoints, [tmp_path / "1.pth"], subset)
    assert f"{tmp_path / '1.pth'} is not a state dict that loads safely" in message
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_broken_file_is_named(tmp_path, subset, suffix):
    path = tmp_path / f"1.{suffix}"
    path.write_bytes(b"no tensors")
    assert str(path) in refused(load_checkpoints, [path], subset)


def test_a_whole_training_state_is_refused(tmp_path, subset):
    torch.save({"model": state(subset, 0), "epoch": 3}, tmp_path / "1.pth")
    message = refused(load_checkpoints, [tmp_path / "1.pth"], subset)
    assert "1.pth holds no state dict: expected {name: tensor}" in message

"""Checkpoints that somebody else has trained: read bit for bit, or refused in one line."""

import pytest
import torch
from safetensors.torch import save_file

from pdiff.nets import given
from pdiff.nets.given import list_checkpoints
from pdiff.parameters.subset import Subset
from pdiff.system.errors import InputError

SUBSET = Subset({"norm.weight": (4,), "fc.weight": (2, 3)})


def state(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(shape, generator=generator) for n, shape in SUBSET.shapes.items()}


def load_checkpoints(paths) -> torch.Tensor:
    return torch.stack(list(given.load_checkpoints(paths, SUBSET)))


def row(values: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([values[name].flatten() for name in SUBSET.names])


@pytest.mark.parametrize("others", [{}, {"conv.weight": torch.ones(5), "steps": torch.tensor(3)}])
@pytest.mark.parametrize("suffix", ["pth", "pt", "safetensors"])
def test_checkpoints_come_back_bit_for_bit(tmp_path, suffix, others):
    for i in range(3):
        path, values = tmp_path / f"{i}.{suffix}", others | state(i)
        save_file(values, path) if suffix == "safetensors" else torch.save(values, path)
    matrix = load_checkpoints(list_checkpoints(tmp_path, 3))
    assert torch.equal(matrix, torch.stack([row(state(i)) for i in range(3)]))


def test_order_and_precision_of_a_file_do_not_matter(tmp_path):
    values = {name: tensor.half() for name, tensor in state(0).items()}
    torch.save({"state_dict": dict(reversed(values.items()))}, tmp_path / "0.pth")
    matrix = load_checkpoints([tmp_path / "0.pth"])
    assert matrix.dtype == torch.float32
    assert torch.equal(matrix[0], row(values).float())


NAMES = ["2.pth", "10.pth", "1.safetensors", "01.pth", "epoch_3.pt", "²5.pth"]


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]])
def test_files_are_ordered_by_number_or_text_and_others_left_out(tmp_path, names):
    for name in [*names, "notes.txt", "._1.pth"]:
        (tmp_path / name).touch()
    found = [path.name for path in list_checkpoints(tmp_path, 6)]
    assert found == ["01.pth", "1.safetensors", "2.pth", "10.pth", "epoch_3.pt", "²5.pth"]
    assert [path.name for path in list_checkpoints(tmp_path, 2)] == found[:2]


def refused(call, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("finetune.")
    return str(caught.value)


def test_a_folder_that_is_none_or_holds_too_few_files_is_named(tmp_path):
    (tmp_path / "1.pth").touch()
    for name in ("gone", "1.pth"):
        message = refused(list_checkpoints, tmp_path / name, 2)
        assert f"finetune.folder: '{tmp_path / name}' is not a folder" in message
    message = refused(list_checkpoints, tmp_path, 2)
    assert message.startswith("finetune.checkpoints: 2 are wanted")
    assert f"{tmp_path} holds 1 files that end in .safetensors, .pth, .pt" in message


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (torch.zeros(3, 5), "'norm.weight' has shape (3, 5) in {path}, and (4,) in the net"),
        (torch.full((4,), torch.nan), "'norm.weight' holds NaN or infinity in {path}"),
        (torch.ones(4).to_sparse(), "'norm.weight' is torch.sparse_coo in {path}; wanted is one"),
        (torch.ones(4).long(), "'norm.weight' is torch.int64 in {path}; wanted is one of torch.f"),
        (None, "{path} has no 'norm.weight'"),
    ],
)
def test_a_wrong_tensor_is_named_with_its_file(tmp_path, broken, reason):
    paths = [tmp_path / "1.pth", tmp_path / "2.pth"]
    torch.save(state(0), paths[0])
    values = {"norm.weight": broken, "fc.weight": state(1)["fc.weight"]}
    torch.save({name: value for name, value in values.items() if value is not None}, paths[1])
    assert reason.format(path=paths[1]) in refused(load_checkpoints, paths)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("1.pth", b"no tensors", "1.pth is not a state dict that loads safely"),
        ("1.safetensors", b"no tensors", "1.safetensors"),
        ("1.pth", {"model": {}, "epoch": 3}, "1.pth holds no state dict: expected {name: tensor}"),
    ],
)
def test_a_file_without_a_state_dict_is_named(tmp_path, file, content, reason):
    if isinstance(content, bytes):
        (tmp_path / file).write_bytes(content)
    else:
        torch.save(content, tmp_path / file)
    assert reason in refused(load_checkpoints, [tmp_path / file])

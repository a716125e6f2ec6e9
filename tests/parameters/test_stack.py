"""Stacks on disk: read and written in parts, the same bytes as at once, whole or not at all."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from pdiff.core.files import save_tensors
from pdiff.parameters import subset
from pdiff.parameters.stack import StackFile, load_stack, temporary_stack, write_columns, write_rows
from pdiff.parameters.subset import Models, Subset
from pdiff.system.errors import InputError
from tests.conftest import ROOT

SUBSET = Subset({"z.weight": (2, 3), "a": (1,), "ä.bias": (4,)})  # files sort names, we do not
EVERYTHING = slice(0, SUBSET.length)


@pytest.fixture
def matrix(generator):
    return torch.randn(5, SUBSET.length, generator=generator)


@pytest.fixture
def path(tmp_path, matrix):
    path = tmp_path / "stack.safetensors"
    write_rows(path, SUBSET, len(matrix), matrix)
    return path


def test_a_stack_keeps_order_and_bits(path, matrix):
    subset, again = load_stack(path)
    assert subset == SUBSET
    assert list(subset.shapes) == list(SUBSET.shapes)
    assert torch.equal(again, matrix)


@pytest.mark.parametrize("values", [5, 15, 10**6])
def test_rows_columns_and_safetensors_write_the_same(path, matrix, values, monkeypatch):
    columns, reference = path.with_name("columns"), path.with_name("reference")
    monkeypatch.setattr(subset, "CHUNK", values)
    write_columns(columns, SUBSET, len(matrix), Models(SUBSET, matrix).columns())
    save_tensors(reference, SUBSET.unflatten(matrix), names=SUBSET.names)
    assert columns.read_bytes() == path.read_bytes() == reference.read_bytes()


def test_models_rows_and_blocks_are_read_from_the_file(path, matrix, monkeypatch):
    stack = StackFile(path)
    assert len(stack) == 5
    assert torch.equal(stack.row(3), matrix[3])
    assert torch.equal(stack.block(slice(4, 9)), matrix[:, 4:9])
    torch.testing.assert_close(stack[2], Models(SUBSET, matrix)[2], rtol=0, atol=0)
    with pytest.raises(IndexError):
        stack[5]
    monkeypatch.setattr(subset, "CHUNK", 20)
    spans, blocks = zip(*stack.columns(), strict=True)
    assert [(span.start, span.stop) for span in spans] == [(0, 4), (4, 8), (8, 11)]
    assert torch.equal(torch.cat(blocks, 1), matrix)


def test_a_stack_that_is_not_finite_is_refused_and_the_old_one_stays(path, matrix):
    before = path.read_bytes()
    matrix[3, 2] = float("nan")
    with pytest.raises(InputError, match=r"finetune\.lr: checkpoint 3 of 5 is not finite"):
        write_rows(path, SUBSET, len(matrix), matrix)
    assert path.read_bytes() == before
    assert [other.name for other in path.parent.iterdir()] == [path.name]


def test_a_stack_that_misses_values_is_never_there(tmp_path, matrix):
    with pytest.raises(ValueError, match="11 values of the stack were not written"):
        write_rows(tmp_path / "short", SUBSET, len(matrix), matrix[:4])
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_said_first(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"needs 44\.00 GB, and its disk has 1\.00 GB left"):
        write_rows(tmp_path / "large", SUBSET, 10**9, iter([]))
    assert not list(tmp_path.iterdir())


def test_a_stack_that_became_shorter_is_named(path):
    stack = StackFile(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"stack\.safetensors became shorter"):
        stack.row(4)


@pytest.mark.parametrize(
    ("tensors", "names"),
    [
        ({"a": torch.zeros(2, 3).half()}, ["a"]),
        ({"a": torch.zeros(2), "b": torch.zeros(3)}, ["a", "b"]),
        ({"a": torch.zeros(2)}, []),
    ],
)
def test_another_file_is_no_stack(tmp_path, tensors, names):
    save_tensors(tmp_path / "other", tensors, names=names)
    with pytest.raises(InputError, match="is not a stack of checkpoints"):
        StackFile(tmp_path / "other")


def test_a_temporary_stack_is_gone_afterwards(tmp_path, matrix):
    columns = Models(SUBSET, matrix).columns()
    with temporary_stack(tmp_path / "work", SUBSET, len(matrix), columns) as stack:
        assert torch.equal(stack.block(EVERYTHING), matrix)
    assert not list((tmp_path / "work/stacks").iterdir())


def test_the_next_run_removes_what_a_killed_one_left_and_no_stack_that_is_in_use(tmp_path, matrix):
    code = (
        "import os, sys, torch; from pathlib import Path; from pdiff.parameters.stack import *;"
        "s = Subset({'a': (2,)}); c = [(slice(0, 2), torch.zeros(1, 2))];"
        "t = temporary_stack(Path(sys.argv[1]), s, 1, c); t.__enter__(); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT)
    (left,) = (tmp_path / "stacks").iterdir()
    assert killed.returncode == -9
    assert (left / "stack.safetensors").is_file()
    in_use = tmp_path / f"stacks/{os.getppid()}-x"
    in_use.mkdir()
    columns = Models(SUBSET, matrix).columns()
    with temporary_stack(tmp_path, SUBSET, len(matrix), columns):
        assert not left.exists()
    assert list((tmp_path / "stacks").iterdir()) == [in_use]

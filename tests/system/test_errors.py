"""Disks that are full or read-only, and memory that runs out: one line, and no part of a file."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from pdiff.core import files
from pdiff.core.files import save_tensors, write_text
from pdiff.system.errors import NEEDED, InputError
from pdiff.system.paths import replacing
from stages import stage


def line(main, capsys) -> str:
    """What a stage that is to fail says."""
    with pytest.raises(SystemExit, match="1"):
        stage(main)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize("number", NEEDED)
def test_trouble_with_a_disk_is_one_line_with_the_path_and_what_is_needed(
    tmp_path, monkeypatch, capsys, number
):
    def cut_short(path: Path, text: str) -> None:
        path.write_bytes(text[:3].encode())
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_text", cut_short)
    error = line(lambda: write_text(tmp_path / "a.json", "text"), capsys)
    assert error.startswith(f"error: {tmp_path}/a.json: {os.strerror(number)}; needed: ")
    assert list(tmp_path.iterdir()) == []


def test_safetensors_says_by_its_text_alone_that_a_disk_is_full(tmp_path, monkeypatch, capsys):
    def cut_short(tensors, path: Path, metadata) -> None:
        path.write_bytes(b"part")
        raise SafetensorError("Error while serializing: I/O error: No space ... (os error 28)")

    monkeypatch.setattr(files, "save_file", cut_short)
    error = line(lambda: save_tensors(tmp_path / "a", {"a": torch.zeros(2)}), capsys)
    assert error.startswith(f"error: {tmp_path}/a: No space left on device; needed: free space")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_written_in_place_is_looked_for_in_the_folder_of_the_run(
    tmp_path, monkeypatch, capsys
):
    def main() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(tmp_path)
    assert f"error: a file in {tmp_path}: No space left" in line(main, capsys)


def test_an_input_that_cannot_be_read_is_not_taken_for_the_output(tmp_path):
    with pytest.raises(PermissionError) as caught, replacing(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", "input")
    assert caught.value.filename == "input"


def test_memory_that_runs_out_is_one_line(capsys):
    assert "memory ran out; needed: smaller nets" in line(lambda: torch.empty(2**50), capsys)


@pytest.mark.parametrize("error", [KeyError("a"), FileNotFoundError(2, "gone"), RuntimeError("a")])
def test_a_bug_keeps_its_traceback(error):
    def main() -> None:
        raise error

    with pytest.raises(type(error)):
        stage(main)


def test_what_a_killed_process_was_writing_goes_and_what_a_running_one_writes_stays(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for process in (ended.pid, os.getppid()):
        (tmp_path / f".a.[x].{process}.partial").touch()
    with replacing(tmp_path / "a.[x]") as partial:
        assert str(os.getpid()) in partial.name
        partial.touch()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a.[x]", f".a.[x].{os.getppid()}.partial"}


def test_an_input_error_is_its_text(capsys):
    def main() -> None:
        raise InputError("noise.latent: -1")

    assert line(main, capsys) == "error: noise.latent: -1\n"

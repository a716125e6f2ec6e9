"""Bars without a terminal, in one, and in a notebook."""

import io
import os
import pty
import subprocess
import sys
import termios

import pytest

from pdiff.system import progress
from pdiff.system.progress import tqdm
from tests.conftest import ROOT


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a loop lets pass by hand."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "IN_NOTEBOOK", False)
    return now


def test_without_a_terminal_a_line_comes_every_thirty_seconds_and_one_at_the_end(clock, capsys):
    for _ in tqdm(range(100), "train", disable=None, mininterval=0, miniters=1):
        clock[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("|")[0].split() for line in lines] == [
        ["train:", f"{percent}%"] for percent in (30, 60, 90, 100)
    ]
    assert "\r" not in "".join(lines)


def test_a_postfix_makes_no_line_before_its_time(clock, capsys):
    with tqdm(range(3), disable=None) as bar:
        for _ in bar:
            bar.set_postfix(loss="1")
            clock[0] += 9
    assert capsys.readouterr().err == ""


def test_a_bar_that_is_hidden_writes_nothing(clock, capsys):
    for _ in tqdm(range(3), disable=True):
        clock[0] += 100
    assert capsys.readouterr().err == ""


def test_a_notebook_keeps_its_bar(monkeypatch, capsys):
    monkeypatch.setattr(progress, "IN_NOTEBOOK", True)
    list(tqdm(range(3), "train", disable=None))
    assert capsys.readouterr().err.startswith("\rtrain:")


def test_a_notebook_with_widgets_draws_the_bar():
    """There tqdm's `display` has other arguments than in a terminal."""
    code = (
        "import sys, tqdm.auto, tqdm.notebook\n"
        "tqdm.auto.tqdm = tqdm.auto.notebook_tqdm = tqdm.notebook.tqdm\n"
        "from pdiff.system.progress import IN_NOTEBOOK, tqdm\n"
        "assert IN_NOTEBOOK and len(list(tqdm(range(3), 'train', disable=None))) == 3\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_bars_that_are_not_wanted_are_hidden_until_the_block_ends(monkeypatch, capsys):
    monkeypatch.setattr(progress, "IN_NOTEBOOK", True)
    with progress.bars(False):
        list(tqdm(range(3), "hidden", disable=None))
    list(tqdm(range(3), "train", disable=None))
    shown = capsys.readouterr().err
    assert "train" in shown and "hidden" not in shown


def test_a_terminal_has_the_bar_itself():
    ours, theirs = pty.openpty()
    code = "from pdiff.system.progress import tqdm; list(tqdm(range(3), 'train', disable=None))"
    termios.tcsetwinsize(theirs, (24, 80))
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=theirs, check=True)
    os.close(theirs)
    with io.FileIO(ours) as terminal:
        assert b"\rtrain: 100%" in terminal.read(10_000)

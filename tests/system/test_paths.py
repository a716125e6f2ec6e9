"""Files that are replaced whole."""

import os
from pathlib import Path

from pdiff.system.paths import replacing


def test_content_is_on_the_disk_before_the_name_and_then_the_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "out.txt", []
    path.write_text("old")

    def forced(number: int) -> None:
        seen.append((Path(f"/proc/self/fd/{number}").resolve().name, path.read_text()))

    monkeypatch.setattr(os, "fsync", forced)
    with replacing(path) as partial:
        partial.write_text("new")
        name = partial.name
    assert seen == [(name, "old"), (tmp_path.name, "new")]

"""The tables in `results/` are as they were written: each page carries hashes of what it shows."""

import hashlib
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from pdiff.paper.render import signed, write_pair
from tests.conftest import ROOT
from tests.toys.runs import make_run

PAGES = [path for path in (ROOT / "results").rglob("*.md") if path.with_suffix(".csv").is_file()]


def altered(page: Path) -> list[str]:
    """The page or the files beside it whose content is not the one that was written."""
    first, _, text = page.read_text().partition("\n")
    named = re.findall(r"(\S+\.csv|\S+\.json|this page) ([0-9a-f]{16})", first)
    texts = {
        name: text if name == "this page" else (page.parent / name).read_text() for name, _ in named
    }
    suffixes = [path.suffix for path in page.parent.glob(f"{page.stem}.*")]
    assert len(named) == len([suffix for suffix in suffixes if suffix in (".csv", ".json", ".md")])
    return [n for n, h in named if hashlib.sha256(texts[n].encode()).hexdigest()[:16] != h]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_digit_of_a_table_was_edited(page):
    assert altered(page) == []


@pytest.mark.parametrize("file", ["table.csv", "table.md", "table.json"])
def test_an_edited_digit_is_found(tmp_path, file):
    write_pair(tmp_path, "table", pd.DataFrame({"x": [0.5]}), "| 0.5 |\n", ["abc"], json="[0.5]\n")
    assert altered(tmp_path / "table.md") == []
    path = tmp_path / file
    path.write_text(path.read_text().replace("0.5", "0.6"))
    assert altered(tmp_path / "table.md") == ["this page" if file == "table.md" else file]


def test_a_page_names_the_metrics_that_it_came_from(tmp_path):
    assert signed("text", {}, ["a", "b", "a"]).splitlines()[0].endswith("; metrics a b -->")
    run, other = (make_run(tmp_path / name, audit={"z": z}) for name, z in (("a", 1), ("b", 2)))
    assert len(run.digest) == 12 and run.digest != other.digest


def test_the_verdict_came_from_the_pipelines_that_stand_beside_it():
    rows = pd.read_csv(ROOT / "results/verdict.csv")
    for section, metrics in {(r.section, r.metrics) for r in rows.itertuples()}:
        data, net, recipe = re.match(r"(\w+), (\w+), recipe (\w+)", section).groups()
        name = f"{recipe}-{data}-{net}-*".replace("_", "-")
        folders = (ROOT / "results/pipelines").glob(name)
        found = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
        texts = (json.dumps(content, sort_keys=True).encode() for content in found)
        assert {hashlib.sha256(text).hexdigest()[:12] for text in texts} == set(metrics.split())

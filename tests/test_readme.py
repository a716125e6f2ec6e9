"""The README's numbers are the committed ones."""

import re

import pandas as pd
import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def _cells(marker: str) -> list[list[str]]:
    """Rows of the table behind `<!-- marker -->`, without its heading."""
    lines = README.partition(f"<!-- {marker} -->")[2].strip().splitlines()
    table = []
    for line in lines:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table[2:]


def test_the_result_table_is_the_committed_summary():
    summary = pd.read_csv(ROOT / "report/summary.csv").set_index("group")
    rows = _cells("summary.csv")
    assert [row[0] for row in rows] == list(summary.index)
    for name, models, mean, best, similarity, within in rows:
        expected = summary.loc[name]
        assert int(models) == expected["models"]
        assert float(mean.split()[0]) == pytest.approx(100 * expected["accuracy_mean"], abs=0.0051)
        assert float(best) == pytest.approx(100 * expected["accuracy_best"], abs=0.0051)
        assert float(similarity) == pytest.approx(expected["max_similarity_mean"], abs=0.00051)
        if within != "-":
            assert float(within) == pytest.approx(expected["similarity_within"], abs=0.00051)


def test_every_file_that_the_readme_links_to_exists():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_no_placeholder_is_left():
    assert re.findall(r"@[A-Z]+@|TODO", README) == []

"""docs/map.md names files and symbols that exist."""

import ast
import re

from tests.conftest import ROOT

MAP = (ROOT / "docs/map.md").read_text()
PLACES = re.findall(r"`([\w/]+\.\w+)`(?:: ((?:`\w+`(?:, )?)+))?", MAP)


def test_every_file_of_the_map_exists_and_defines_its_symbols():
    missing = []
    for path, symbols in PLACES:
        text = (ROOT / path).read_text()
        nodes = ast.walk(ast.parse(text)) if path.endswith(".py") else []
        defined = {node.name for node in nodes if hasattr(node, "name")}
        missing += [(path, name) for name in re.findall(r"\w+", symbols) if name not in defined]
    assert not missing and len(PLACES) > 20


def test_the_map_holds_the_methods_figures_and_tables():
    for words in ("Figure 1", "Figures 3 and 4", "Figure 5 a, b, c", "Tables 1 ", " and 2 "):
        assert words in MAP
    for number in (3, 4, *range(6, 14)):
        assert f"| Table {number} (" in MAP

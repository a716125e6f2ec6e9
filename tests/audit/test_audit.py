"""The stage `audit` of a whole toy pipeline."""

import pandas as pd

from pdiff.audit.report import columns
from pdiff.baselines.registry import ordered
from pdiff.core.files import load_json


def test_every_group_that_was_evaluated_stands_in_every_table(finished):
    groups = ordered(set(pd.read_csv(finished / "data/models.csv")["group"]))
    assert len(groups) == 22
    for name in ("groups", "copying", "distances", "similarity_matrix"):
        table = pd.read_csv(finished / f"report/audit/{name}.csv")
        assert table["group"].tolist() == groups, name
        assert name == "similarity_matrix" or len(columns(table)) <= 11  # what a screen holds


def test_the_report_leads_with_the_fit(finished):
    text = (finished / "report/audit/report.html").read_text()
    top = text.partition("<main>")[0]
    assert top.index("so no claim follows") < top.index("accuracy difference (%)")
    assert "no claim about the method can be made from this run" in top  # 20 steps teach nothing
    numbers = load_json(finished / "metrics/audit.json")
    assert {"interpolation_index", "z_fresh", "accuracy_over_gaussian_full"} < set(numbers)

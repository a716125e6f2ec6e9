"""Novel and performant: far from every checkpoint that was learned, and as accurate as those.

Accuracies are fractions; distances are those of `pdiff.audit.distances`.
"""

import math

import pandas as pd
from scipy.stats import binomtest

MULTIPLES = (1, 2, 3, 4, 6)
"""How many times farther than originals are from each other a model must be to be novel."""


def performant_table(table: pd.DataFrame, models: pd.DataFrame) -> pd.DataFrame:
    """One row per group and multiple c: the share of models that are novel and perform.

    Novel is farther from every original than c times the originals' mean distance to their
    nearest fellow (`leave_one_out`); a model without distance never is. Performing is above the
    `bar`, which is fixed beforehand: the originals' mean accuracy on the choosing split.
    `novel_performant` holds the accuracy on the reporting split against it, and
    `novel_performant_choosing` that on the choosing split, like with like; each with its 95 %
    Wilson interval. With a single original nothing is known to be novel: NaN.

    Checkpoints of a run lie close together, so a plain mean of them passes at every c: the share
    says something only beside those of the rivals.

    Args:
        table: as `distance_table` gives it.
        models: one row per model: group, model, accuracy, choosing_accuracy.
    """
    both = table.merge(models, on=["group", "model"], validate="one_to_one")
    if missing := set(table["group"]) - set(both["group"]):
        raise ValueError(f"no accuracies of {', '.join(sorted(missing))}")
    originals = both[both["group"] == "original"]
    unit, bar = originals["nearest"].mean(), originals["choosing_accuracy"].mean()
    known = not math.isnan(unit)
    rows = []
    for group, part in both.groupby("group", sort=False):
        performs, chosen = (_above(part[name], bar) for name in ("accuracy", "choosing_accuracy"))
        for multiple in MULTIPLES:
            novel = part["nearest"] > multiple * unit
            row = {"group": group, "c": multiple, "models": len(part)}
            row |= {"leave_one_out": unit, "bar": bar, "performant": performs.mean()}
            row["novel"] = novel.mean() if known else math.nan
            row |= _share("novel_performant", novel & performs, known)
            row |= _share("novel_performant_choosing", novel & chosen, known)
            rows.append(row)
    return pd.DataFrame(rows)


def _above(accuracy: pd.Series, bar: float) -> pd.Series:
    """Strictly, beyond what rounding the bar's mean may add."""
    return accuracy > bar + 1e-9


def _share(column: str, hits: pd.Series, known: bool) -> dict[str, float]:
    """A share of models with its Wilson interval (Wilson 1927); NaN where it is not known."""
    if not known:
        return {column: math.nan, f"{column}_low": math.nan, f"{column}_high": math.nan}
    test = binomtest(int(hits.sum()), len(hits))
    low, high = test.proportion_ci(0.95, method="wilson")
    return {column: test.statistic, f"{column}_low": low, f"{column}_high": high}

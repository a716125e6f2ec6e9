"""The registry of analyses.

Each file of this folder that ends with `ANALYSIS = Analysis(...)` is a section of the report; a
new one needs no other edit.
"""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module

import pandas as pd

import pdiff.audit
from pdiff.audit.evidence import Evidence
from pdiff.novelty.pictures import Picture

PAPER = "Wang et al., Neural Network Diffusion, arXiv 2402.13144v3"
MEMORISATION = "its question, Zeng et al., arXiv 2506.07998"

Draw = Callable[[Evidence, pd.DataFrame | None], Picture]


@dataclass(frozen=True)
class Analysis:
    """One question about the generated models: its numbers, its pictures, its words."""

    name: str
    """Its table is NAME.csv."""
    order: int
    """Its place in the report: smaller numbers come first."""
    title: str
    question: str
    reading: str
    definition: str
    source: str
    table: Callable[[Evidence], pd.DataFrame] | None = None
    figures: Mapping[str, Draw] = field(default_factory=dict)
    """By the name of the PNG."""
    numbers: Callable[[pd.DataFrame | None], Mapping[str, float]] = lambda table: {}
    """What experiments are compared by, from the table."""


def analyses() -> list[Analysis]:
    """Every `ANALYSIS` in this folder, in the order of the report."""
    names = [module.name for module in pkgutil.iter_modules(pdiff.audit.__path__)]
    modules = [import_module(f"pdiff.audit.{name}") for name in names]
    found = [module.ANALYSIS for module in modules if hasattr(module, "ANALYSIS")]
    return sorted(found, key=lambda analysis: analysis.order)

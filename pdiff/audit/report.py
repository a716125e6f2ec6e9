"""The loop over all analyses: their tables, their figures, and one HTML page that opens offline.

The page holds the figures, no script, and needs no network; `page.html` escapes all text. The same
content gives the same bytes.
"""

import base64
import inspect
import re
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from pdiff.audit.analysis import analyses
from pdiff.audit.evidence import Evidence
from pdiff.baselines.registry import FAMILIES, colour, label, split
from pdiff.config import GenerateConfig
from pdiff.core.files import write_text
from pdiff.diffusion.bars import conclusion, describe, missed_bars
from pdiff.novelty.pictures import save_figure
from pdiff.novelty.summary import difference_table, save_table

PERCENT = re.compile(r"(\w+_)?(accuracy|share|farther)(_\w+)?")
"""Columns of fractions that readers see in percent."""
LEAST_WIDTH = 640
"""Pixels below which a figure is not shrunk any further but scrolls in its box."""
RIVALS = ("gaussian_full", "latent_gaussian")
"""What a diffusion model has to beat, in the numbers that experiments are compared by."""


def write_audit(
    folder: Path, evidence: Evidence, lead: str, facts: Mapping[str, str]
) -> dict[str, float | None]:
    """Write every analysis and `report.html` into `folder`; return the headline numbers.

    The report says first whether the generator learned (`lead`), then how its models differ from
    each group, then what the analyses found. `facts` say what was run.
    """
    groups = difference_table(evidence.models, evidence.wrong, evidence.replicates)
    save_table(folder / "groups.csv", groups)
    differences, sections, found = groups.set_index("group"), [], {}
    for name in ("accuracy", "similarity"):
        for rival in (group for group in RIVALS if group in differences.index):
            found[f"{name}_over_{rival}"] = differences.loc[rival, f"{name}_difference"]
    for analysis in analyses():
        table, pictures = None, {}
        if analysis.table is not None:
            table = analysis.table(evidence)
            save_table(folder / f"{analysis.name}.csv", table)
        for name, draw in analysis.figures.items():
            pictures[folder / f"{name}.png"] = (inspect.getdoc(draw) or name).partition("\n")[0]
            save_figure(draw(evidence, table), folder / f"{name}.png")
        found |= analysis.numbers(table)
        sections.append({"analysis": analysis, "pictures": pictures, "table": table})
    write_report(folder / "report.html", lead, facts, groups, sections)
    return {name: None if pd.isna(value) else float(value) for name, value in found.items()}


def lead(
    metrics: Mapping[str, Any], config: GenerateConfig, min_r2: float, warned: str = ""
) -> str:
    """Whether the generator learned, from the metrics of the stage `novelty`, and its warnings."""
    word = conclusion(missed_bars(metrics["fit"], config, min_r2))
    text = f"{describe(metrics['fit'], metrics['similarity'])} {word}"
    return f"{text} {warned.removeprefix(word).strip()}".strip()


def write_report(
    path: Path,
    lead: str,
    facts: Mapping[str, str],
    groups: pd.DataFrame,
    sections: Sequence[Mapping[str, Any]],
) -> None:
    """Write the page: `lead` on top, then `groups`, what was run, and a section per analysis.

    A section has an `analysis`, its `pictures` (alternative text by PNG), and its `table` or None.
    """
    strict = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), **strict)
    functions = (heading, columns, cell, picture, colour)
    environment.filters |= {function.__name__: function for function in functions}
    page = environment.get_template("page.html")
    shown = [FAMILIES[name] for name in dict.fromkeys(split(g)[0] for g in groups["group"])]
    families = {family.label.format("N"): family.what for family in shown}
    content = {"lead": lead, "facts": facts, "groups": groups, "sections": sections}
    title = "Is it new? The audit of one p-diff run"
    write_text(path, page.render(content, families=families, title=title))


def picture(png: Path) -> dict[str, Any]:
    """Width, height and least width in pixels, and the picture as base64."""
    with Image.open(png) as image:
        width, height = image.size
    data = base64.b64encode(png.read_bytes()).decode()
    return {"width": width, "height": height, "least": min(width, LEAST_WIDTH), "data": data}


def columns(table: pd.DataFrame) -> list[str]:
    """The columns that are shown; the two ends of an interval stand in its estimate's cell."""
    ends = {f"{column}_{end}" for column in table for end in ("low", "high")}
    return [column for column in table if column not in ends]


def cell(table: pd.DataFrame, row: int, column: str) -> str:
    """What a reader sees of one cell: a group's label, or a number with its interval."""
    if column == "group":
        return label(table[column][row])
    text = number(column, table[column][row])
    if f"{column}_low" not in table or text == "-":
        return text
    low, high = (number(column, table[f"{column}_{end}"][row]) for end in ("low", "high"))
    return f"{text} [{low}, {high}]"


def heading(name: str) -> str:
    """A column as readers see it: a group's label, or words and the unit."""
    try:
        return label(name)
    except (KeyError, ValueError):
        words = name.replace("_", " ")
        return f"{words} (%)" if PERCENT.fullmatch(name) else words


def number(column: str, value: Any) -> str:
    """A value as readers see it: percent with two digits, else three; a dash for what is unknown.

    Counts have none, and distances that three digits do not hold an exponent.
    """
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "-"
    if PERCENT.fullmatch(column):
        return f"{100 * value:z.2f}"
    if isinstance(value, Integral):
        return f"{value:,}"
    if column.startswith("nearest") and 0 < value < 0.0005:
        return f"{value:.1e}"
    return f"{value:z,.3f}" if abs(value) < 1000 else f"{value:,.0f}"

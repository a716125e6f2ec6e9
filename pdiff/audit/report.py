"""The loop over all analyses: their tables, their figures, and one HTML page that opens offline.

The page holds the figures and tables and needs no network; `page.html` escapes all text. The same
content gives the same bytes.
"""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from pdiff.audit.analysis import Draw, analyses
from pdiff.audit.distances import distance_summary, places
from pdiff.audit.evidence import Evidence
from pdiff.baselines.registry import FAMILIES, label, split
from pdiff.config import GenerateConfig
from pdiff.core.files import write_text
from pdiff.diffusion.bars import conclusion, describe, missed_bars
from pdiff.novelty.claims import Kind, bracket, shown
from pdiff.novelty.looks import look
from pdiff.novelty.pictures import plot_scatter, save_both
from pdiff.novelty.summary import difference_table, save_table

PERCENT = re.compile(r"(\w+_)?(accuracy|share|farther)(_\w+)?")
"""Columns of fractions that readers see in percent."""
RIVALS = ("gaussian_full", "latent_gaussian")
"""What a diffusion model has to beat, in the numbers that experiments are compared by."""
AGAINST = {
    "original": "the originals",
    "ensemble": "their plain mean",
    "latent_gaussian": "a Gaussian of their latents",
    "fresh": "a fresh fine-tuning run",
}
"""What the top of the report compares generated models with."""


class Fit(NamedTuple):
    """Whether the generator learned: the bars decide (`pdiff.diffusion.bars`)."""

    fits: bool
    conclusion: str
    numbers: str


def write_audit(
    folder: Path,
    evidence: Evidence,
    fit: Fit,
    facts: Mapping[str, str],
    summary: pd.DataFrame,
    examples: Path,
) -> dict[str, float | None]:
    """Write every analysis and `report.html` into `folder`; return the headline numbers.

    `summary` is `summary.csv`, `examples` a picture that says itself what it shows.

    The report says first what was found (`finding`), then whether the generator learned and how
    its models differ from the main rivals, then what the analyses found. `facts` say what was run.
    """
    groups = difference_table(evidence.models, evidence.wrong, evidence.replicates)
    differences, sections, found = groups.set_index("group"), [], {}
    for name in ("accuracy", "similarity"):
        for rival in (group for group in RIVALS if group in differences.index):
            found[f"{name}_over_{rival}"] = differences.loc[rival, f"{name}_difference"]
    scatter = {"groups": lambda evidence, _: plot_scatter(evidence.models, evidence.split)}
    top = _written(folder, evidence, "groups", groups, scatter)
    for analysis in analyses():
        table = None if analysis.table is None else analysis.table(evidence)
        part = _written(folder, evidence, analysis.name, table, analysis.figures)
        sections.append({"analysis": analysis, **part})
        found |= analysis.numbers(table)
    steps = distance_summary(places(evidence)).set_index("group")["nearest_relative"]
    images = f"{len(evidence.labels):,} {evidence.split} images"
    top["finding"] = finding(groups, images, steps, fit.fits)
    with Image.open(examples) as picture:
        top["pictures"][examples] = picture.text["Description"]
    top["scores"] = score_table(summary)
    if top["scores"] is not None:
        top["finding"] = score_finding(summary, fit.fits)
    write_report(folder / "report.html", fit, facts, top, sections)
    return {name: None if pd.isna(value) else float(value) for name, value in found.items()}


def _written(
    folder: Path,
    evidence: Evidence,
    name: str,
    table: pd.DataFrame | None,
    figures: Mapping[str, Draw],
) -> dict[str, Any]:
    """Write a part's table and figures; what the page shows of them."""
    pictures, csv = {}, folder / f"{name}.csv"
    if table is not None:
        save_table(csv, table)
    for png, draw in figures.items():
        figure, words = draw(evidence, table)
        path, _ = save_both(figure, folder / f"{png}.png")
        pictures[path] = re.sub(r"\bnan\b", "unknown", words)
    return {"pictures": pictures, "table": table, "csv": csv}


def lead(
    metrics: Mapping[str, Any], config: GenerateConfig, min_r2: float, warned: str = ""
) -> Fit:
    """Whether the generator learned, from the metrics of the stage `novelty`, and its warnings."""
    missed = missed_bars(metrics["fit"], config, min_r2)
    word, numbers = conclusion(missed), describe(metrics["fit"], metrics["similarity"])
    return Fit(not missed, f"{word} {warned.removeprefix(word).strip()}".strip(), numbers)


def score_table(summary: pd.DataFrame) -> pd.DataFrame | None:
    """Each group's scores, by what they are called; None where the accuracy is the score."""
    if "score" not in summary:
        return None
    kinds = ("mean", "std", "best", "chosen")
    names = {f"score_{kind}": f"{summary['score'][0]} {kind}" for kind in kinds}
    return summary[["group", *names, "models"]].rename(columns=names)


def score_finding(summary: pd.DataFrame, fits: bool) -> str:
    """As `finding`, by the score of a task other than classification; `summary` is summary.csv."""
    table, metric = summary.set_index("group"), summary["score"][0]
    means = table["score_mean"]
    text = _listed([f"{AGAINST[rival]} {means[rival]:.2f}" for rival in ("original", "ensemble")])
    count = table.loc["generated", "models"]
    text = f"{count} generated models, mean {metric} {means['generated']:.2f}: {text}."
    return text if fits else f"The generator does not fit, so no claim follows. {text}"


def finding(groups: pd.DataFrame, images: str, steps: pd.Series, fits: bool) -> str:
    """What was found, in one sentence: the accuracy beside the rivals', the nearest checkpoint.

    `groups` is a `difference_table`: a word is its 95 % interval on these images. `steps` is each
    group's distance to the nearest checkpoint, in that of a checkpoint.
    """
    table, said = groups.set_index("group"), {}
    for _, name, row in _against(groups):
        low, high = row["accuracy_difference_low"], row["accuracy_difference_high"]
        word = "more accurate than" if low > 0 else "less accurate than" if high < 0 else ""
        theirs = f"{name} ({100 * row['accuracy']:.2f} %)"
        said.setdefault(word or "not told apart in accuracy from", []).append(theirs)
    words = ", ".join(f"{word} {_listed(names)}" for word, names in said.items())
    own = table.loc["generated"]
    text = (
        f"{own['models']:.0f} generated models, {100 * own['accuracy']:.2f} % on {images}: {words}"
    )
    if not pd.isna(steps["generated"]):
        text += f"; the nearest checkpoint is {steps['generated']:.1f} steps away"
        text += f", for a fresh run {steps['fresh']:.1f}" if "fresh" in steps else ""
    return f"{text}." if fits else f"The generator does not fit, so no claim follows. {text}."


def _against(groups: pd.DataFrame) -> Iterator[tuple[str, str, pd.Series]]:
    """Group, name and row of the main rivals that there are."""
    table = groups.set_index("group")
    return (
        (group, name, table.loc[group]) for group, name in AGAINST.items() if group in table.index
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def write_report(
    path: Path,
    fit: Fit,
    facts: Mapping[str, str],
    top: Mapping[str, Any],
    sections: Sequence[Mapping[str, Any]],
) -> None:
    """Write the page: the `finding` and the fit, the main rivals, a picture, then the sections.

    `top` and each section have `pictures` (alternative text by PNG), a `table` or None, and where
    its `csv` lies; `top` has the `finding`, the table of groups and that of `scores` or None, a
    section its `analysis`.
    """
    strict = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), **strict)
    functions = (heading, columns, cell, picture, embedded, look)
    environment.filters |= {function.__name__: function for function in functions}
    page = environment.get_template("page.html")
    groups = top["table"]
    known = [FAMILIES[name] for name in dict.fromkeys(split(g)[0] for g in groups["group"])]
    families = {family.label.format("N"): family.what for family in known}
    rivals = [
        (group, name, _difference(row, "accuracy"), _difference(row, "similarity"))
        for group, name, row in _against(groups)
    ]
    content = {"fit": fit, "facts": facts, "top": top, "rivals": rivals, "sections": sections}
    title = "Is it new? The audit of one p-diff run"
    write_text(path, page.render(content, families=families, title=title))


def _difference(row: pd.Series, kind: Kind) -> tuple[str, str]:
    """A difference and its interval."""
    name = f"{kind}_difference"
    return shown(row[name], kind), bracket(row[f"{name}_low"], row[f"{name}_high"], kind)


def picture(png: Path) -> dict[str, Any]:
    """Width and height in pixels, and the picture as base64."""
    with Image.open(png) as image:
        width, height = image.size
    return {"width": width, "height": height, "data": embedded(png)}


def embedded(file: Path) -> str:
    """The content as base64."""
    return base64.b64encode(file.read_bytes()).decode()


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

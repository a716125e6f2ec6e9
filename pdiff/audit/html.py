"""One HTML file that opens offline: figures inside it, tables as tables, no script and no network.

All text is escaped here; callers pass plain text. The same content gives the same bytes.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from pdiff.audit.page import PAGE, SECTION
from pdiff.baselines.registry import FAMILIES, colour, label
from pdiff.core.files import write_text
from pdiff.novelty.claims import Claim, p_value

OUTCOMES = {"holds": "holds", "does not hold": "fails", "cannot tell": "open"}
"""Each outcome's class in the style sheet."""

PERCENT = re.compile(
    r"(\w+_)?(accuracy|share|agreement|performant)(_\w+)?"
    r"|novel|bar|rank_first|farther_\w+|(original|generated)_(mean|best|chosen)\w*"
)
"""Columns of fractions that readers see in percent."""
P_VALUE = re.compile(r"p|p_\w+|\w+_p|\w+_holm")
WORD = re.compile(r"\w+_word")
LONG = 40
"""Text of more characters than this may wrap in its cell."""
LEAST_WIDTH = 640
"""Pixels below which a figure is not shrunk any further but scrolls in its box."""


@dataclass(frozen=True)
class Figure:
    """A picture and what a reader who cannot see it is told."""

    png: Path
    alt: str


@dataclass(frozen=True)
class Section:
    """One analysis: what it asks, what came out, how to read that, and where it is from."""

    title: str
    question: str
    reading: str
    definition: str
    source: str
    figures: Sequence[Figure] = ()
    tables: Mapping[str, pd.DataFrame] | None = None
    """By caption."""


def write_report(
    path: Path,
    sections: Sequence[Section],
    *,
    title: str,
    lead: str,
    facts: Mapping[str, str],
    headline: pd.DataFrame,
    claims: Sequence[Claim],
) -> None:
    """Write the report.

    Args:
        sections: in order; titles must differ.
        lead: one sentence under the title.
        facts: what was run, by name: data, net, seeds, numbers of models.
        headline: the table on top.
        claims: the verdict box; without any it says that there is none.
    """
    anchors = [_anchor(section.title) for section in sections]
    if len(set(anchors)) != len(anchors):
        raise ValueError(f"titles of sections must differ: {[s.title for s in sections]}")
    titles = zip(anchors, sections, strict=True)
    contents = (f'<li><a href="#{a}">{escape(s.title)}</a></li>' for a, s in titles)
    bodies = (_section(a, s) for a, s in zip(anchors, sections, strict=True))
    page = PAGE.substitute(
        title=escape(title),
        lead=f"<p>{escape(lead)}</p>",
        verdict=_verdict(claims),
        headline=table_html(headline),
        facts=_facts(facts),
        contents="\n".join(contents),
        sections="\n".join(bodies),
    )
    write_text(path, page)


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _section(anchor: str, section: Section) -> str:
    tables = (section.tables or {}).items()
    return SECTION.substitute(
        anchor=anchor,
        title=escape(section.title),
        question=escape(section.question),
        figures="\n".join(map(_figure, section.figures)),
        reading=escape(section.reading),
        tables="\n".join(f"<h3>{escape(caption)}</h3>\n{table_html(t)}" for caption, t in tables),
        definition=escape(section.definition),
        source=escape(section.source),
    )


def _figure(figure: Figure) -> str:
    """The picture as a data URI, never wider than it is; on a phone it scrolls in its own box."""
    content = figure.png.read_bytes()
    width, height = Image.open(BytesIO(content)).size
    least = min(width, LEAST_WIDTH)
    return (
        f'<div class="figure" tabindex="0"><img alt="{escape(figure.alt)}" width="{width}" '
        f'height="{height}" style="max-width:{width}px;min-width:{least}px" '
        f'src="data:image/png;base64,{base64.b64encode(content).decode()}"></div>'
    )


def _facts(facts: Mapping[str, str]) -> str:
    pairs = (f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    return f'<dl class="facts">{"".join(pairs)}</dl>'


def _verdict(claims: Sequence[Claim]) -> str:
    items = (
        f'<li><span class="outcome {OUTCOMES[claim.outcome]}">{claim.outcome}</span>'
        f'{escape(claim.text)}<br><span class="soft">{escape(claim.numbers)}</span></li>'
        for claim in claims
    )
    body = f"<ul>{''.join(items)}</ul>" if claims else "<p>No claim was tested.</p>"
    return f'<div class="verdict"><strong>Verdict</strong>{body}</div>'


def table_html(table: pd.DataFrame) -> str:
    """A table in a box in which it scrolls; the first column stays in sight."""
    heads = "".join(f'<th scope="col">{escape(heading(str(c)))}</th>' for c in table.columns)
    groups = {str(value) for value in table["group"]} if "group" in table else set()
    rows = []
    for values in table.itertuples(index=False, name=None):
        cells = [_cell(str(c), v, groups) for c, v in zip(table.columns, values, strict=True)]
        first = cells[0].replace("<td", '<th scope="row"', 1).replace("</td>", "</th>")
        rows.append(f"<tr>{first}{''.join(cells[1:])}</tr>")
    body = "\n".join(rows)
    return (
        f'<div class="table" tabindex="0"><table><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(column: str, value: Any, groups: set[str]) -> str:
    if not isinstance(value, str):
        return f"<td>{number(column, value)}</td>"
    if column == "group":
        return f'<td class="text">{_dot(value, groups)}{escape(heading(value))}</td>'
    text = FAMILIES[value].label.format("N") if column == "family" else value
    return f'<td class="{"text wide" if len(text) > LONG else "text"}">{escape(text)}</td>'


def _dot(group: str, groups: set[str]) -> str:
    """The group's colour in the figures."""
    return f'<span class="dot" style="background:{colour(group, groups)}"></span>'


def heading(name: str) -> str:
    """A column or group as readers see it: a group's label, or words and the unit."""
    try:
        return label(name)
    except ValueError:
        pass
    words = name.replace("_", " ")
    other = P_VALUE.fullmatch(name) or WORD.fullmatch(name)
    return f"{words} (%)" if PERCENT.fullmatch(name) and not other else words


def number(column: str, value: Any) -> str:
    """A value as readers see it: percent with two digits, all else with three; a dash for NaN."""
    if pd.isna(value):
        return "-"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if P_VALUE.fullmatch(column):
        return p_value(float(value))
    if PERCENT.fullmatch(column):
        return f"{100 * value:.2f}"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if 0 < abs(value) < 0.0005:
        return f"{value:.1e}"
    return f"{value:,.3f}" if abs(value) < 1000 else f"{value:,.0f}"

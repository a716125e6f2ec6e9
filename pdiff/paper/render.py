"""A table's results as CSV (one line a number), as Markdown (one line a row) and as a figure."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import torch

from pdiff.config import parse_params
from pdiff.core.files import write_text
from pdiff.nets.registry import build_net
from pdiff.novelty.claims import Claim, shown
from pdiff.novelty.claims import bracket as ends
from pdiff.paper.definitions import DEFAULT, Table, label
from pdiff.paper.experiments import make_experiment
from pdiff.paper.figures import draw
from pdiff.paper.memory import NOTES, memory_table
from pdiff.paper.results import Measured, difference
from pdiff.parameters.subset import select_subset
from pdiff.tracking.files import flatten
from pdiff.tracking.process import git_commit

HEADINGS = {
    "original_best": "originals, best",
    "original_mean": "originals, mean",
    "ensemble": "ensemble",
    "generated_best": "generated, best",
    "generated_mean": "generated, mean",
    "original_similarity": "maximum similarity, originals",
    "generated_similarity": "maximum similarity, generated",
    "generated_similarity_low": "maximum similarity, lowest",
    "generated_similarity_high": "maximum similarity, highest",
}
READING = (
    "Each cell: paper / authors' log / **ours** [95 % interval]; accuracies in %, - where there "
    "is no number. The interval is a bootstrap over test images and models, averaged over the "
    "seeds; ± is the standard deviation over seeds. n: seeds x generated models."
)


def long_table(table: Table, rows: Sequence[Measured]) -> pd.DataFrame:
    """One line for each row and measure; accuracies and similarities are fractions."""
    lines = []
    for row in rows:
        authors = row.row.authors()
        for measure in table.measures:
            low, high = row.interval(measure)
            lines.append(
                {
                    "row": row.row.label,
                    "measure": measure,
                    "paper": row.row.paper.get(measure, math.nan),
                    "authors_log": authors.get(measure, math.nan),
                    "ours": row.value(measure),
                    "low": low,
                    "high": high,
                    "seed_std": row.spread(measure),
                    "seeds": len(row.found),
                    "originals": row.count("original"),
                    "generated": row.count("generated"),
                    "status": row.status,
                    "commit": row.commits,
                    "lock": row.locks,
                    "command": "; ".join(e.shared_command for e in row.experiments),
                }
            )
    return pd.DataFrame(lines)


def differences(table: Table, rows: Sequence[Measured]) -> list[Claim]:
    """What the paper claims to be positive, as far as the table's rows are among these."""
    by_label = {row.row.label: row for row in rows}
    claims = [c for c in table.claims if {c.larger[0], c.smaller[0]} <= by_label.keys()]
    return [difference(c.text, c.larger, c.smaller, by_label) for c in claims]


def markdown(table: Table, rows: Sequence[Measured], command: str) -> str:
    """The table for a reader: paper / authors' log / ours with its 95 % interval."""
    heads = ["", *(HEADINGS[m] for m in table.measures), "n", "commit"]
    cells = [
        [row.row.label, *(_cell(row, m) for m in table.measures), _count(row), row.commits or "-"]
        for row in rows
    ]
    lines = [f"# {_title(table)}", "", f"`{command}`", "", READING, "", *grid(heads, cells)]
    if table.claims:
        lines += ["", "## The paper's claims in this table", "", *_claim_lines(table, rows)]
    return "\n".join([*lines, *_notes(rows)]) + "\n"


def _title(table: Table) -> str:
    name = table.name.replace("figure_", "Figure ")
    return f"{name if name.startswith('Figure') else f'Table {name}'}: {table.title}"


def _claim_lines(table: Table, rows: Sequence[Measured]) -> list[str]:
    """Differences without a word: a table has one base net, and a claim needs several."""
    cells = [
        [claim.text, shown(claim.estimate, claim.kind), ends(claim.low, claim.high, claim.kind)]
        for claim in differences(table, rows)
    ]
    return grid(["claim", "difference", "95 % interval"], cells)


def _cell(row: Measured, measure: str) -> str:
    paper = number(row.row.paper.get(measure, math.nan), measure, digits=1)
    authors = number(row.row.authors().get(measure, math.nan), measure)
    if not row.found:
        ours = "failed" if row.status.startswith("failed") else "not run"
        return f"{paper} / {authors} / {ours}"
    text = f"**{number(row.value(measure), measure)}**"
    if not math.isnan(row.spread(measure)):
        text += f" ± {number(row.spread(measure), measure)}"
    return f"{paper} / {authors} / {text} {bracket(*row.interval(measure), measure)}".rstrip()


def _count(row: Measured) -> str:
    if not row.found:
        return "0"
    models = row.count("generated") // len(row.found)
    return f"{len(row.found)} x {models or '?'}"


def _notes(rows: Sequence[Measured]) -> list[str]:
    """What failed and why; what was not run, with the commands that would run it."""
    failed = [f"- {row.row.label}: {row.status}" for row in rows if row.status.startswith("failed")]
    commands = [f"    {e.shared_command}" for row in rows for e in row.not_run]
    lines = ["", "## Failed", "", *failed] if failed else []
    return [*lines, "", "## Not run", "", *commands] if commands else lines


def number(value: float, measure: str, digits: int = 2, signed: bool = False) -> str:
    if math.isnan(value):
        return "-"
    sign = "+" if signed else ""
    if "similarity" in measure:
        return f"{value:{sign}.{max(digits, 3) if digits > 1 else 2}f}"
    return f"{100 * value:{sign}.{digits}f}"


def bracket(low: float, high: float, measure: str, signed: bool = False) -> str:
    if math.isnan(low):
        return ""
    return f"[{number(low, measure, signed=signed)}, {number(high, measure, signed=signed)}]"


def line(cells: Iterable[object]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def grid(heads: Iterable[object], rows: Iterable[Iterable[object]]) -> list[str]:
    """A Markdown table."""
    heads = list(heads)
    return [line(heads), line("-" * len(heads)), *map(line, rows)]


def counts_table(table: Table) -> pd.DataFrame:
    """Table 6: numbers of generated parameters for ten classes, as in STL-10."""
    rows = []
    for name, paper in table.paper.items():
        params = parse_params(
            make_experiment((f"net={name}", "data=cifar10", "recipe=paper")).params
        )
        with torch.device("meta"):
            net = build_net(params.base.net, 10, params.data.size)
        ours = select_subset(net, params.subset.select).length
        rows.append({"net": label("net", name), "paper": paper, "ours": ours})
    return pd.DataFrame(rows)


def recipe_table(table: Table) -> pd.DataFrame:
    """Table 5: the paper's recipe beside the one that `recipe=paper` composes for its default."""
    ours = flatten(make_experiment(("recipe=paper", *DEFAULT)).params)
    rows = [{"parameter": name, "paper": p, "ours": ours[name]} for name, p in table.paper.items()]
    return pd.DataFrame(rows)


PLAIN = {"counts": counts_table, "recipe": recipe_table}
"""Tables without experiments, by their kind; Table 13 is `pdiff.paper.memory`'s."""


def plain_markdown(table: Table, frame: pd.DataFrame, command: str, notes: str = "") -> str:
    rows = frame.astype(object).where(frame.notna(), "-").itertuples(index=False)
    lines = [f"# {_title(table)}", "", f"`{command}`", "", *grid(frame.columns, rows)]
    return "\n".join([*lines, *(["", notes] if notes else [])]) + "\n"


def write(
    table: Table, rows: Sequence[Measured], folder: Path, command: str, full: bool = False
) -> tuple[list[Path], pd.DataFrame]:
    """Write CSV, Markdown and figure; the files that there are, and the CSV's content.

    `full` measures all rows of Table 13 that this machine can.
    """
    if table.kind == "memory":
        frame = memory_table(full)
        text = plain_markdown(table, frame, command, f"{NOTES}\n\nAt commit {git_commit()[:12]}.")
    elif table.kind in PLAIN:
        frame = PLAIN[table.kind](table)
        text = plain_markdown(table, frame, command)
    else:
        frame, text = long_table(table, rows), markdown(table, rows, command)
    paths = [folder / f"{table.file}.csv", folder / f"{table.file}.md"]
    write_text(paths[0], frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_text(paths[1], text)
    figure = folder / f"{table.file}.png"
    if table.draw and draw(table.draw, figure, rows):
        paths.append(figure)
    return paths, frame

"""A table's results as CSV (one line a number), as Markdown (one line a row) and as a figure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from pdiff.config import parse_params
from pdiff.core.files import write_text
from pdiff.nets.registry import build_net
from pdiff.novelty.claims import bracket, shown
from pdiff.paper.definitions import DEFAULT, Table, label
from pdiff.paper.experiments import make_experiment
from pdiff.paper.figures import draw
from pdiff.paper.memory import NOTES, memory_table
from pdiff.paper.results import MEASURES, MISSES, Measured, difference, kind_of
from pdiff.parameters.subset import select_subset
from pdiff.tracking.files import flatten
from pdiff.tracking.process import git_commit

READING = (
    "Each cell: paper / authors' log / **ours** [95 % interval]; accuracies in %, - where there "
    "is no number. The interval is a bootstrap over test images and models, averaged over the "
    "seeds; for the score of another task it is Student's over seeds. ± is the standard deviation "
    "over seeds, left out where all seeds have the same number, as originals of one base net have. "
    "n: seeds x generated models. Generator: whether it meets the bars of the fit on average over "
    "the seeds; where it does not, nothing follows for the method."
)


def long_table(table: Table, rows: Sequence[Measured]) -> pd.DataFrame:
    """One line for each row and measure; accuracies and similarities are fractions."""
    lines = []
    for row in rows:
        authors = row.row.authors()
        provenance = {
            "seeds": len(row.found),
            "originals": row.count("original"),
            "generated": row.count("generated"),
            "status": row.status,
            **dict(zip(("generator", "missed"), row.fit, strict=True)),
            "commit": " ".join(dict.fromkeys(result.commit for result in row.found)),
            "lock": " ".join(result.lock for result in row.found),
            "command": "; ".join(e.shared_command for e in row.experiments),
        }
        for measure in table.measures:
            low, high = row.interval(measure)
            numbers = {
                "row": row.row.label,
                "measure": measure,
                "paper": row.row.paper.get(measure, math.nan),
                "authors_log": authors.get(measure, math.nan),
                "ours": row.value(measure),
                "low": low,
                "high": high,
                "seed_std": row.spread(measure),
            }
            lines.append(numbers | provenance)
    return pd.DataFrame(lines)


def markdown(table: Table, rows: Sequence[Measured], frame: pd.DataFrame, command: str) -> str:
    """The table for a reader, what the paper claims in it, and what failed or was not run.

    `frame` is the `long_table` of the rows.
    """
    cells, failed, unfitted = [], [], []
    for name, own in frame.groupby("row", sort=False):
        line = own.iloc[0]
        seeds, fit, missed = line[["seeds", "generator", "missed"]]
        count = f"{seeds} x {line['generated'] // seeds or '?'}" if seeds else "0"
        word = fit if fit == MISSES else f"{fit} {missed}".strip()
        cells.append([name, *map(_cell, own.itertuples()), word, count, line["commit"] or "-"])
        unfitted += [f"- {name}: {missed}"] if fit == MISSES else []
        failed += [f"- {name}: {line['status']}"] if line["status"].startswith("failed") else []
    heads = ["", *(MEASURES[m][0] for m in table.measures), "generator", "n", "commit"]
    if table.zoo:  # many measures and few rows
        heads, *cells = map(list, zip(heads, *cells, strict=True))
    lines = [READING, *([table.note.strip()] if table.note else []), "", *grid(heads, cells)]
    if table.claims:  # differences without a word: a table has one base net, a claim needs several
        by_label = {row.row.label: row for row in rows}
        known = [c for c in table.claims if {c[1][0], c[2][0]} <= by_label.keys()]
        found = [difference(*claim, by_label) for claim in known]
        cells = [[c.text, shown(c.estimate, c.kind), bracket(c.low, c.high, c.kind)] for c in found]
        heads = ["claim", "difference", "95 % interval"]
        lines += ["", "## The paper's claims in this table", "", *grid(heads, cells)]
    commands = [f"    {e.shared_command}" for row in rows for e in row.missing]
    lines += ["", "## Where the generator does not fit", "", *unfitted] if unfitted else []
    lines += ["", "## Failed", "", *failed] if failed else []
    lines += ["", "## Not run", "", *commands] if commands else []
    return _page(table, command, lines)


def _page(table: Table, command: str, lines: Iterable[str]) -> str:
    name = table.file.replace("_", " ").capitalize()
    return "\n".join([f"# {name}: {table.title}", "", f"`{command}`", "", *lines]) + "\n"


def _cell(line: Any) -> str:
    """Paper / authors' log / ours with its 95 % interval, from a line of `long_table`."""
    theirs = f"{_number(line.paper, line.measure, 1)} / {_number(line.authors_log, line.measure)}"
    if not line.seeds:
        return f"{theirs} / {line.status.partition(':')[0]}"
    numbers = (line.ours, line.seed_std, line.low, line.high)
    value, spread, *ends = (_number(number, line.measure) for number in numbers)
    ours = f"**{value}**" + (f" ± {spread}" if line.seed_std > 0 else "")
    return f"{theirs} / {ours}" + ("" if "-" in ends else f" [{', '.join(ends)}]")


def _number(value: float, measure: str, digits: int = 2) -> str:
    if math.isnan(value):
        return "-"
    kind = kind_of(measure)
    if kind == "similarity":
        return f"{value:.{digits + 1}f}"
    return f"{value:.2f}" if kind == "score" else f"{100 * value:.{digits}f}"


def grid(heads: Iterable[object], rows: Iterable[Iterable[object]]) -> list[str]:
    """The lines of a Markdown table."""
    heads = list(heads)
    lines = [heads, "-" * len(heads), *rows]
    return [f"| {' | '.join(map(str, cells))} |" for cells in lines]


def counts_table(table: Table) -> pd.DataFrame:
    """Table 6: numbers of generated parameters for ten classes, as in STL-10."""
    rows = []
    for name, paper in table.paper.items():
        composed = make_experiment((f"net={name}", "data=cifar10", "recipe=paper")).params
        params = parse_params(composed)
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


def write(
    table: Table, rows: Sequence[Measured], folder: Path, command: str, full: bool = False
) -> tuple[list[Path], pd.DataFrame]:
    """Write CSV, Markdown and figure; the files that there are, and the CSV's content.

    `full` measures all rows of Table 13 that this machine can.
    """
    if table.kind == "experiments":
        frame = long_table(table, rows)
        text = markdown(table, rows, frame, command)
    else:
        memory = table.kind == "memory"
        frame = memory_table(full) if memory else PLAIN[table.kind](table)
        lines = grid(frame.columns, frame.astype(object).where(frame.notna(), "-").to_numpy())
        lines += ["", NOTES, "", f"At commit {git_commit()[:12]}."] if memory else []
        text = _page(table, command, lines)
    metrics = [result.digest for row in rows for result in row.found]
    paths = write_pair(folder, table.file, frame, text, metrics)
    if table.draw:
        paths += draw(table.draw, folder / f"{table.file}.png", rows)
    return paths, frame


def write_pair(
    folder: Path, name: str, frame: pd.DataFrame, text: str, metrics: Iterable[str], **more: str
) -> list[Path]:
    """Write a CSV, the Markdown that shows it, and `more` texts by their suffix; their paths.

    The Markdown begins with the hashes of all of them, and of the `metrics` that they come from.
    """
    csv = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    beside = {f"{name}.{suffix}": content for suffix, content in {"csv": csv, **more}.items()}
    table, *others = beside
    paths = [folder / file for file in (table, f"{name}.md", *others)]
    for path in paths:
        write_text(path, beside.get(path.name) or signed(text, beside, metrics))
    return paths


def signed(text: str, beside: Mapping[str, str], metrics: Iterable[str] = ()) -> str:
    """A page behind a comment with its hash, those of files beside it, and those of metrics."""
    hashes = {name: sha256(t.encode()).hexdigest()[:16] for name, t in beside.items()}
    hashes["this page"] = sha256(text.encode()).hexdigest()[:16]
    hashes |= {"metrics": " ".join(dict.fromkeys(metrics))} if metrics else {}
    return f"<!-- sha256: {'; '.join(f'{n} {h}' for n, h in hashes.items())} -->\n{text}"

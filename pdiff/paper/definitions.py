"""The tables and figures of the paper, as `tables.yaml` and the authors' logs have them.

`tables.yaml` describes its keys. Accuracies there are percentages, here they are fractions as
everywhere else.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pdiff.system.errors import InputError

TABLES = Path(__file__).with_name("tables.yaml")
REFERENCE = Path(__file__).resolve().parents[1] / "reference"
DEFAULT = ("data=cifar100", "net=resnet18")
"""The paper's setting where a row names no other."""
LOGGED = {  # columns of the authors' logs, and our names
    "original_acc_max": "original_best",
    "original_acc_mean": "original_mean",
    "generated_acc_max": "generated_best",
    "generated_acc_mean": "generated_mean",
    "origin-generated(max)": "generated_similarity",
}
GENERAL = (  # the paper's claims in every table: text, larger measure, smaller measure
    ("generated best beats the originals' best", "generated_best", "original_best"),
    ("generated mean beats the originals' mean", "generated_mean", "original_mean"),
    ("generated best beats the ensemble", "generated_best", "ensemble"),
    ("generated mean beats the ensemble", "generated_mean", "ensemble"),
)


@dataclass(frozen=True)
class Row:
    """One experiment of a table, which several seeds may repeat."""

    label: str
    overrides: tuple[str, ...] = ()
    """The presets that tell it from the default experiment."""
    paper: Mapping[str, float] = field(default_factory=dict)
    log: str | None = None
    """The authors' log: their folder, or the overrides that `recipes.csv` gives it."""
    elsewhere: bool = False
    """Shown with its command, and run only if --rows or --net names it."""

    def preset(self, group: str) -> str:
        """Its preset of this group, such as `net`; "" where the row names none."""
        return next((o.partition("=")[2] for o in self.overrides if o.startswith(f"{group}=")), "")

    def on(self, data: str) -> "Row":
        """The same row with the images of another preset."""
        others = (o for o in self.overrides if not o.startswith("data="))
        return replace(self, overrides=(f"data={data}", *others))

    def authors(self) -> dict[str, float]:
        """The numbers of the authors' own log, in our names; empty where there is no log."""
        return _logs().get(self.log or "", {})


Difference = tuple[str, tuple[str, str], tuple[str, str]]
"""What the paper claims to be larger, and than what: text, (label, measure), (label, measure)."""


@dataclass(frozen=True)
class Table:
    """One entry of `tables.yaml`."""

    name: str
    """`3c`, or `figure_4`."""
    title: str
    measures: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    claims: tuple[Difference, ...] = ()
    own_cells: bool = False
    """Rows name their data set and net themselves (Tables 1, 2 and 7)."""
    kind: str = "experiments"
    """`experiments`, or a key of `pdiff.paper.render.PLAIN`, whose tables need none."""
    paper: Any = None
    """The paper's numbers in a table without experiments."""
    draw: str | None = None
    zoo: tuple[str, ...] = ()
    """Nets of which `--data` takes a zoo, in place of the paper's cells, which it shows beside."""
    note: str = ""
    """What a reader must know of the paper's numbers."""

    @property
    def file(self) -> str:
        return self.name if self.name.startswith("figure") else f"table_{self.name}"


def names() -> list[str]:
    """Every table and figure that can be made, in the paper's order."""
    return list(_read(TABLES)["tables"])


def table(name: str) -> Table:
    """A table by `3c`, a figure by `figure_4`; `InputError` with those there are."""
    name = name.lower().removeprefix("table_").replace("fig_", "figure_")
    if name not in names():
        raise InputError(f"unknown table {name!r}; there are {', '.join(names())}")
    entry = dict(_read(TABLES)["tables"][name])
    measures, default = entry.pop("measures", []), entry.pop("default", None)
    columns, cells = entry.pop("columns", measures), entry.pop("cells", {})
    rows = tuple(_cells(cells, columns) if cells else _rows(entry.pop("rows", {}), columns))
    away, recipe = entry.pop("elsewhere", []), entry.pop("recipe", None)
    rows = tuple(_placed(row, away, recipe) for row in rows)
    claims = [(text, (a, measure), (b, measure)) for text, a, b, measure in entry.pop("claims", [])]
    if rows and not cells:
        default = default or next((r.label for r in rows if not r.overrides), rows[-1].label)
        claims = [(text, (default, a), (default, b)) for text, a, b in GENERAL] + claims
    entry["zoo"] = tuple(entry.get("zoo", ()))
    entry |= {"measures": tuple(measures), "rows": rows, "claims": tuple(claims)}
    return Table(name, own_cells=bool(cells), **entry)


def label(group: str, preset: str) -> str:
    """What the paper calls a preset of the group `data` or `net`."""
    return _read(TABLES)["names"][group].get(preset, preset)


def _rows(rows: Mapping[str, Any], columns: list[str]) -> Iterator[Row]:
    for name, row in rows.items():
        overrides = (f"ablation={row['ablation']}",) if "ablation" in row else ()
        log = row.get("log") or " ".join(["recipe=paper", *DEFAULT, *overrides])
        yield Row(name, overrides, _fractions(columns, row.get("paper", [])), log)


def _cells(cells: Mapping[str, Mapping[str, Any]], columns: list[str]) -> Iterator[Row]:
    for outer, inner in cells.items():
        for other, paper in inner.items():
            by_data = outer in _read(TABLES)["names"]["data"]
            data, net = (outer, other) if by_data else (other, outer)
            overrides = (f"data={data}", f"net={net}")
            title = f"{label('data', data)}, {label('net', net)}"
            log = " ".join(["recipe=paper", *overrides])
            yield Row(title, overrides, _fractions(columns, paper), log)


def _placed(row: Row, elsewhere: Sequence[str], recipe: str | None) -> Row:
    """A row with its table's recipe, or the paper's where its net is `elsewhere`."""
    away = row.preset("net") in elsewhere
    recipe = "paper" if away else recipe
    own = (f"recipe={recipe}",) if recipe else ()
    return replace(row, overrides=(*row.overrides, *own), elsewhere=away)


def _fractions(columns: list[str], values: list[float]) -> dict[str, float]:
    pairs = zip(columns, values, strict=bool(values))
    as_printed = ("similarity", "score")
    return {n: value if any(map(n.__contains__, as_printed)) else value / 100 for n, value in pairs}


@cache
def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


@cache
def _logs() -> dict[str, dict[str, float]]:
    """The authors' logs, by their folder and by the overrides of our experiment."""
    logs = pd.read_csv(REFERENCE / "author_logs.csv", index_col="tag")
    logs = logs[list(LOGGED)].rename(columns=LOGGED)
    recipes = pd.read_csv(REFERENCE / "recipes.csv", usecols=["overrides", "tag"])
    ours = recipes.join(logs, on="tag", how="inner").set_index("overrides").drop(columns="tag")
    return {name: row.dropna().to_dict() for name, row in pd.concat([logs, ours]).iterrows()}

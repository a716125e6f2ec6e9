"""One comparison of experiments, in ten columns, for the terminal, for MLflow and as a note.

Differences are of mean accuracies, in percentage points, with 95 % intervals that describe one run:
its test images and its generated models. A verdict needs several pipelines (`pdiff.paper.verdict`).
Nothing here knows MLflow.
"""

import importlib.util
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdiff import outputs
from pdiff.config import GenerateConfig
from pdiff.diffusion.bars import conclusion, describe, missed_bars
from pdiff.tracking import files

if TYPE_CHECKING:
    import pandas

RIVALS = {"gen - orig": ("original", "original_mean"), "gen - ens": ("ensemble", "ensemble")}
"""Column, group in the audit's table, and name in the headline."""
MEASURES = {
    "max sim": "similarity.generated_max_mean",
    "within": "similarity.generated_within",
    "codec R2": "fit.r2",
}
"""Columns that MLflow keeps as metrics, so that it sorts by them, and names in the headline."""
TEXTS = ("changed", *RIVALS, "word", "latents", "time")
"""Columns that MLflow keeps as tags."""
COLUMNS = ("name", "changed", *RIVALS, "word", *MEASURES, "latents", "time")
WIDTH = 120
LEGEND = """
gen - orig, gen - ens: mean accuracy of the generated models less that of the originals, and less
their ensemble's, in points [95 % of this run]; word: of gen - orig, unfit if the generator misses a
bar; latents: least and most variance of generated latents in units of the originals'"""
NOTED = (
    *("generated", "original", "ensemble", "reconstructed", "fresh"),
    *("gaussian_full", "latent_gaussian"),
)
"""The groups that a run's note compares."""
NOTE_END = """
Differences in percentage points, 95 % intervals over this run's test images and
generated models. Whole report: Artifacts, `report/audit/report.html`."""
DIFFERENCE = [f"accuracy_difference{end}" for end in ("", "_low", "_high")]
"""Columns of the audit's table."""
MOST_MODELS = 20
"""How many of the best generated models, and of the Pareto front, MLflow lists."""
PLACES = {"watch", "root", "reader"}
"""Parameters that follow from others, or say where files lie."""


# What changed, and what an experiment is called


def changed(params: Mapping[str, str], reference: Mapping[str, str]) -> str:
    """The flat parameters that differ from a reference: `noise.latent=0.01, seed.model=1`.

    A section with another data set or net is named by that; its other parameters follow from it.
    """
    differing = {n: v for n, v in params.items() if reference and reference.get(n) != v}
    heads = {n.partition(".")[0] for n in differing if n.endswith((".name", ".net"))}
    shown = [
        f"{name}={value}"
        for name, value in differing.items()
        if name.endswith((".name", ".net"))
        or not (name.partition(".")[0] in heads or name.rpartition(".")[2] in PLACES)
    ]
    return ", ".join(shown)


def title(key: str, params: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    """The name of an experiment: its own if the user gave it, else what it changed."""
    if not baseline or not (key == files.key_of(params) or _is_of_dvc(key)):
        return key
    flat = (files.flat_params(values) for values in (params, baseline))
    parts = changed(*flat).split(", ")
    more = f" +{len(parts) - 3}" if len(parts) > 3 else ""
    return ", ".join(parts[:3]) + more or "default"


def _is_of_dvc(name: str) -> bool:
    """Whether DVC drew the name, such as glued-coof, from its lists of words."""
    words = name.split("-")
    return len(words) == 2 and all(f"'{word}'" in _words_of_dvc() for word in words)


@cache
def _words_of_dvc() -> str:
    """The file that holds the lists, which takes seconds to import; "" without DVC."""
    spec = importlib.util.find_spec("dvc")
    folder = Path(next(iter(spec.submodule_search_locations))) if spec else Path()
    path = folder / "repo" / "experiments" / "utils.py"
    return path.read_text() if path.is_file() else ""


# One experiment


def points(estimate: float, low: float = math.nan, high: float = math.nan) -> str:
    """`-0.02 [-0.19, +0.12]`: a difference of accuracies in percentage points; "" for NaN."""
    if math.isnan(estimate):
        return ""
    bounds = "" if math.isnan(low) else f" [{100 * low:+.2f}, {100 * high:+.2f}]"
    return f"{100 * estimate:+.2f}{bounds}"


def measures(headline: Mapping[str, float]) -> dict[str, float]:
    """The columns that are numbers."""
    return {c: float(f"{headline[n]:.3f}") for c, n in MEASURES.items() if n in headline}


def texts(tree: files.Folder) -> dict[str, str]:
    """The columns that are words, but for `changed` and `time`, from an experiment's files."""
    groups, values = _groups(tree), files.headline(tree)
    own, differences = values.get("accuracy.generated_mean", math.nan), {}
    for column, (group, name) in RIVALS.items():
        estimate = own - values.get(f"accuracy.{name}", math.nan)
        known = group in groups.index and DIFFERENCE[0] in groups
        found = groups.loc[group, DIFFERENCE] if known else (estimate, math.nan, math.nan)
        differences[column] = [*found]
    found = {column: points(*numbers) for column, numbers in differences.items()}
    if fit := _fit(tree):
        numbers, bars, margin = fit
        found["word"] = "unfit" if bars else _word(*differences["gen - orig"][1:], margin)
        least, most = (numbers[f"variance_{end}"] or math.nan for end in ("least", "most"))
        found["latents"] = f"{least:.2f}-{most:.2f}"
    return {column: text for column, text in found.items() if text}


def _word(low: float, high: float, margin: float) -> str:
    """How the generated models' mean accuracy compares with the originals', in this run alone."""
    if low > 0 or high < 0:
        return "better" if low > 0 else "worse"
    return "equal" if -margin < low and high < margin else "unknown"


def _fit(tree: files.Folder) -> tuple[dict[str, Any], list[str], float] | None:
    """Fit and similarities, the bars that are missed by the experiment's own parameters, and the
    margin of equal accuracies; None where an earlier version of the code ran."""
    metrics = files.read_json(tree, str(outputs.NOVELTY_METRICS))
    params = files.canonical(files.read_yaml(tree, "params.yaml"))
    try:
        config = GenerateConfig.model_construct(**params["generate"])
        bars = missed_bars(metrics["fit"], config, float(params["autoencoder"]["min_r2"]))
        margin = float(params["novelty"]["margin_accuracy"])
    except (AttributeError, KeyError):
        return None
    return {**metrics["similarity"], **metrics["fit"]}, bars, margin


def _groups(tree: files.Folder) -> "pandas.DataFrame":
    """The audit's table of groups; empty if there was no audit."""
    table = files.read_table(tree, str(outputs.AUDIT / "groups.csv"))
    return table.set_index(table.columns[0])


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3.4 h`; "" for nothing."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds else ""
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def note(tree: files.Folder) -> str:
    """The verdict on one run in Markdown: whether it learned, and its groups in a table."""
    groups, lines = _groups(tree), []
    if fit := _fit(tree):
        lines = [f"**{conclusion(fit[1])}** {describe(fit[0], {})}", ""]
    if DIFFERENCE[0] not in groups:
        return "\n".join(lines)
    lines += ["| group | models | accuracy, % | generated less these | max similarity | within |"]
    lines += ["| - | -: | -: | - | -: | -: |"]
    for group in (name for name in NOTED if name in groups.index):
        row = groups.loc[group]
        less = points(*row[DIFFERENCE])
        similar = [row["max_similarity"], row["similarity_within"]]
        cells = [f"{row['models']:.0f}", f"{100 * row['accuracy']:.2f}", less or "-"]
        cells += ["-" if math.isnan(value) else f"{value:.3f}" for value in similar]
        lines.append(f"| {' | '.join([group, *cells])} |")
    return "\n".join([*lines, NOTE_END])


def best_models(tree: files.Folder) -> "pandas.DataFrame":
    """The Pareto front of all models and the best generated ones, by group and index.

    Columns: group, model, accuracy, max_similarity, on_front. Up to `MOST_MODELS` of each; empty
    where the table of models is not on this machine. Models that are equal count once.
    """
    table = files.read_table(tree, str(outputs.MODELS))
    if not {"group", "model", "accuracy", "max_similarity"} <= {*table.columns}:
        return table.iloc[:0]
    known = table.dropna(subset=["accuracy", "max_similarity"])
    ranked = known.sort_values(["max_similarity", "accuracy"], ascending=[True, False])
    before = ranked["accuracy"].cummax().shift(fill_value=-math.inf)
    front = ranked[ranked["accuracy"] > before].tail(MOST_MODELS)
    best = known.sort_values(["accuracy", "max_similarity"], ascending=[False, True], kind="stable")
    best = best[best["group"] == "generated"].head(MOST_MODELS)
    rows = known.loc[front.index.union(best.index)]
    return rows.assign(on_front=rows.index.isin(front.index))


# All of them


def rows(runs: Iterable[Any]) -> list[dict[str, str]]:
    """One row a run of MLflow."""
    found = []
    for run in runs:
        tags, numbers = run.data.tags, run.data.metrics
        row = {"name": run.info.run_name, **{column: tags.get(column, "") for column in TEXTS}}
        if run.info.status != "FINISHED":
            row["word"] = run.info.status.lower()
        row |= {c: f"{numbers[c]:.3f}" if c in numbers else "" for c in MEASURES}
        found.append(row)
    return found


def as_text(table: Sequence[Mapping[str, str]], width: int = WIDTH) -> str:
    """The table for a terminal: names and changes are wrapped, so that a line fits `width`."""
    wide = {c: max(len(c), *(len(row[c]) for row in table), 0) for c in COLUMNS}
    left = width - sum(wide[c] + 1 for c in COLUMNS[2:]) - 1
    wide["name"] = min(wide["name"], max(left // 2, left - wide["changed"]))
    wide["changed"] = min(wide["changed"], left - wide["name"])
    lines = []
    for row in [dict(zip(COLUMNS, COLUMNS, strict=True)), *table]:
        cells = {c: textwrap.wrap(row[c], wide[c]) or [""] for c in COLUMNS}
        for i in range(max(map(len, cells.values()))):
            parts = [(cells[c][i] if i < len(cells[c]) else "").ljust(wide[c]) for c in COLUMNS]
            lines.append(" ".join(parts).rstrip())
    return "\n".join(lines)


def as_markdown(table: Sequence[Mapping[str, str]]) -> str:
    """The table in Markdown."""
    body = [COLUMNS, ["-"] * len(COLUMNS), *([row[c] for c in COLUMNS] for row in table)]
    return "\n".join(f"| {' | '.join(row)} |" for row in body)

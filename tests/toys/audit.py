"""A small audit on made-up data: what the stage hands to figures and report, end to end."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pdiff.audit.codec_rank import plot_codec_rank, rank_table
from pdiff.audit.distance_figures import plot_copying, plot_distances, plot_performant
from pdiff.audit.figures import plot_pareto, plot_similarities, plot_similarity_matrix
from pdiff.audit.html import Claim
from pdiff.audit.parameters import plot_heat_map, plot_values
from pdiff.audit.projection import plot_projection, project
from pdiff.audit.report import audit_report
from pdiff.audit.similarity import front_table, similarity_matrix
from pdiff.novelty.iou import max_similarity, max_similarity_among
from pdiff.novelty.summary import save_table

SIZES = {
    "original": 12,
    "ensemble": 1,
    "generated": 8,
    "held_back": 5,
    "second_run": 6,
    "soup_2": 5,
    "soup_8": 5,
    "gaussian_diagonal": 6,
    "noised_0.05": 5,
    "noised_0.5": 5,
    "noised_2": 5,
    "projected_2": 5,
}


def toy_matrices(length: int = 24) -> dict[str, Tensor]:
    """Parameters (M, D) of each group."""
    generator = torch.Generator().manual_seed(0)
    return {g: torch.randn(n, length, generator=generator) for g, n in SIZES.items()}


def toy_wrong(images: int = 200) -> dict[str, Tensor]:
    """Wrong predictions (M, N) of each group; strong noise fails."""
    generator = torch.Generator().manual_seed(1)
    rates = {group: 0.9 if group == "noised_2" else 0.1 for group in SIZES}
    return {
        group: torch.rand(count, images, generator=generator) < rates[group]
        for group, count in SIZES.items()
    }


def toy_models(wrong: dict[str, Tensor]) -> pd.DataFrame:
    """One row per model: group, model, accuracy, max_similarity."""
    tables = []
    for group, errors in wrong.items():
        own = group == "original"
        similar = max_similarity_among(errors) if own else max_similarity(errors, wrong["original"])
        columns = {"group": group, "model": range(len(errors))}
        columns |= {"accuracy": 1 - errors.double().mean(1), "max_similarity": similar}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def toy_distances() -> pd.DataFrame:
    """One row per model, with the columns of the distance table that figures use."""
    random = np.random.default_rng(0)
    models = [(group, i) for group, count in SIZES.items() for i in range(count)]
    table = pd.DataFrame(models, columns=["group", "model"])
    for name in ("nearest", "nearest_held_back", "nearest_second_run", "interpolation_index"):
        table[name] = random.uniform(0.5, 2, len(table))
    return table


def toy_copying() -> pd.DataFrame:
    random = np.random.default_rng(1)
    table = pd.DataFrame({"group": list(SIZES)})
    for name in ("z_held_back", "z_second_run"):
        table[name] = random.normal(-3, 5, len(table))
    return table.assign(rank_median=2.0, rank_first=random.uniform(0, 1, len(table)))


def toy_performant() -> pd.DataFrame:
    rows = [
        {"group": group, "c": c, "models": count, "novel_performant": 1 / (c + i % 3)}
        for i, (group, count) in enumerate(SIZES.items())
        for c in (1, 2, 3, 4, 6)
    ]
    share = pd.DataFrame(rows)
    low, high = 0.8 * share["novel_performant"], 0.9 * share["novel_performant"] + 0.1
    return share.assign(novel_performant_low=low, novel_performant_high=high)


def figures() -> Iterator[tuple[str, object]]:
    """Each figure's name and a function that draws it at a path; `boundaries` needs a net."""
    wrong, matrices = toy_wrong(), toy_matrices()
    models, points = toy_models(wrong), project(matrices, 60, seed=0)
    some = {g: matrices[g] for g in ("original", "generated", "gaussian_diagonal", "second_run")}
    yield "pareto", lambda path: plot_pareto(path, models, "test")
    ranks = rank_table(models, wrong, matrices)
    yield "codec", lambda path: plot_codec_rank(path, ranks, "test")
    yield "similarity", lambda path: plot_similarities(path, models)
    yield "similarity_matrix", lambda p: plot_similarity_matrix(p, similarity_matrix(wrong))
    yield "distances", lambda path: plot_distances(path, toy_distances())
    yield "copying", lambda path: plot_copying(path, toy_copying())
    yield "performant", lambda path: plot_performant(path, toy_performant())
    yield (
        "heat_map",
        lambda path: plot_heat_map(
            path, matrices["generated"], matrices["original"], slice(4, 20), models=3
        ),
    )
    yield "values", lambda path: plot_values(path, some, parameters=9)
    yield "projection", lambda path: plot_projection(path, *points)


def toy_audit(folder: Path) -> Path:
    """All files of an audit but the boundaries, and the report; the path of the report."""
    for name, draw in figures():
        draw(folder / f"{name}.png")
    wrong = toy_wrong()
    models = toy_models(wrong)
    summary = models.groupby("group", sort=False)["accuracy"].agg(["size", "mean"])
    tables = {
        "groups": summary.set_axis(["models", "accuracy_mean"], axis=1).reset_index(),
        "front": front_table(models),
        "codec": rank_table(models, wrong, toy_matrices()),
        "similarity_matrix": similarity_matrix(wrong),
        "copying": toy_copying(),
        "performant": toy_performant(),
    }
    for name, table in tables.items():
        save_table(folder / f"{name}.csv", table)
    return toy_report(folder)


def toy_report(folder: Path) -> Path:
    """The report of the files that `toy_audit` wrote."""
    groups = pd.read_csv(folder / "groups.csv")
    audit_report(
        folder,
        lead="8 generated models against 12 originals on 200 test images.",
        facts={"data": "made up", "commit": "0" * 40},
        headline=groups[groups["group"].isin(("original", "ensemble", "generated"))],
        claims=[Claim("More <accurate> & novel.", "cannot tell", "0.10 points, -0.20 to 0.40")],
    )
    return folder / "report.html"

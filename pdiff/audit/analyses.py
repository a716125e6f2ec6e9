"""The audit of one experiment: is what was generated new, and does any simple rival do as well?

It writes tables and figures into one folder, and `report.html`, which holds them all.

Axes: M models of a group, D parameters, N images of the reporting split, V of the choosing split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Bool, Float
from torch import Tensor

from pdiff.audit.boundaries import Boundaries, plot_boundaries
from pdiff.audit.codec_rank import plot_codec_rank, rank_table
from pdiff.audit.copying import copying_table
from pdiff.audit.distance_figures import plot_copying, plot_distances, plot_performant
from pdiff.audit.distances import distance_summary, distance_table
from pdiff.audit.figures import plot_pareto, plot_similarities, plot_similarity_matrix
from pdiff.audit.parameters import plot_heat_map, plot_values
from pdiff.audit.projection import plot_projection, project
from pdiff.audit.report import audit_report
from pdiff.audit.similarity import front_table, similarity_matrix
from pdiff.baselines.registry import FAMILIES, family, ordered
from pdiff.config import NoveltyConfig
from pdiff.core.runtime import derive_seed
from pdiff.diffusion.bars import conclusion, describe
from pdiff.novelty.bootstrap import accuracy_column, interval, similarity_column
from pdiff.novelty.claims import claims
from pdiff.novelty.comparisons import comparisons, estimates, ladder_similarity
from pdiff.novelty.inference import centred
from pdiff.novelty.performant import performant_table
from pdiff.novelty.summary import save_table

COMPARED = ("original", "generated", "gaussian_diagonal", "second_run")
"""Groups whose values are drawn on top of each other."""
SHOWN_MODELS, SHOWN_PARAMETERS, HISTOGRAMS, PROJECTED = 10, 128, 9, 60


@dataclass(frozen=True)
class Evidence:
    """All groups of models of one experiment."""

    wrong: Mapping[str, Bool[Tensor, "_ N"]]
    wrong_choosing: Mapping[str, Bool[Tensor, "_ V"]]
    matrices: Mapping[str, Float[Tensor, "_ D"]]
    models: pd.DataFrame
    """One row a model, as `report.model_table` gives it."""
    bootstrap: pd.DataFrame
    """One row a replicate."""


def write_audit(
    folder: Path,
    evidence: Evidence,
    maps: Boundaries,
    classes: Sequence[str],
    metrics: Mapping[str, Any],
    facts: Mapping[str, str],
    config: NoveltyConfig,
    missed: Sequence[str],
    seed: int,
) -> dict[str, float | None]:
    """All analyses, and the report of them; the numbers that experiments are compared by.

    `metrics` are those of `pdiff.novelty.summary.headline` with the `fit`, and `missed` its missed
    bars (`pdiff.diffusion.bars`); `facts` say what was run.
    """
    seed = derive_seed(seed, "audit") % 2**32  # scikit-learn takes no larger one
    groups = write_similarity(folder, evidence, config.split)
    write_codec(folder, evidence, config.split)
    compared, ladders = write_comparisons(folder, evidence)
    lying = write_distances(folder, evidence, config.bootstrap, seed)
    write_parameters(folder, evidence, seed)
    save_table(folder / "boundaries.csv", maps.table)
    plot_boundaries(folder / "boundaries.png", maps, classes)
    shown = [kind for kind, entry in FAMILIES.items() if entry.paper and not entry.levels]
    audit_report(
        folder,
        lead=lead(metrics, missed),
        facts=facts,
        headline=groups[groups["group"].map(family).isin(shown)],
        claims=claims(compared, ladders, fits=not missed),
    )
    return audit_metrics(compared, ladders, lying)


def audit_metrics(
    compared: pd.DataFrame, ladders: pd.DataFrame, lying: Mapping[str, pd.DataFrame]
) -> dict[str, float | None]:
    """What the generated models are, in a few numbers."""
    own = {name: table.set_index("group").loc["generated"] for name, table in lying.items()}
    novel = own["performant"].set_index("c")["novel_performant"]
    found = {
        "interpolation_index": own["distances"]["interpolation_mean"],
        "outside_span": own["distances"]["outside_span_mean"],
        "nearest_relative": own["distances"]["nearest_relative"],
        "z_second_run": own["copying"]["z_second_run"],
        "z_held_back": own["copying"]["z_held_back"],
        "rank_first": own["copying"]["rank_first"],
        **{f"novel_performant_{c}": share for c, share in novel.items()},
    }
    rows = compared.set_index("group")
    for group in ("gaussian_full", "latent_gaussian"):
        for name in ("accuracy", "novelty"):
            found[f"{name}_over_{group}"] = rows.loc[group, f"{name}_difference"]
    for ladder, value in ladders.set_index("ladder")["difference"].items():
        found[f"novelty_over_{ladder}"] = value
    return {name: None if pd.isna(value) else float(value) for name, value in found.items()}


def lead(metrics: Mapping[str, Any], missed: Sequence[str]) -> str:
    """Whether the generator learned, before anything is said of what it wins."""
    return f"{describe(metrics['fit'], metrics['similarity'])} {conclusion(missed)}"


def write_similarity(folder: Path, evidence: Evidence, split: str) -> pd.DataFrame:
    """What the groups err in: accuracy against similarity, and who is like whom."""
    similar = similarity_matrix(evidence.wrong)
    groups = group_table(evidence, similar)
    save_table(folder / "groups.csv", groups)
    save_table(folder / "front.csv", front_table(evidence.models))
    save_table(folder / "similarity_matrix.csv", similar)
    plot_pareto(folder / "pareto.png", evidence.models, split)
    plot_similarities(folder / "similarity.png", evidence.models)
    plot_similarity_matrix(folder / "similarity_matrix.png", similar)
    return groups


def group_table(evidence: Evidence, similar: pd.DataFrame) -> pd.DataFrame:
    """One row a group: mean accuracy and similarity with 95 % intervals, mean IoU within."""
    point, rows = estimates(evidence.models), []
    counts = evidence.models["group"].value_counts()
    within = similar.set_index("group")
    for group in ordered(counts.index):
        row: dict[str, object] = {"group": group, "models": counts[group]}
        for name, column in (("accuracy", accuracy_column), ("max_similarity", similarity_column)):
            draws = evidence.bootstrap[column(group)].to_numpy()[None]
            low, high = interval(centred(point[[column(group)]].to_numpy(), draws)[0])
            row |= {name: point[column(group)], f"{name}_low": low, f"{name}_high": high}
        rows.append(row | {"similarity_within": within.loc[group, group]})
    return pd.DataFrame(rows)


def write_codec(folder: Path, evidence: Evidence, split: str) -> None:
    """Where the codec and the generator stand among exact codecs of each rank."""
    table = rank_table(evidence.models, evidence.wrong, evidence.matrices)
    save_table(folder / "codec.csv", table)
    plot_codec_rank(folder / "codec.png", table, split)


def write_comparisons(folder: Path, evidence: Evidence) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The generated models against each rival, and against ladders at equal accuracy."""
    table = comparisons(
        evidence.models, evidence.bootstrap, evidence.wrong, evidence.wrong_choosing
    )
    ladders = ladder_similarity(evidence.models, evidence.bootstrap)
    save_table(folder / "comparisons.csv", table)
    save_table(folder / "equal_accuracy.csv", ladders)
    return table, ladders


def write_distances(
    folder: Path, evidence: Evidence, replicates: int, seed: int
) -> dict[str, pd.DataFrame]:
    """Where the groups lie: distances, the data-copying test, novel and performant models."""
    models = distance_table(evidence.matrices)
    tables = {
        "distances": distance_summary(models, replicates, seed),
        "copying": copying_table(evidence.matrices, models, replicates, seed),
        "performant": performant_table(models, evidence.models),
    }
    for name, table in tables.items():
        save_table(folder / f"{name}.csv", table)
    plot_distances(folder / "distances.png", models)
    plot_copying(folder / "copying.png", tables["copying"])
    plot_performant(folder / "performant.png", tables["performant"])
    return tables


def write_parameters(folder: Path, evidence: Evidence, seed: int) -> None:
    """What the parameters look like."""
    matrices = evidence.matrices
    generated, originals = matrices["generated"], matrices["original"]
    plot_heat_map(
        folder / "heat_map.png", generated, originals, slice(0, SHOWN_PARAMETERS), SHOWN_MODELS
    )
    shown = {group: matrices[group] for group in COMPARED if group in matrices}
    plot_values(folder / "values.png", shown, HISTOGRAMS)
    plot_projection(folder / "projection.png", *project(matrices, PROJECTED, seed))

"""The generated models against each rival: accuracy, novelty, and novelty at equal accuracy.

Differences are paired on the test images, replicate by replicate, and their replicates centred at
the estimate (`statistics.centred`).
Axes: R bootstrap replicates, M models of a group, N test images, V images of the split that
chooses, L levels of a ladder.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor

from pdiff.baselines.registry import family, ordered
from pdiff.novelty.bootstrap import accuracy_column, interval, preference, similarity_column
from pdiff.novelty.inference import bootstrap_p, centred, crossing, holm, holm_levels, mcnemar

LADDERS = ("noised", "absolute", "soup")
"""Families whose levels trade accuracy for novelty."""
ALPHA = 0.05


def estimates(models: pd.DataFrame) -> pd.Series:
    """What each mean column of the bootstrap is on the test set itself, under the same names."""
    means = models.groupby("group", sort=False)[["accuracy", "max_similarity"]].mean()
    found = {accuracy_column(str(group)): value for group, value in means["accuracy"].items()}
    similar = {similarity_column(str(g)): value for g, value in means["max_similarity"].items()}
    return pd.Series(found | similar)


def comparisons(
    models: pd.DataFrame,
    bootstrap: pd.DataFrame,
    wrong: Mapping[str, Bool[Tensor, "_ N"]],
    wrong_choosing: Mapping[str, Bool[Tensor, "_ V"]],
) -> pd.DataFrame:
    """One row a rival group; every difference is positive where the generated models win.

    `accuracy_*` compare mean accuracies, `novelty_*` mean maximum similarities (the rival's less
    the generated models'), `chosen_*` the two models that the choosing split likes best, by
    McNemar's exact test. `*_holm` is the p-value adjusted for all rivals in that column, and
    `*_low` and `*_high` the interval at the level that Holm's procedure gives this rival, of which
    `*_detectable` is half the width: smaller differences could not have been seen. `*_word` is
    "holds" or "does not hold" if the adjusted p-value is at most 0.05, else "cannot tell". With
    fewer than 20 replicates a rival, no difference is large enough to hold.
    """
    rivals = [group for group in ordered(wrong) if group != "generated"]
    parts = [pd.DataFrame({"group": rivals, "models": [len(wrong[group]) for group in rivals]})]
    point = estimates(models)
    for name, column in (("accuracy", accuracy_column), ("novelty", similarity_column)):
        sign = 1 if name == "accuracy" else -1
        theirs = [column(group) for group in rivals]
        differences = sign * (point[column("generated")] - point[theirs])
        draws = -sign * bootstrap[theirs].sub(bootstrap[column("generated")], axis=0)
        parts.append(_judged(name, differences.to_numpy(), draws.to_numpy().T))
    return pd.concat([*parts, _chosen(rivals, wrong, wrong_choosing)], axis=1)


def _judged(
    name: str, differences: Float[np.ndarray, " C"], replicates: Float[np.ndarray, "C R"]
) -> pd.DataFrame:
    """Columns of one question, a row a rival."""
    replicates = centred(differences, replicates)
    p_values = np.array([bootstrap_p(row) for row in replicates])
    levels = holm_levels(p_values, 1 - ALPHA)
    ends = [interval(row, level) for row, level in zip(replicates, levels, strict=True)]
    low, high = np.array(ends).reshape(-1, 2).T
    return _named(
        name,
        difference=differences,
        low=low,
        high=high,
        detectable=(high - low) / 2,
        p=p_values,
        holm=holm(p_values),
        word=words(holm(p_values), low + high),
    )


def _chosen(
    rivals: Sequence[str],
    wrong: Mapping[str, Bool[Tensor, "_ N"]],
    wrong_choosing: Mapping[str, Bool[Tensor, "_ V"]],
) -> pd.DataFrame:
    best = {g: errors[preference(wrong_choosing[g]).argmin()] for g, errors in wrong.items()}
    own = best["generated"]
    p_values = np.array([mcnemar(own, best[group]) for group in rivals])
    errors = [(best[group].double().mean() - own.double().mean()).item() for group in rivals]
    adjusted = holm(p_values)
    word = words(adjusted, np.array(errors))
    return _named("chosen", difference=errors, p=p_values, holm=adjusted, word=word)


def _named(name: str, **columns: ArrayLike) -> pd.DataFrame:
    return pd.DataFrame({f"{name}_{key}": values for key, values in columns.items()})


def words(adjusted: Float[np.ndarray, " C"], side: Float[np.ndarray, " C"]) -> list[str]:
    """What may be said of claims, given adjusted p-values and on which side of 0 they are."""
    seen = adjusted <= ALPHA
    cases = [seen & (side > 0), seen & (side < 0)]
    return np.select(cases, ["holds", "does not hold"], "cannot tell").tolist()


def ladder_similarity(models: pd.DataFrame, bootstrap: pd.DataFrame) -> pd.DataFrame:
    """One row a ladder: its similarity where it is as accurate as the generated models on average.

    `similarity` is interpolated along the ladder (`statistics.crossing`), NaN where it nowhere has
    that accuracy; `low` and `high` are its 95 % interval over the replicates that have it, and
    `no_overlap` is the share of those that do not. `difference` is that similarity less the
    generated models': positive where they are the more novel at equal accuracy. In `p` a replicate
    without overlap counts for both sides. Ladders without a group have no row.
    """
    point = estimates(models).to_frame().T
    kinds = [kind for kind in LADDERS if _rungs(kind, bootstrap)]
    return pd.DataFrame([_ladder(kind, point, bootstrap) for kind in kinds])


def _ladder(kind: str, point: pd.DataFrame, bootstrap: pd.DataFrame) -> dict[str, object]:
    own = similarity_column("generated")
    at, draws = (at_equal_accuracy(kind, frame) for frame in (point, bootstrap))
    difference, more = at - point[own].to_numpy(), draws - bootstrap[own].to_numpy()
    similar, more = centred(np.concatenate([at, difference]), np.stack([draws, more]))
    overlap = ~np.isnan(draws)
    (low, high), (less, most) = interval(similar[overlap]), interval(more[overlap])
    return {
        "ladder": kind,
        "levels": len(_rungs(kind, bootstrap)),
        "accuracy": point[accuracy_column("generated")].item(),
        "similarity": at.item(),
        "low": low,
        "high": high,
        "no_overlap": 1 - overlap.mean(),
        "generated_similarity": point[own].item(),
        "difference": difference.item(),
        "difference_low": less,
        "difference_high": most,
        "p": bootstrap_p(more),
    }


def at_equal_accuracy(kind: str, bootstrap: pd.DataFrame) -> Float[np.ndarray, " R"]:
    """Similarity of a ladder at the generated models' mean accuracy, in each replicate."""
    rungs = _rungs(kind, bootstrap)
    return crossing(
        bootstrap[[accuracy_column(group) for group in rungs]].to_numpy(),
        bootstrap[[similarity_column(group) for group in rungs]].to_numpy(),
        bootstrap[accuracy_column("generated")].to_numpy(),
    )


def _rungs(kind: str, bootstrap: pd.DataFrame) -> list[str]:
    """Groups of one family, by rising level."""
    start, end = f"{kind}_", similarity_column("")
    names = [column.removesuffix(end) for column in bootstrap if column.endswith(end)]
    return ordered(n for n in names if n.startswith(start) and family(n) == kind)

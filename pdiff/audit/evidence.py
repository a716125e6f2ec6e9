"""What the audit looks at: every model that was evaluated, its parameters and its errors.

Axes: M models of a group, N test images, D parameters, K originals, L latent length.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int16, Int64
from torch import Tensor

from pdiff.baselines.originals import from_originals, matrix, soup_of
from pdiff.baselines.registry import draw_groups, ordered
from pdiff.config import BaselinesConfig, SeedConfig
from pdiff.evaluation.predict import wrong
from pdiff.novelty.bootstrap import Replicates
from pdiff.parameters.subset import Columns, Rows, spread_evenly

Matrices = Mapping[str, Float[Tensor, "_ D"]]
"""{group: parameters (M, D)}; M differs from group to group, and may be 0."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """All groups of models of one run."""

    predictions: Mapping[str, Int16[Tensor, "_ N"]]
    labels: Int64[Tensor, " N"]
    matrices: Matrices
    models: pd.DataFrame
    """One row a model, as `pdiff.novelty.summary.model_table` gives it."""
    replicates: Mapping[str, Replicates]
    near: Bool[Tensor, "K K"]
    """Which originals are the same or neighbours in one run, as `neighbours` gives it."""
    split: str
    """The split that is reported."""

    @cached_property
    def wrong(self) -> dict[str, Bool[Tensor, "_ N"]]:
        """True where a model errs."""
        return {group: wrong(rows, self.labels) for group, rows in self.predictions.items()}


def finite_rows(models: Float[Tensor, "_ D"], most: int) -> Int64[Tensor, " M"]:
    """Indices of up to `most` models without a NaN or an infinity, spread evenly over them."""
    usable = models.isfinite().all(1).nonzero().flatten()
    return usable[spread_evenly(len(usable), most)]


def all_matrices(
    given: Mapping[str, Rows],
    soup: Sequence[int],
    decode: Callable[[Tensor], Columns],
    latents: Float[Tensor, "K L"],
    config: BaselinesConfig,
    seed: SeedConfig,
    kind: str,
) -> dict[str, Float[Tensor, "_ D"]]:
    """The parameters of every model that was evaluated, in the order of tables.

    `given` holds the groups that lie on disk: original, generated and the unseen checkpoints, of
    which an empty one is left out; `soup` the members of the greedy soup; `kind` is the
    autoencoder's. All other models are drawn again, by the seeds with which they were evaluated.
    """
    originals = given["original"]
    groups = from_originals(originals, config, seed.base, audit=True)
    groups |= {group: rows for group, rows in given.items() if len(rows)}
    groups["soup_greedy"] = soup_of(originals, soup)
    found = {group: matrix(models) for group, models in groups.items()}
    coded = draw_groups(latents, config, seed.model, audit=True, kind=kind)
    for group, own in coded.items():
        found[group] = torch.cat([block for _, block in decode(own)], 1).cpu()
    return {group: found[group] for group in ordered(found)}

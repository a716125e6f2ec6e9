"""Hand-made evidence: what the stage hands to the audit, without a pipeline."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pdiff.audit.evidence import Evidence
from pdiff.evaluation.predictions import save_picture
from pdiff.novelty.bootstrap import bootstrap
from pdiff.novelty.summary import model_table

SIZES = {
    "original": 12,
    "ensemble": 1,
    "generated": 8,
    "reconstructed": 4,
    "held_back": 5,
    "fresh": 6,
    "soup_2": 5,
    "soup_8": 5,
    "projected_2": 5,
    "gaussian_diagonal": 6,
    "gaussian_full": 5,
    "noised_0.05": 5,
    "noised_0.5": 5,
    "noised_2": 5,
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
    """One row per model, where the split that chooses is the one that is reported."""
    return model_table(wrong, wrong)


def toy_summary(folder: Path) -> tuple[pd.DataFrame, Path]:
    """A table of groups without scores, and a picture of test images in `folder`."""
    path = folder / "examples.png"
    save_picture(path, torch.zeros(3, 4, 4, dtype=torch.uint8), "4 by 4 pixels.")
    return pd.DataFrame({"group": ["original"]}), path


def toy_evidence(
    matrices: dict[str, Tensor] | None = None, wrong: dict[str, Tensor] | None = None
) -> Evidence:
    """Evidence of the groups that both have."""
    matrices, wrong = matrices or toy_matrices(), wrong or toy_wrong()
    wrong = {group: errors for group, errors in wrong.items() if group in matrices}
    matrices = {group: matrices[group] for group in wrong}
    replicates = bootstrap(wrong, 20, 0)
    return made_of(wrong, matrices, toy_models(wrong), replicates)


def made_of(wrong: dict[str, Tensor], matrices: dict[str, Tensor], *tables: Any) -> Evidence:
    """Evidence of two classes, of which 0 is right; no original has a neighbour."""
    images, count = next(iter(wrong.values())).shape[1], len(wrong["original"])
    predictions = {group: errors.short() for group, errors in wrong.items()}
    labels, near = torch.zeros(images, dtype=torch.long), torch.eye(count, dtype=torch.bool)
    return Evidence(predictions, labels, matrices, *tables, near, "test")

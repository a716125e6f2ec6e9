"""What finished experiments leave behind, by hand, with differences that are known."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from pdiff.novelty.bootstrap import Replicates, save_replicates
from pdiff.paper.experiments import Result, code_hashes
from pdiff.paper.runs import Run, Seed
from pdiff.tracking.files import Folder
from tests.conftest import ROOT, change

REPLICATES = 400
GROUPS = {  # (test accuracy, maximum similarity, validation accuracy): every claim is true
    "original": (0.90, 0.95, 0.90),
    "ensemble": (0.91, 0.94, 0.905),
    "generated": (0.92, 0.88, 0.92),
    "soup_2": (0.905, 0.95, 0.90),
    "soup_8": (0.91, 0.93, 0.918),
    "gaussian_diagonal": (0.80, 0.90, 0.80),
    "gaussian_full": (0.90, 0.92, 0.90),
    "latent_gaussian": (0.91, 0.89, 0.91),
    "noised_0.01": (0.94, 0.99, 0.94),
    "noised_0.5": (0.90, 0.89, 0.90),
}

FIT = {  # a generator that reaches every bar of the default
    "r2": 0.99,
    "variance_first": 1.1,
    "variance_least": 0.85,
    "variance_median": 1.0,
    "variance_most": 1.2,
    "outside": 0.03,
    "loss_held_out": 0.54,
    "loss_training": 0.5,
    "loss_gaussian": 0.6,
    "reconstructed_more_alike": 0.01,
}
UNFITTED = FIT | {"variance_first": 0.12, "variance_least": 0.1}


def write_results(
    folder: Path,
    groups: Mapping[str, tuple[float, float, float]] = GROUPS,
    *,
    noise: float = 1e-4,
    within: tuple[float, float] = (0.80, 0.80),
    fit: Mapping[str, float | None] | None = FIT,
    seed: int = 0,
) -> None:
    """Three models a group, around its values; `noise` is the std of each replicate.

    `within` are similarities among generated models and among originals. All share the images: one
    number a replicate, which is the same in every experiment.
    """
    images = np.random.default_rng(7).normal(0, 0.01, REPLICATES)
    own = np.random.default_rng([seed, 8])
    models, replicates = [], {}
    for group, (accuracy, similarity, choosing) in groups.items():
        for model, shift in enumerate((-0.01, 0, 0.01)):
            values = (group, model, accuracy + shift, choosing + shift, similarity + shift)
            models.append(values)
        draws = own.normal(0, noise, (2, REPLICATES)) + images
        best = accuracy + 0.01 + draws[0]
        similar = similarity + draws[1]
        replicates[group] = Replicates(accuracy + draws[0], best, best, *[similar] * 3)
    for name in ("data", "metrics"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    columns = ["group", "model", "accuracy", "choosing_accuracy", "max_similarity"]
    pd.DataFrame(models, columns=columns).to_csv(folder / "data/models.csv", index=False)
    save_replicates(folder / "data/bootstrap.csv", replicates)
    metrics = {
        "accuracy": {"generated_best_of_n": 0.93, "original_best_of_n": 0.91},
        "similarity": {"generated_within": within[0], "original_within": within[1]},
        "n": 3,
    }
    if fit is not None:
        metrics["fit"] = dict(fit)
        metrics["similarity"]["reconstructed_within"] = 0.81
    (folder / "metrics/novelty.json").write_text(json.dumps(metrics))


def write_audit(folder: Path, index: float) -> None:
    """The audit's tables, with an interpolation index and numbers that follow from it."""
    audit = folder / "report/audit"
    audit.mkdir(parents=True, exist_ok=True)
    group = {"group": ["original", "generated"]}
    copying = {**group, "models": 3, "z_held_back": [0.0, -4.0], "z_second_run": [-1.0, -5.0]}
    pd.DataFrame(copying).to_csv(audit / "copying.csv", index=False)
    distances = {**group, "models": 3, "nearest_relative": [1.0, 0.5]}
    distances |= {"interpolation_mean": [1.0, index], "outside_span_mean": [0.0, 0.25]}
    pd.DataFrame(distances).to_csv(audit / "distances.csv", index=False)


def make_run(folder: Path, shift: float = 0.0, **options: object) -> Run:
    """A run whose generated models are more accurate by `shift` than `GROUPS` says."""
    groups = dict(options.pop("groups", GROUPS))
    accuracy, similarity, choosing = groups["generated"]
    groups["generated"] = (accuracy + shift, similarity, choosing)
    write_results(folder, groups, **options)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params = change(params, autoencoder__min_r2=0.1, finetune__checkpoints=300)
    return Run(Result(Folder(folder), "abc1234", folder.name), params)


def make_seeds(folder: Path, *shifts: float, **options: object) -> list[Seed]:
    """Whole pipelines, one a shift."""
    return [
        Seed(i, i, {"": make_run(folder / f"run{i}", shift, seed=i, **options)})
        for i, shift in enumerate(shifts)
    ]


def write_lock(folder: Path) -> None:
    """A dvc.lock which says that the code that is here and now has made what lies in `folder`."""
    deps = [{"path": path, "md5": md5} for path, md5 in code_hashes().items()]
    (folder / "dvc.lock").write_text(yaml.safe_dump({"stages": {"all": {"deps": deps}}}))

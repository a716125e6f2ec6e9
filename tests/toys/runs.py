"""What finished experiments leave behind, by hand, with differences that are known."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import yaml

from pdiff import outputs
from pdiff.core.files import write_json
from pdiff.novelty.summary import save_table
from pdiff.paper.experiments import Experiment, code_hashes
from pdiff.paper.results import Found, Result
from pdiff.tracking.files import Folder
from pdiff.tracking.sync import Source
from tests.conftest import ROOT, change

GROUPS = {  # (test accuracy, maximum similarity, validation accuracy): the paper is right
    "original": (0.90, 0.95, 0.90),
    "ensemble": (0.91, 0.94, 0.905),
    "generated": (0.92, 0.88, 0.92),
    "soup_2": (0.905, 0.95, 0.90),
    "soup_8": (0.91, 0.93, 0.918),
    "soup_greedy": (0.915, 0.94, 0.93),
    "fresh": (0.90, 0.87, 0.90),
    "held_back": (0.90, 0.96, 0.90),
    "gaussian_full": (0.90, 0.92, 0.90),
    "latent_gaussian": (0.91, 0.89, 0.91),
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
AUDIT = {"nearest_relative": 0.5, "interpolation_index": 0.4, "outside_span": 0.25}


def write_results(
    folder: Path,
    groups: Mapping[str, tuple[float, float, float]] = GROUPS,
    fit: Mapping[str, float | None] | None = FIT,
    audit: Mapping[str, float] | None = None,
) -> None:
    """Three models a group, around its values."""
    rows = [
        (group, model, accuracy + shift, choosing + shift, similarity + shift)
        for group, (accuracy, similarity, choosing) in groups.items()
        for model, shift in enumerate((-0.01, 0, 0.01))
    ]
    columns = ["group", "model", "accuracy", "choosing_accuracy", "max_similarity"]
    save_table(folder / outputs.MODELS, pd.DataFrame(rows, columns=columns))
    write_json(folder / outputs.NOVELTY_METRICS, {} if fit is None else {"fit": fit})
    write_json(folder / outputs.AUDIT_METRICS, audit or {})


def write_groups(folder: Path, groups: Mapping[str, tuple[float | None, ...]]) -> None:
    """The audit's table: accuracy, maximum similarity and similarity within of each group."""
    columns = ["group", "accuracy", "max_similarity", "similarity_within"]
    rows = [(name, *values) for name, values in groups.items()]
    save_table(folder / outputs.AUDIT / "groups.csv", pd.DataFrame(rows, columns=columns))


def make_run(folder: Path, shift: float = 0.0, **options: object) -> Result:
    """A run whose generated models are more accurate by `shift` than `GROUPS` says."""
    groups = dict(options.pop("groups", GROUPS))
    accuracy, similarity, choosing = groups["generated"]
    groups["generated"] = (accuracy + shift, similarity, choosing)
    changes = {"autoencoder.min_r2": 0.1} | dict(options.pop("params", {}))
    write_results(folder, groups, **options)
    params = change(yaml.safe_load((ROOT / "params.yaml").read_text()), **changes)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return Result(Folder(folder), "abc1234", folder.name)


def make_pipelines(folder: Path, *shifts: float, **options: object) -> Found:
    """Whole pipelines, one a shift."""
    return {
        (i, i): {"": make_run(folder / f"run{i}", shift, **options)}
        for i, shift in enumerate(shifts)
    }


def leave(folder: Path, experiment: Experiment, **tags: str) -> Source:
    """What lies in `folder`, as left by an experiment with the code that is here and now."""
    deps = [{"path": path, "md5": md5} for path, md5 in code_hashes().items()]
    (folder / "dvc.lock").write_text(yaml.safe_dump({"stages": {"all": {"deps": deps}}}))
    (folder / "params.yaml").write_text(yaml.safe_dump(experiment.params))
    return Source(folder.name, Folder(folder), 0.0, tags, verified=True)


def cells(text: str, start: str, last: int = 0) -> list[str]:
    """The `last` cells, or all, of the one line of a Markdown table that starts so."""
    [line] = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")][-last:]

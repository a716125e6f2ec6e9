"""What finished experiments measured, and the rows of a table over seeds.

Results are found by their parameters, whatever the experiment is called: among DVC's experiments,
in the last commit, and in the workspace.

Axes: R bootstrap replicates.
"""

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from pdiff import outputs
from pdiff.baselines.registry import label
from pdiff.config import GenerateConfig
from pdiff.diffusion.bars import NUMBERS, missed_bars
from pdiff.novelty.bootstrap import Replicates, by_group, interval_around
from pdiff.novelty.claims import ALPHA, Claim, Kind
from pdiff.novelty.inference import t_interval
from pdiff.novelty.iou import chosen_of_n
from pdiff.paper.definitions import Row
from pdiff.paper.experiments import CODE, Experiment, code_hashes
from pdiff.system.paths import root
from pdiff.tracking.files import Folder, cached, headline, locked_outputs, read_json, read_yaml
from pdiff.tracking.process import git_commit
from pdiff.tracking.sync import Source, experiments, workspace

MISSES = "does not fit"
"""What is said of a generator that misses a bar."""
COMMIT = "mlflow.source.git.commit"
"""The tag of a source that names the commit of its code."""
QUALITIES = {  # heading, and name in its section of metrics/novelty.json
    "original_best": ("originals, best", "original_best"),
    "original_mean": ("originals, mean", "original_mean"),
    "ensemble": ("ensemble", "ensemble"),
    "generated_best": ("generated, best", "generated_best"),
    "generated_mean": ("generated, mean", "generated_mean"),
}
MEASURES = QUALITIES | {f"score_{name}": known for name, known in QUALITIES.items()}
MEASURES |= {
    "score_noise": ("noise 0.05, mean", "noised_0.05_mean"),
    "original_similarity": ("maximum similarity, originals", "original_max_mean"),
    "original_similarity_low": ("maximum similarity, originals, lowest", "original_max_low"),
    "original_similarity_high": ("maximum similarity, originals, highest", "original_max_high"),
    "generated_similarity": ("maximum similarity, generated", "generated_max_mean"),
    "generated_similarity_low": ("maximum similarity, lowest", "generated_max_low"),
    "generated_similarity_high": ("maximum similarity, highest", "generated_max_high"),
}

ZOO = ("original", "generated", "s_kde30", "sane_kde30", "interpolated", "gaussian_full")
ZOO += ("latent_gaussian", "soup_2", "soup_8", "soup_32", "soup_shuffled_2", "soup_shuffled_8")
"""Groups of Table 7 that show their mean, and the best of `DRAWN` by validation."""
DRAWN = 50
MEASURES |= {f"{g}_mean": (f"{label(g)}, mean", f"{g}_mean") for g in (*ZOO[2:], "sane_sub")}
MEASURES |= {f"{g}_of_50": (f"{label(g)}, best of {DRAWN}", f"{g}_of_50") for g in ZOO}
MEASURES |= {
    f"{g}_similarity": (f"maximum similarity, {label(g)}", f"{g}_max_mean") for g in ZOO[2:]
}


def kind_of(measure: str) -> Kind:
    """Also the section of metrics/novelty.json that has it."""
    if measure.startswith("score"):
        return "score"
    return "similarity" if "similarity" in measure else "accuracy"


@dataclass(frozen=True)
class Result:
    """What one finished experiment left."""

    tree: Folder
    commit: str
    """Short hash of the commit that its code came from, or `unknown`."""
    name: str

    @cached_property
    def params(self) -> dict[str, Any]:
        return read_yaml(self.tree, "params.yaml")

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Final numbers such as `accuracy.generated_best`; those of the audit are `audit.NAME`."""
        found, table = headline(self.tree), self.frame(outputs.SUMMARY)
        if table is not None:  # which alone has the originals' range
            for end in ("low", "high"):
                own = table.loc[table["group"] == "original", f"max_similarity_{end}"]
                found[f"similarity.original_max_{end}"] = own.mean()
        return found

    @cached_property
    def zoo(self) -> dict[str, float]:
        """Mean accuracy and maximum similarity of every group; the test accuracy to expect of the
        best of `DRAWN` by validation where it has as many. Empty where models are not here."""
        found, models = {}, self.frame(outputs.MODELS)
        for group, own in models.groupby("group") if models is not None else ():
            found[f"accuracy.{group}_mean"] = own["accuracy"].mean()
            if group != "original":  # whose metrics say whether it is defined
                found[f"similarity.{group}_max_mean"] = own["max_similarity"].mean()
            if len(own) >= DRAWN:
                both = (torch.tensor(own[c].to_numpy()) for c in ("accuracy", "choosing_accuracy"))
                found[f"accuracy.{group}_of_50"] = chosen_of_n(*both, DRAWN)
        return found

    @property
    def digest(self) -> str:
        """Twelve letters of the hash of all its metrics, {stage: content}."""
        paths = [path for path in self.tree.results() if path.startswith("metrics/")]
        content = {Path(path).stem: read_json(self.tree, path) for path in paths}
        return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def fit(self) -> dict[str, float]:
        """`bars.NUMBERS`, NaN for one that is not defined; empty where they are not measured."""
        known = {name: self.metrics.get(f"fit.{name}", math.nan) for name in NUMBERS}
        return {} if all(map(math.isnan, known.values())) else known

    @cached_property
    def _outputs(self) -> dict[str, str]:
        """md5 of each output."""
        return locked_outputs(self.tree)

    @property
    def lock(self) -> str:
        """Eight letters of the generated models' md5: two results that agree here are the same."""
        return self._outputs.get(str(outputs.GENERATED), "unknown")[:8]

    def file(self, path: Path) -> Path | None:
        """An output on this machine: in the folder, or in DVC's cache; None if it is not here."""
        found = self.tree.path / path
        if self.tree.revision or not found.exists():  # a fresh clone has no outputs checked out
            found = cached(self._outputs.get(str(path), "missing"))
        return found if found.exists() else None

    def frame(self, path: Path) -> pd.DataFrame | None:
        """A CSV that is an output in Git or in the cache; None if it is not on this machine."""
        if (text := self.tree.read(str(path))) is not None:
            return pd.read_csv(io.BytesIO(text))
        found = self.file(path)
        return None if found is None else pd.read_csv(found)

    @cached_property
    def is_current(self) -> bool:
        """Whether every room and script that its stages depended on is the same here and now."""
        stages = read_yaml(self.tree, "dvc.lock").get("stages", {}).values()
        deps = [dep for stage in stages for dep in stage.get("deps", [])]
        code = {dep["path"]: dep.get("md5") for dep in deps if dep["path"].startswith(CODE)}
        return bool(code) and all(code_hashes().get(path) == md5 for path, md5 in code.items())


def learned(runs: Sequence[Result]) -> tuple[str, str]:
    """Did the generator learn: `fits`, `MISSES` or `not measured`; and which bars are missed.

    The bars are held against the mean over the runs, as in `pdiff.paper.fit`: with 200 models the
    variance along one of fourteen directions leaves 0.8 to 1.25 in a third of all runs by chance.
    """
    fits = [run.fit for run in runs if run.fit]
    if 2 * len(fits) <= len(runs):
        return "not measured", ""
    params = runs[0].params
    config = GenerateConfig.model_validate(params["generate"])
    bars = config, float(params["autoencoder"]["min_r2"])
    missed = missed_bars(pd.DataFrame(fits).mean(skipna=False).to_dict(), *bars)
    alone = sum(bool(missed_bars(fit, *bars)) for fit in fits)
    if missed:
        return MISSES, "; ".join(missed)
    return "fits", f"on average; {alone} of {len(fits)} runs miss a bar" if alone else ""


class Library:
    """All results on this machine, by the hash of their parameters."""

    def __init__(self, *, any_code: bool = False, folders: Iterable[Path] = ()) -> None:
        """`any_code` also takes results of other versions of the code.

        `folders` have pipelines below them that ran without DVC's experiments, on a GPU say:
        `dvc.lock`, parameters, metrics and tables, with or without pictures, and in `times.json`
        the commit of their code.
        """
        self._any_code = any_code
        self._found: dict[str, Result | None] = {}
        here = root()
        head = Folder(here, "HEAD")
        self._sources = [*experiments(here), *workspace(here)]
        if head.results():
            self._sources.append(Source("HEAD", head, 0.0, {COMMIT: git_commit(here)}))
        locks = [lock for folder in folders for lock in sorted(folder.rglob("dvc.lock"))]
        for source in chain.from_iterable(workspace(lock.parent.resolve()) for lock in locks):
            # a copy of the code on a GPU machine may be no repository
            source.tags[COMMIT] = read_json(source.tree, "times.json").get("commit", "")
            self._sources.append(source)

    def find(self, experiment: Experiment) -> Result | None:
        """The newest whole result of these parameters, of the code that is here unless any."""
        sha = experiment.sha
        if sha not in self._found:
            named = (s for s in self._sources if s.marks["pdiff.params_sha"] == sha)
            whole = (s for s in named if s.is_complete(pictures=s.tree.path == root()))
            results = (
                Result(s.tree, s.tags.get(COMMIT, "")[:7] or "unknown", s.key) for s in whole
            )
            self._found[sha] = next((r for r in results if self._any_code or r.is_current), None)
        return self._found[sha]


Pair = tuple[int, int]
"""seed.base and seed.model."""
Found = Mapping[Pair, Mapping[str, Result]]
"""What has run of each pair, by ablation; "" is the experiment itself."""


@dataclass
class Measured:
    """A row with the experiments that it consists of, one a seed, and what they left."""

    row: Row
    experiments: Sequence[Experiment]
    results: Sequence[Result | None] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    """Why experiments failed, by their sha."""

    @property
    def found(self) -> list[Result]:
        return [result for result in self.results if result is not None]

    @property
    def missing(self) -> list[Experiment]:
        """The experiments without a result."""
        pairs = zip(self.experiments, self.results, strict=True)
        return [experiment for experiment, result in pairs if result is None]

    @property
    def status(self) -> str:
        """`run`, `2 of 3 seeds`, `not run` or `failed: why`."""
        for experiment in self.missing:
            if experiment.sha in self.failures:
                return f"failed: {self.failures[experiment.sha]}"
        done, wanted = len(self.found), len(self.results)
        return "run" if done == wanted else f"{done} of {wanted} seeds" if done else "not run"

    @property
    def fit(self) -> tuple[str, str]:
        """What `learned` says of its seeds; `-` where nothing has run."""
        return learned(self.found) if self.found else ("-", "")

    def values(self, measure: str) -> pd.Series:
        """One number a seed that has run; NaN where the experiment has none."""
        name = f"{kind_of(measure)}.{MEASURES[measure][1]}"
        found = [r.metrics[name] if name in r.metrics else r.zoo.get(name) for r in self.found]
        return pd.Series(found, dtype=float)

    def value(self, measure: str) -> float:
        """The mean over seeds; NaN where nothing has run."""
        return float(self.values(measure).mean(skipna=False))

    def spread(self, measure: str) -> float:
        """Standard deviation over seeds; NaN for fewer than two."""
        return float(self.values(measure).std(skipna=False))

    def interval(self, measure: str) -> tuple[float, float]:
        """95 %, over images and models and averaged over seeds; NaN without replicates.

        That of a score is Student's, over seeds; NaN where it is the same in all, as the originals'
        are with one base net.
        """
        if kind_of(measure) == "score":
            values = self.values(measure)
            alike = values.nunique() < 2
            return (math.nan, math.nan) if alike else t_interval(values.to_numpy(), ALPHA)
        return interval_around(self.value(measure), self.replicates(measure))

    def replicates(self, measure: str) -> Float[np.ndarray, " R"]:
        """The mean over seeds of replicates that are paired on the images; empty without any."""
        if measure.endswith("_of_50"):
            return np.zeros(0)
        group, _, statistic = measure.partition("_")
        for end, own in (("_mean", ""), ("_similarity", "similarity")):
            if measure.endswith(end):  # names of groups have underscores
                group, statistic = measure.removesuffix(end), own
        known = [groups[group] for groups in self._groups if group in groups]
        draws = [getattr(own, statistic or "accuracy") for own in known]
        alike = len({len(own) for own in draws}) == 1
        return sum(draws) / len(draws) if alike else np.zeros(0)

    @cached_property
    def _groups(self) -> list[dict[str, Replicates]]:
        return [by_group(frame) for frame in self._frames(outputs.BOOTSTRAP)]

    def _frames(self, path: Path) -> list[pd.DataFrame]:
        """The table of each seed; none where that of one is missing."""
        frames = [result.frame(path) for result in self.found]
        return [] if any(frame is None for frame in frames) else frames

    @cached_property
    def models(self) -> pd.DataFrame:
        """Every model of every seed: group, accuracy and max_similarity; empty if not known."""
        frames = self._frames(outputs.MODELS)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"group": []})

    def count(self, group: str) -> int:
        """Models of a group in all seeds, 0 where that is not known."""
        return int((self.models["group"] == group).sum())


def difference(
    text: str, larger: tuple[str, str], smaller: tuple[str, str], rows: Mapping[str, Measured]
) -> Claim:
    """One measure of one row less another, each (label, measure), described and not tested.

    All seeds of a table share one base net, so the interval is paired on the test images; it is
    NaN where a row has no replicates.
    """
    (first, a), (second, b) = ((rows[label], measure) for label, measure in (larger, smaller))
    estimate, x, y = first.value(a) - second.value(b), first.replicates(a), second.replicates(b)
    draws = x - y if len(x) == len(y) else np.zeros(0)
    return Claim(text, kind_of(a), estimate, *interval_around(estimate, draws))

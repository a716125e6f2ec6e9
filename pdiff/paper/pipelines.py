"""Whole pipelines: the runs of one setting that a verdict or a fit is about, by their seeds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pdiff.paper.experiments import Experiment, make_experiment, short_name, telling
from pdiff.paper.results import Library, Result
from pdiff.system.errors import InputError

Pair = tuple[int, int]
"""seed.base and seed.model."""
Found = Mapping[Pair, Mapping[str, Result]]
"""What has run of each pair, by ablation; "" is the experiment itself."""


@dataclass(frozen=True)
class Setting:
    """What all of the runs share."""

    recipe: str
    data: str
    net: str
    overrides: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        more = telling(self.overrides)
        return ", ".join([self.data, self.net, f"recipe {self.recipe}", *more])

    @property
    def name(self) -> str:
        """In the names of files."""
        return short_name(self.recipe, self.data, self.net, *telling(self.overrides))

    def experiment(self, base: int, model: int, ablation: str = "") -> Experiment:
        chosen = (f"recipe={self.recipe}", f"data={self.data}", f"net={self.net}")
        more = (f"ablation={ablation}",) if ablation else ()
        seeds = (f"seed.base={base}", f"seed.model={model}")
        return make_experiment([*chosen, *more, *self.overrides, *seeds])


def seed_list(text: str, option: str) -> list[int]:
    """`0,1,2` as numbers, each once; `InputError` for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"{option}: {text!r} is not a list of numbers such as 0,1,2")
    return list(dict.fromkeys(map(int, parts)))


def seed_pairs(models: str, bases: str | None, whole: bool) -> list[Pair]:
    """Whole pipelines have both seeds equal; otherwise each base goes with each model."""
    seeds = seed_list(models, "--seeds")
    if whole and bases:
        raise InputError("--base-seeds: --whole gives each pipeline its own base")
    if whole:
        return [(seed, seed) for seed in seeds]
    return [(base, model) for base in seed_list(bases or "0", "--base-seeds") for model in seeds]


def gather(
    setting: Setting,
    pairs: Iterable[Pair],
    ablations: Iterable[str],
    library: Library,
    failures: Mapping[str, str],
) -> tuple[Found, list[str]]:
    """What has run of the ablations; and a line for each run that failed or is not there.

    `failures` says why some did not run, by sha; other ablations that did not run get no line.
    """
    found, absent = {}, []
    for pair in pairs:
        found[pair] = {}
        for name in ablations:
            experiment = setting.experiment(*pair, name)
            if result := library.find(experiment):
                found[pair][name] = result
            elif not name or experiment.sha in failures:
                absent.append(f"{experiment.name}: {failures.get(experiment.sha, 'not run')}")
    return found, absent

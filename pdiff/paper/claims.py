"""The paper's claims, each as a difference that is positive if the claim is true.

Axes: R bootstrap replicates.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pdiff.baselines.registry import family, label, ordered
from pdiff.paper.runs import Measure, NotRun, Run, Seed

SOUPS = ("soup", "soup_greedy", "ensemble")
GAUSSIANS = {
    "gaussian_diagonal": ("6a", "6b", "not a Gaussian of each parameter"),
    "gaussian_full": ("6c", "6d", "not a Gaussian of all parameters"),
    "latent_gaussian": ("6e", "6f", "not a Gaussian of the latents, decoded"),
}


Beside = Callable[[Sequence[Seed]], str]


def _nothing(seeds: Sequence[Seed]) -> str:
    return ""


@dataclass(frozen=True)
class Claim:
    key: str
    text: str
    kind: str
    """`accuracy` or `similarity`: what the difference is of."""
    measure: Callable[[Seed], Measure]
    """The difference in one run; raises NotRun."""
    about: str = ""
    """The ablation whose generated models win if the claim holds; "" is the experiment itself."""
    beside: Beside = _nothing
    """What stands beside the difference; only called with runs that have one."""


def better_than_originals(seed: Seed) -> Measure:
    run = seed.run()
    return run.accuracy("generated") - run.accuracy("original")


def better_than_best(seed: Seed) -> Measure:
    """Test accuracies of the models that validation chooses: no peeking, one against one."""
    run = seed.run()
    return run.chosen("generated") - run.chosen("original")


def best_of_equal_numbers(seeds: Sequence[Seed]) -> str:
    runs = [seed.run() for seed in seeds]
    best = [
        r.metric("accuracy.generated_best_of_n") - r.metric("accuracy.original_best_of_n")
        for r in runs
    ]
    numbers = sorted({int(run.result.metrics["n"]) for run in runs})
    return f"best of {' or '.join(map(str, numbers))} each: {100 * np.mean(best):+.2f}"


def more_accurate(rival: str | Callable[[Run], str], seed: Seed) -> Measure:
    run = seed.run()
    return run.accuracy("generated") - run.accuracy(rival if isinstance(rival, str) else rival(run))


def more_novel(rival: str | Callable[[Run], str], seed: Seed) -> Measure:
    run = seed.run()
    other = rival if isinstance(rival, str) else rival(run)
    return run.similarity(other) - run.similarity("generated")


def matching_soup(run: Run) -> str:
    """The average of originals that validation finds most nearly as good as the generated models.

    Of equally near ones the ensemble, then the smallest.
    """
    soups = [group for group in ordered(run.groups) if family(group) in SOUPS]
    if not any(family(group) != "ensemble" for group in soups):
        raise NotRun("no group soup_N")
    own = run.mean("generated", "choosing_accuracy")
    return min(soups, key=lambda group: abs(run.mean(group, "choosing_accuracy") - own))


def matched_soups(seeds: Sequence[Seed]) -> str:
    counts = Counter(matching_soup(seed.run()) for seed in seeds)
    return ", ".join(f"{count} x {label(group)}" for group, count in counts.items())


def novelty_grows(seed: Seed) -> Measure:
    few, many = seed.run("checkpoints_10"), seed.run()
    return few.similarity("generated") - many.similarity("generated")


def numbers_of_checkpoints(seeds: Sequence[Seed]) -> str:
    many = sorted({seed.run().params["finetune"]["checkpoints"] for seed in seeds})
    return f"K = 10 against {' or '.join(map(str, many))}"


def latent_noise_matters(seed: Seed) -> Measure:
    latent, parameter = seed.run("noise_latent"), seed.run("noise_param")
    return latent.accuracy("generated") - parameter.accuracy("generated")


def without_noise(seeds: Sequence[Seed]) -> str:
    """The same difference between latent noise and none, over the runs that have both."""
    with_both = [seed for seed in seeds if "noise_none" in seed.runs]
    if not with_both:
        return "without noise: not run"
    gaps = [
        seed.run("noise_latent").mean("generated", "accuracy")
        - seed.run("noise_none").mean("generated", "accuracy")
        for seed in with_both
    ]
    return f"against no noise: {100 * np.mean(gaps):+.2f}"


def _rival(
    first: str, second: str, who: str, rival: str | Callable[[Run], str], beside: Beside = _nothing
) -> list[Claim]:
    """Against a rival both halves have to hold: what is less accurate is easily more novel."""
    accurate, novel = partial(more_accurate, rival), partial(more_novel, rival)
    return [
        Claim(first, f"{who}: more accurate", "accuracy", accurate, beside=beside),
        Claim(second, f"{who}: more novel", "similarity", novel, beside=beside),
    ]


CLAIMS = (
    Claim("1", "better than the originals on average", "accuracy", better_than_originals),
    Claim(
        "2",
        "better than the best original",
        "accuracy",
        better_than_best,
        beside=best_of_equal_numbers,
    ),
    Claim("3", "better than the ensemble", "accuracy", partial(more_accurate, "ensemble")),
    *_rival("5a", "5b", "not a soup", matching_soup, matched_soups),
    *(claim for name, texts in GAUSSIANS.items() for claim in _rival(*texts, name)),
    Claim("7", "novelty grows with K", "similarity", novelty_grows, beside=numbers_of_checkpoints),
    Claim(
        "8",
        "latent noise matters more than parameter noise",
        "accuracy",
        latent_noise_matters,
        about="noise_latent",
        beside=without_noise,
    ),
)

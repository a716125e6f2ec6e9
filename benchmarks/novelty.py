"""Similarity of all pairs of models: one matrix product, against a loop over pairs."""

import torch
from torch import Tensor

from benchmarks.timing import HEADER, REPEATS, Pair, duration, linear_fit, once, scaled, table
from pdiff.novelty.iou import wrong_iou

MODELS, IMAGES, PAIRS = 1400, 10_000, 2000


def pair_by_pair(wrong: Tensor, pairs: Tensor) -> list[tuple[int, int]]:
    """Intersection and union of each pair, as one would write it down."""
    counts = []
    for i, j in pairs.tolist():
        a, b = wrong[i], wrong[j]
        counts.append(((a & b).sum().item(), (a | b).sum().item()))
    return counts


def run() -> str:
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(MODELS, IMAGES, generator=generator) < 0.25
    pairs = torch.randint(MODELS, (PAIRS, 2), generator=generator)
    counts = pair_by_pair(wrong, pairs)
    found = wrong_iou(wrong, wrong)[pairs[:, 0], pairs[:, 1]]
    exact = torch.tensor([both / either for both, either in counts])
    errors = (found != exact).sum().item()
    ours, plain = [], []
    for _ in range(REPEATS):
        ours.append(once(lambda: wrong_iou(wrong, wrong)))
        plain.append(once(lambda: pair_by_pair(wrong, pairs)))
    note = f"{IMAGES} images; the plain way: {PAIRS} pairs, extrapolated"
    pair = Pair(
        f"IoU of {MODELS} x {MODELS}", tuple(ours), scaled(plain, MODELS**2 / PAIRS), note=note
    )
    return (
        f"{table(HEADER, [pair.row()])}\n\n{errors} of {PAIRS} similarities differ from the "
        f"loop's. {_scaling(wrong)}"
    )


def _scaling(wrong: Tensor) -> str:
    """How time grows with the number of originals."""
    counts = (200, 400, 800, 1400)

    def seconds(originals: int) -> float:
        return min(once(lambda: wrong_iou(wrong, wrong[:originals])) for _ in range(3))

    times = [seconds(count) for count in counts]
    exponent, straight = linear_fit(counts, times)
    fit = ", ".join(f"{k}: {duration(t)}" for k, t in zip(counts, times, strict=True))
    return (
        f"{MODELS} models against K originals: {fit}; exponent {exponent:.2f}, R2 of the line "
        f"{straight:.4f}."
    )

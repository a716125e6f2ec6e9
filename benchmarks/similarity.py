"""Similarity of all pairs of models: one matrix product, against a loop over pairs."""

import torch

from benchmarks.timing import HEADER, Pair, scaled, table, time_pair
from pdiff.novelty.iou import wrong_iou


def run(models: int = 1400, images: int = 10_000, pairs: int = 2000) -> str:
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(models, images, generator=generator) < 0.25
    chosen = torch.randint(models, (pairs, 2), generator=generator)

    def plain() -> list[float]:
        both = ((wrong[i], wrong[j]) for i, j in chosen.tolist())
        return [(a & b).sum().item() / (a | b).sum().item() for a, b in both]

    found = wrong_iou(wrong, wrong)[chosen[:, 0], chosen[:, 1]]
    differ = (found != torch.tensor(plain())).sum().item()
    ours, loop = time_pair(lambda: wrong_iou(wrong, wrong), plain)
    note = f"{images} images; the plain way: {pairs} pairs, extrapolated"
    pair = Pair(f"IoU of {models} x {models}", ours, scaled(loop, models**2 / pairs), note)
    return f"{table(HEADER, [pair.row()])}\n\n{differ} of {pairs} similarities differ."

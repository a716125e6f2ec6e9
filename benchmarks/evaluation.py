"""Predictions of many models: prefix once and suffix per model, against the whole net per model."""

from collections.abc import Mapping

import torch

from benchmarks.timing import HEADER, REPEATS, Pair, once, scaled, table, time_pair
from pdiff.evaluation.predict import CutNet, Predictor, predict_plain
from pdiff.nets.registry import build_net
from pdiff.parameters.subset import Models, select_subset

NETS = {"resnet18": 512, "vit_tiny_patch16_224": 2048, "convnext_tiny": 64}
"""How many images: fewer where a net is slow."""
MANY = 1400
"""Models of one experiment."""


def run(nets: Mapping[str, int] = NETS, few: int = 50, size: int = 64) -> str:
    rows, differ, compared = [], 0, 0
    for name, images in nets.items():
        pairs, wrong = _net(name, images, few, size)
        rows += [pair.row() for pair in pairs]
        differ, compared = differ + wrong, compared + 3 * images
    return f"{table(HEADER, rows)}\n\n{differ} of {compared} predictions differ."


def _net(name: str, images: int, few: int, size: int) -> tuple[list[Pair], int]:
    """Times for `few` and `MANY` models; how many predictions of three models differ."""
    torch.manual_seed(0)
    net = build_net(name, 10, size).eval().requires_grad_(False)
    subset = select_subset(net, "last_norms:2")
    pixels, cuts = torch.randn(images, 3, size, size), []
    trace_s = once(lambda: cuts.append(CutNet(net, subset.names, pixels[:2])))
    row = torch.cat([net.get_parameter(name).flatten() for name in subset.names])
    noised = Models(subset, row + 0.1 * torch.randn(few, len(row)))

    def ours(count: int) -> torch.Tensor:
        some = Models(subset, noised.block(slice(0, len(row)))[:count])
        return Predictor(cuts[0], lambda: pixels.split(512), 1024).predict(some)

    def plain(count: int) -> torch.Tensor:
        return predict_plain(net, [noised[i] for i in range(count)], lambda: pixels.split(512))

    many, one = time_pair(lambda: ours(few), lambda: plain(1))
    single = [once(lambda: ours(1)) for _ in range(REPEATS)]
    each = [(a - b) / (few - 1) for a, b in zip(sorted(many), sorted(single), strict=True)]
    extrapolated = [trace_s + a + (MANY - 1) * b for a, b in zip(single, each, strict=True)]
    note = f"{images} images of {size} px; ours with tracing; the plain way from one model"
    pairs = [
        Pair(f"{name}, M = {few}", [trace_s + t for t in many], scaled(one, few), note),
        Pair(f"{name}, M = {MANY}", extrapolated, scaled(one, MANY), f"{note}, ours from {few}"),
    ]
    return pairs, int((ours(3) != plain(3)).sum())

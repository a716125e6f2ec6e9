"""Predictions of many models: prefix once and suffix per model, against the whole net per model."""

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.operations import operations
from benchmarks.timing import (
    HEADER,
    REPEATS,
    Pair,
    duration,
    floor,
    linear_fit,
    once,
    scaled,
    table,
    time_pair,
)
from pdiff.evaluation import Batches, CutNet, predict, predict_plain
from pdiff.nets import build_net
from pdiff.subset import Models, Subset, select_subset

SIZE = 64
NETS = {  # images: fewer where one model of the plain way takes long
    "resnet18": 256,
    "resnet50": 64,
    "vit_tiny_patch16_224": 256,
    "vit_base_patch16_224": 64,
    "convnext_tiny": 256,
    "convnext_base": 64,
}
FEW, MANY = 50, 1400
CHECKED = ("resnet18", "vit_tiny_patch16_224", "convnext_tiny")


def setting(name: str, count: int, models: int) -> tuple[nn.Module, Subset, Models, Tensor]:
    """A net with fresh weights, `models` noised copies of its subset, and random images."""
    torch.manual_seed(0)
    net = build_net(name, 10, SIZE).eval()
    subset = select_subset(net, "last_norms:2")
    row = torch.cat([value.flatten() for value in subset.read(net).values()])
    matrix = row + 0.1 * torch.randn(models, subset.length)
    return net, subset, Models(subset, matrix), torch.randn(count, 3, SIZE, SIZE)


def ours_of(net: nn.Module, subset: Subset, models: Models, batches: Batches) -> Tensor:
    """Trace, cut and predict."""
    cut = CutNet(net, subset.names, next(iter(batches()))[:2])
    return predict(cut, models, batches, boundary_mib=1024)


def run() -> str:
    rows, floors = [], []
    for name, count in NETS.items():
        pairs, line = _net(name, count)
        rows += [pair.row() for pair in pairs]
        floors.append(line)
    text = table(HEADER, rows)
    heads = ["net", "prefix", "suffix, a model", "floor of it", "suffix / floor", "differ"]
    return f"{text}\n\n{table(heads, floors)}\n\n{_scaling()}"


def _net(name: str, count: int) -> tuple[list[Pair], list[str]]:
    net, subset, models, images = setting(name, count, FEW)
    batches = partial(images.split, 256)
    few, one = Models(subset, _rows(models, FEW)), Models(subset, _rows(models, 1))
    ours, plain = time_pair(
        lambda: ours_of(net, subset, few, batches), lambda: predict_plain(net, one, batches)
    )
    single = [once(lambda: ours_of(net, subset, one, batches)) for _ in range(REPEATS)]
    each = [(all_ - first) / (FEW - 1) for all_, first in zip(ours, sorted(single), strict=True)]
    many = tuple(first + (MANY - 1) * e for first, e in zip(single, each, strict=True))
    note = f"{count} images of {SIZE} px; the plain way: 1 model, extrapolated"
    pairs = [
        Pair(f"{name}, M = {FEW}", tuple(ours), scaled(plain, FEW), note=note),
        Pair(f"{name}, M = {MANY}", many, scaled(plain, MANY), note=f"{note}; ours from M = {FEW}"),
    ]
    if name in CHECKED:
        more = setting(name, count, MANY)[2]
        whole = [once(lambda: ours_of(net, subset, more, batches))]
        pairs.append(
            Pair(f"{name}, M = {MANY}, run", tuple(whole), scaled(plain[:1], MANY), note="once")
        )
    cut = CutNet(net, subset.names, images)
    boundary, loaded = cut.prefix(images), cut.load(few[0])
    counted = operations(lambda: cut.run(loaded, boundary))
    moved = sum(v.nbytes for v in (*boundary, *loaded.values()) if isinstance(v, Tensor))
    least, suffix = floor(counted, moved), sorted(each)[REPEATS // 2]
    differ = (
        ours_of(net, subset, few, batches)[:3]
        != predict_plain(net, Models(subset, _rows(models, 3)), batches)
    ).sum()
    prefix = sorted(single)[REPEATS // 2] - suffix
    line = [name, duration(prefix), duration(suffix), duration(least), f"{suffix / least:.2f}"]
    return pairs, [*line, f"{differ} of {3 * count}"]


def _rows(models: Models, count: int) -> Tensor:
    rows = [torch.cat([v.flatten() for v in models[i].values()]) for i in range(count)]
    return torch.stack(rows)


def _scaling() -> str:
    """How time grows with models and with images, on ResNet-18."""
    rows = []
    net, subset, models, images = setting("resnet18", 512, 800)
    matrix = _rows(models, 800)
    steps = (100, 200, 400, 800)

    def seconds(count: int, size: int) -> float:
        some = Models(subset, matrix[:count])
        return min(
            once(lambda: ours_of(net, subset, some, lambda: images[:size].split(64)))
            for _ in range(3)
        )

    by_models = [seconds(m, 64) for m in steps]
    sizes = (64, 128, 256, 512)
    by_images = [seconds(100, n) for n in sizes]
    for axis, x, y in (("M, 64 images", steps, by_models), ("N, 100 models", sizes, by_images)):
        exponent, straight = linear_fit(x, y)
        times = ", ".join(f"{a}: {duration(b)}" for a, b in zip(x, y, strict=True))
        rows.append([axis, times, f"{exponent:.2f}", f"{straight:.4f}"])
    return table(["axis", "times", "exponent", "R2 of the line"], rows)

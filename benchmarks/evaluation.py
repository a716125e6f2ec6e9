"""Predictions of many models: prefix once and suffix per model, against the whole net per model."""

from dataclasses import dataclass, replace

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
from pdiff.evaluation.predict import CutNet, predict, predict_plain
from pdiff.nets.registry import build_net
from pdiff.parameters.subset import Models, Subset, select_subset

SIZE, BATCH = 64, 512
NETS = {  # how many images: fewer where a net is slow
    "resnet18": 512,
    "resnet50": 64,
    "vit_tiny_patch16_224": 2048,
    "vit_base_patch16_224": 64,
    "convnext_tiny": 64,
    "convnext_base": 64,
}
FEW, MANY = 50, 1400
RUN = ("resnet18", "vit_tiny_patch16_224", "convnext_tiny")
"""Nets of which all of MANY models are run as well."""


@dataclass(frozen=True)
class Setting:
    """A net with fresh weights, noised copies of its subset, and random images."""

    net: nn.Module
    subset: Subset
    images: Tensor
    cut: CutNet
    trace_s: float

    @classmethod
    def make(cls, name: str, images: int) -> "Setting":
        torch.manual_seed(0)
        net = build_net(name, 10, SIZE).eval().requires_grad_(False)
        subset = select_subset(net, "last_norms:2")
        pixels, cuts = torch.randn(images, 3, SIZE, SIZE), []
        trace_s = once(lambda: cuts.append(CutNet(net, subset.names, pixels[:2])))
        return cls(net, subset, pixels, cuts[0], trace_s)

    def models(self, count: int) -> Models:
        row = torch.cat([value.flatten() for value in self.subset.read(self.net).values()])
        noise = torch.randn(count, len(row), generator=torch.Generator().manual_seed(0))
        return Models(self.subset, row + 0.1 * noise)

    def ours(self, models: Models, batch: int = BATCH) -> Tensor:
        batches = self.images.split(batch)
        return predict(self.cut, models, lambda: batches, boundary_mib=1024)

    def plain(self, models: Models) -> Tensor:
        return predict_plain(self.net, models, lambda: self.images.split(BATCH))


def run() -> str:
    rows, parts = [], []
    for name, images in NETS.items():
        pairs, line = _net(name, images)
        rows += [pair.row() for pair in pairs]
        parts.append(line)
    heads = ["net", "trace, once", "prefix", "suffix, a model", "floor of it", "suffix / floor"]
    text = table([*heads, "predictions that differ"], parts)
    return f"{table(HEADER, rows)}\n\n{text}\n\n{_scaling()}"


def _net(name: str, images: int) -> tuple[list[Pair], list[str]]:
    setting = Setting.make(name, images)
    few, one = setting.models(FEW), setting.models(1)
    ours, plain = time_pair(lambda: setting.ours(few), lambda: setting.plain(one))
    single = [once(lambda: setting.ours(one)) for _ in range(REPEATS)]
    each = [(a - b) / (FEW - 1) for a, b in zip(sorted(ours), sorted(single), strict=True)]
    suffix = sorted(each)[REPEATS // 2]
    trace = setting.trace_s
    note = f"{images} images of {SIZE} px; ours with tracing; the plain way from one model"
    few_s = tuple(trace + t for t in ours)
    many_s = tuple(trace + first + (MANY - 1) * e for first, e in zip(single, each, strict=True))
    pairs = [
        Pair(f"{name}, M = {FEW}", few_s, scaled(plain, FEW), note=note),
        Pair(f"{name}, M = {MANY}", many_s, scaled(plain, MANY), note=f"{note}, ours from {FEW}"),
    ]
    if name in RUN:
        many = setting.models(MANY)
        whole = (trace + once(lambda: setting.ours(many)),)
        middle = scaled([sorted(plain)[REPEATS // 2]], MANY)
        pairs.append(Pair(f"{name}, M = {MANY}, run", whole, middle, note=f"{note}; ours once"))
    least = _floor(setting, few)
    some = setting.models(3)
    differ = (setting.ours(some) != setting.plain(some)).sum()
    prefix = max(sorted(single)[REPEATS // 2] - suffix, 0.0)
    times = [duration(value) for value in (trace, prefix, suffix, least)]
    return pairs, [name, *times, f"{suffix / least:.2f}", f"{differ} of {3 * images}"]


def _floor(setting: Setting, models: Models) -> float:
    """Of the suffix for one model: its operations, or its inputs read once."""
    loaded, seconds = setting.cut.load(models[0]), 0.0
    for batch in setting.images.split(BATCH):
        boundary = setting.cut.prefix(batch)
        moved = sum(v.nbytes for v in (*boundary, *loaded.values()) if isinstance(v, Tensor))
        counted = operations(lambda boundary=boundary: setting.cut.run(loaded, boundary))
        seconds += floor(counted, moved)
    return seconds


def _scaling() -> str:
    """How time grows with models and with images, on ResNet-18, tracing left out."""
    setting = Setting.make("resnet18", 512)

    def seconds(count: int, images: int) -> float:
        models, some = setting.models(count), replace(setting, images=setting.images[:images])
        return min(once(lambda: some.ours(models, 64)) for _ in range(3))

    rows = []
    counts, sizes = (100, 200, 400, 800), (64, 128, 256, 512)
    by_models = [seconds(count, 64) for count in counts]
    by_images = [seconds(100, size) for size in sizes]
    for axis, x, y in (("M, 64 images", counts, by_models), ("N, 100 models", sizes, by_images)):
        exponent, straight = linear_fit(x, y)
        times = ", ".join(f"{a}: {duration(b)}" for a, b in zip(x, y, strict=True))
        rows.append([axis, times, f"{exponent:.2f}", f"{straight:.4f}"])
    return table(["axis", "times", "exponent", "R2 of the line"], rows)

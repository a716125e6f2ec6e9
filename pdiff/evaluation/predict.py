"""Predictions of many models that differ from one base net in a subset of its parameters.

Evaluation pays only for what changed: the part of the net before the subset runs once for all
models (`CutNet`), and only what comes after it runs for each.

Axes: M models, N images, B batch, C classes; images are (B, C, H, W) with C channels.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import length_hint

import torch
from jaxtyping import Bool, Float, Int16, Int64
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import ConcatDataset

from pdiff.evaluation.cut import Boundary, CutNet, Model
from pdiff.system.progress import tqdm

Models = Sequence[Model] | ConcatDataset
"""Several models: what has a length and an index."""
Batches = Callable[[], Iterable[Float[Tensor, "B C H W"]]]
"""The images of one split in order, on the net's device and normalised."""

NOT_FINITE = -1
"""The prediction for an image whose logits are not all finite: no class, so always wrong."""


class Predictor:
    """Predicts with models, a few at a time, on images that stay the same.

    A model is the net that was cut with the parameters of its subset replaced, in eval mode.
    Batches wait at the boundary of prefix and suffix, as many as `boundary_mib` MiB hold (and at
    least one), while each model is loaded once for all of them. If all images fit, they are kept
    there, and the prefix does not run again.
    """

    def __init__(self, cut: CutNet, batches: Batches, boundary_mib: int) -> None:
        self._cut, self._batches, self._limit = cut, batches, boundary_mib * 2**20
        self._kept: list[Boundary] | None = None

    def predict(self, models: Models, progress: str | None = None) -> Int16[Tensor, "M N"]:
        """The class that each model predicts for each image, on the CPU.

        -1 where a logit is not finite, as with NaN among a model's parameters. `models[i]` may be
        computed on demand, but must be the same each time. `progress` names a bar.

        Raises `InputError` for a model whose names or shapes are not those of the subset.
        """
        stream = self._batches() if self._kept is None else self._kept
        total = length_hint(stream) * len(models) or None
        held = [stream] if self._kept else blocks(self._cut, stream, self._limit)
        columns, block, hidden = [], [], None if progress else True
        with tqdm(desc=progress, total=total, unit="batch", disable=hidden) as bar:
            for block in held:
                columns.append(_rows(self._cut, models, block, bar))
        self._kept = block if len(columns) == 1 else None
        return torch.cat(columns, 1)


def blocks(cut: CutNet, stream: Iterable[Tensor], limit: int) -> Iterator[list[Boundary]]:
    """Boundaries of consecutive batches, as many at a time as `limit` bytes hold, and at least one.

    A block is emptied before the next one is filled, so the caller must be done with it by then.
    """
    block, held, each = [], 0, 0.0  # bytes of the block and of each image
    for images in stream:
        if block and held + each * len(images) > limit:
            yield block
            block.clear()
            held = 0
        block.append(cut.prefix(images))
        size = sum(value.nbytes for value in block[-1] if isinstance(value, Tensor))
        held, each = held + size, size / len(images)
    if block:
        yield block


@torch.inference_mode()
def _rows(cut: CutNet, models: Models, block: list[Boundary], bar: tqdm) -> Int16[Tensor, "M B"]:
    """Predictions of each model for a block of boundaries."""
    rows = []
    for index in range(len(models)):
        loaded = cut.load(models[index])
        classes = []
        for boundary in block:
            classes.append(_classes(cut.run(loaded, boundary)))
            bar.update()
        rows.append(torch.cat(classes))
    return torch.stack(rows).cpu()


def _classes(logits: Float[Tensor, "B C"]) -> Int16[Tensor, " B"]:
    finite = logits.isfinite().all(1)
    return torch.where(finite, logits.argmax(1), NOT_FINITE).short()


@torch.no_grad()
def predict_plain(net: nn.Module, models: Models, batches: Batches) -> Int16[Tensor, "M N"]:
    """The plain way: run the whole net for each model. The tests hold `Predictor` to this."""
    net.eval()
    rows = []
    for model in models:
        classes = []
        for images in batches():
            parameters = {name: value.to(images.device) for name, value in model.items()}
            classes.append(_classes(functional_call(net, parameters, (images,))))
        rows.append(torch.cat(classes))
    return torch.stack(rows).cpu()


def wrong(predictions: Int16[Tensor, "M N"], labels: Int64[Tensor, " N"]) -> Bool[Tensor, "M N"]:
    """True where model m errs on image n."""
    return predictions != labels.to(predictions.device)


def accuracy(predictions: Int16[Tensor, "M N"], labels: Int64[Tensor, " N"]) -> Float[Tensor, " M"]:
    """Share of the images that each model classifies rightly."""
    return (~wrong(predictions, labels)).float().mean(1)

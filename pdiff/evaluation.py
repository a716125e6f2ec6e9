"""Predictions of many models that differ from one base net in a subset of its parameters.

Evaluation pays only for what changed: the part of the net before the subset runs once for all
models (`CutNet`), and only what comes after it runs for each.

Axes: M models, N images, B batch, C classes; images are (B, C, H, W) with C channels.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from operator import length_hint

import torch
from jaxtyping import Bool, Float, Int16, Int64
from torch import Tensor, nn
from tqdm import tqdm

from pdiff.cut import Boundary, CutNet
from pdiff.model import Model, check_model, eval_mode, subset_parameters

__all__ = ["CutNet", "Model", "accuracy", "predict", "predict_plain", "wrong"]

Batches = Callable[[], Iterable[Float[Tensor, "B C H W"]]]
"""The images of one split in order, on the net's device and normalised."""

NOT_FINITE = -1
"""The prediction for an image whose logits are not all finite: no class, so always wrong."""


def predict(
    net: nn.Module,
    names: Sequence[str],
    models: Sequence[Model],
    batches: Batches,
    *,
    progress: str | None = None,
) -> Int16[Tensor, "M N"]:
    """The class that each model predicts for each image, on the CPU.

    A model is the net with the parameters `names` replaced, in eval mode. The prediction is -1
    where a logit is not finite, as with NaN among a model's parameters. `models` may make model i
    whenever it is asked for it, the same one each time; all are never held at once.

    The images are streamed once. As many batches as memory allows wait at the boundary of prefix
    and suffix while each model is loaded once for all of them: images outside, models inside for
    a small subset of a large net, models outside where nothing of the net precedes the subset and
    the images fit. Should they not fit, `models` is asked for each model more than once.

    `progress` labels a progress bar, shown in a terminal only; its total is known if `batches()`
    has a length. Raises ValueError for a name that is no parameter, for a model whose names or
    shapes are not those of the subset, and if there are no models or no images.
    """
    if not len(models):
        raise ValueError("there are no models to evaluate")
    stream = batches()
    total = length_hint(stream) * len(models) or None
    images = iter(stream)
    first = next(images, None)
    if first is None:
        raise ValueError("there are no images: batches() is empty")
    cut = CutNet(net, names, first)
    disable = None if progress else True
    with tqdm(total=total, desc=progress, unit="batch", disable=disable) as bar:
        columns = [
            _predict_block(cut, models, block, bar)
            for block in _blocks(cut, chain([first], images))
        ]
    return torch.cat(columns, 1)


def _blocks(cut: CutNet, stream: Iterable[Tensor]) -> Iterator[list[Boundary]]:
    """Boundaries of consecutive batches, as many at a time as may be held at once.

    A block is emptied before the next one is filled, so the caller must be done with it by then.
    """
    block, held = [], 0
    for images in stream:
        boundary = cut.prefix(images)
        size = sum(value.nbytes for value in boundary if isinstance(value, Tensor))
        if block and held + size > _held_bytes(images.device):
            yield block
            block.clear()
            held = 0
        block.append(boundary)
        held += size
    yield block


def _held_bytes(device: torch.device) -> int:
    """How much of a device's memory the boundaries may fill; the suffix needs some as well."""
    return torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else 2**30


@torch.inference_mode()
def _predict_block(
    cut: CutNet, models: Sequence[Model], block: Sequence[Boundary], bar: tqdm
) -> Int16[Tensor, "M B"]:
    """Predictions of every model for the batches whose boundaries are in `block`."""
    rows = []
    for index in range(len(models)):
        loaded = cut.load(models[index])
        rows.append(torch.cat([_classes(cut.run(loaded, boundary)) for boundary in block]))
        bar.update(len(block))
    return torch.stack(rows).cpu()


def _classes(logits: Float[Tensor, "B C"]) -> Int16[Tensor, " B"]:
    finite = logits.isfinite().all(1)
    return torch.where(finite, logits.argmax(1), NOT_FINITE).short()


@torch.no_grad()
def predict_plain(
    net: nn.Module, models: Sequence[Model], batches: Batches
) -> Int16[Tensor, "M N"]:
    """What `predict` does, the plain way: load each model into the net, run the whole net.

    The tests hold `predict` to this. `net` is as before afterwards, also if evaluation fails.
    """
    rows = []
    for index in range(len(models)):
        model = models[index]
        parameters = subset_parameters(net, tuple(model))
        check_model(model, parameters)
        before = {name: parameter.clone() for name, parameter in parameters.items()}
        try:
            _copy(model, parameters)
            with eval_mode(net):
                rows.append(torch.cat([_classes(net(images)) for images in batches()]))
        finally:
            _copy(before, parameters)
    return torch.stack(rows).cpu()


def _copy(model: Model, parameters: Model) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(model[name])


def wrong(predictions: Int16[Tensor, "M N"], labels: Int64[Tensor, " N"]) -> Bool[Tensor, "M N"]:
    """True where model m errs on image n."""
    return predictions != labels.to(predictions.device)


def accuracy(predictions: Int16[Tensor, "M N"], labels: Int64[Tensor, " N"]) -> Float[Tensor, " M"]:
    """Share of the images that each model classifies rightly."""
    return (~wrong(predictions, labels)).float().mean(1)

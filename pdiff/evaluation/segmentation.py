"""Evaluation of nets that say the class of every pixel.

Axes: M models, N images, B batch, C classes, H and W pixels.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int16, UInt8
from torch import Tensor, nn

from pdiff.evaluation.cut import Boundary, CutNet, Model
from pdiff.evaluation.predict import NOT_FINITE, Models, blocks
from pdiff.evaluation.predictions import Evaluation, grid
from pdiff.images.batches import ImageSet
from pdiff.images.examples import Examples
from pdiff.images.miou import VOID, confusion, mean_iou
from pdiff.parameters.subset import spread_evenly
from pdiff.system.progress import tqdm
from pdiff.system.speed import measured

Batches = Callable[[Examples], Iterator[tuple[Float[Tensor, "B 3 H W"], UInt8[Tensor, "B H W"]]]]
"""All images of a split in order, normalised, and their label maps."""
Block = list[tuple[Boundary, UInt8[Tensor, "_ H W"]]]
"""Batches at the boundary of prefix and suffix, with their label maps."""
COLUMNS = 5
"""Images in a picture."""


class SegmentationEvaluation(Evaluation):
    """The mean IoU of models on a split, and which images they get right.

    An image is right if the mean IoU of its own classes, and of those that the model says there,
    is `right_from` or more. The net is cut once.
    """

    metric = "mIoU"

    def __init__(
        self,
        net: nn.Module,
        names: Sequence[str],
        images: ImageSet,
        split: str,
        batches: Batches,
        boundary_mib: int,
        right_from: float,
    ) -> None:
        """`split` is `data.split`."""
        super().__init__(images, split)
        self._batches, self._limit, self._right_from = batches, boundary_mib * 2**20, right_from
        example, _ = next(batches(images.validation))
        net.to(memory_format=torch.channels_last)  # resizing takes two thirds of the time
        self._cut = CutNet(net, names, example)
        self._kept: tuple[str, Block] | None = None

    def judge(
        self, split: str, models: Models, progress: str | None = None
    ) -> tuple[Int16[Tensor, "M N"], Float[Tensor, " M"]]:
        """Whether each model gets each image right, and its mean IoU over the split in per cent.

        The whole of an image with logits that are not finite counts as wrong.
        """
        right, pixels, total = [], 0, len(models) * len(getattr(self.images, split))
        with (
            measured(models=len(models), predictions=total),
            tqdm(
                desc=progress, total=total, unit="image", disable=None if progress else True
            ) as bar,
        ):
            for block in self._blocks(split):
                found = [self._of_block(models[m], block, bar) for m in range(len(models))]
                right.append(torch.stack([of_images for of_images, _ in found]))
                pixels = pixels + torch.stack([of_model for _, of_model in found])
        return torch.cat(right, 1).cpu(), 100 * mean_iou(pixels).cpu()

    def _blocks(self, split: str) -> Iterator[Block]:
        """A split at the boundary of prefix and suffix; one that fits whole is kept there."""
        if self._kept and self._kept[0] == split:
            yield self._kept[1]
            return
        self._kept, maps, examples = None, [], getattr(self.images, split)

        def images() -> Iterator[Float[Tensor, "B 3 H W"]]:
            for images, labels in self._batches(examples):
                maps.append(labels)
                yield images

        seen = 0
        for number, block in enumerate(blocks(self._cut, images(), self._limit)):
            # maps may hold those of the next block's first batch too
            held = [(boundary, maps.pop(0)) for boundary in block]
            seen += sum(len(labels) for _, labels in held)
            yield held
            if number == 0 and seen == len(examples):
                self._kept = split, held
            else:
                held.clear()  # before the next block is filled

    @torch.inference_mode()
    def _of_block(
        self, model: Model, block: Block, bar: tqdm
    ) -> tuple[Int16[Tensor, " B"], Tensor]:
        """For each image whether it is right; pixels of all images as `confusion` counts them."""
        loaded = self._cut.load(model)
        right, pixels = [], 0
        for boundary, maps in block:
            found = confusion(self._cut.run(loaded, boundary), maps)
            finite = found[..., -1].sum(1) == 0
            enough = (mean_iou(found) >= self._right_from).short()
            right.append(torch.where(finite, enough, NOT_FINITE))
            pixels = pixels + found.sum(0)
            bar.update(len(maps))
        return torch.cat(right), pixels

    @torch.inference_mode()
    def picture(self, models: Models) -> tuple[UInt8[Tensor, "3 H W"], str]:
        """Rows of images, label maps, maps of the original and maps of the generated model."""
        test = self.images.test
        index = torch.tensor(spread_evenly(len(test), COLUMNS), device=test.labels.device)
        shown = test.take(index)
        images, maps = next(self._batches(shown))
        rows, boundary = [maps.long()], self._cut.prefix(images)
        for model in (models[0], models[1]):
            logits = self._cut.run(self._cut.load(model), boundary)
            rows.append(logits.max(1).indices)
        colours = palette().to(index.device)
        pixels = [
            shown.columns["images"][: len(maps)],
            *(colours[row].permute(0, 3, 1, 2) for row in rows),
        ]
        words = (
            f"{len(maps)} of {len(test)} test images: the images, their label "
            "maps (nearly white does not count), what the first original says, and what the first "
            "generated model says."
        )
        return grid(torch.cat(pixels).float() / 255, len(maps)), words


def palette() -> UInt8[Tensor, "256 3"]:
    """The colours of labels in PASCAL VOC: class 0 black, void (255) nearly white.

    The bits of a label go in turn to red, green and blue, the lowest ones to the highest bits.
    """
    label = torch.arange(VOID + 1)[:, None]
    channel = torch.arange(3)
    bits = [(label >> (3 * i + channel) & 1) << (7 - i) for i in range(8)]
    return sum(bits).to(torch.uint8)

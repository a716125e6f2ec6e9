"""How well a net's label maps agree with those of the images: confusion and mean IoU.

Axes: B batch, C classes, H and W pixels, M any.
"""

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

VOID = 255
"""The label of a pixel that does not count."""


def confusion(
    logits: Float[Tensor, "B C H W"], labels: UInt8[Tensor, "B H W"]
) -> Int64[Tensor, "B C _"]:
    """Pixels of each image by their class and by the class that the net says, (B, C, C + 1).

    The last column counts all pixels of an image with a logit that is not finite. Void pixels,
    labelled `VOID`, are left out.
    """
    count, classes = logits.shape[:2]
    finite = logits.sum((1, 2, 3)).isfinite()
    said = logits.max(1).indices  # ten times as fast as argmax
    said = torch.where(finite[:, None, None], said, classes)
    rows = labels.long().clamp(max=classes)  # void becomes a row of its own
    image = torch.arange(count, device=logits.device)[:, None, None]
    cells = (image * (classes + 1) + rows) * (classes + 1) + said
    found = cells.flatten().bincount(minlength=count * (classes + 1) ** 2)
    return found.view(count, classes + 1, classes + 1)[:, :classes]


def mean_iou(pixels: Int64[Tensor, "*M C _"]) -> Float[Tensor, "*M"]:
    """Mean over the classes of intersection over union, from what `confusion` counts.

    A class that is neither there nor said is left out; NaN if all are.
    """
    classes = pixels.shape[-2]
    both = pixels.diagonal(dim1=-2, dim2=-1)  # (*M, C)
    either = pixels.sum(-1) + pixels.sum(-2)[..., :classes] - both
    return (both / either).nanmean(-1)

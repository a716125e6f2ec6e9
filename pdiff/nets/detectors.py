"""Object detectors: torchvision's FCOS and Faster R-CNN on ResNet-50 or on a small trunk.

Detectors take normalised images (B, 3, H, W), with zeros to the right and below, and each image's
own size without these. What torchvision's `forward` does around it, which resizes, is left out.

Axes: B batch, A positions of all levels of a feature pyramid, D outputs of FCOS at each: a logit
for each class and the background, four edges, one centredness. `Dense` joins A and D to one axis.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import FCOS, FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from pdiff.config import DataConfig
from pdiff.images.examples import Examples
from pdiff.nets.own import build_own, find_own, is_own
from pdiff.nets.registry import load_weights, published, read_state
from pdiff.system.errors import InputError, nearest

Boxes = dict[str, Tensor]
"""Of one image: `boxes` (_, 4), `labels` (_,), which count classes from 1, and where they are
detections `scores` (_,)."""
Sizes = Sequence[tuple[int, int]]
"""Height and width of each image of a batch."""
STRIDE = 32
"""Images are filled up to a multiple of it, as torchvision does."""
CHANNELS, HIDDEN = 64, 128
"""Of the feature pyramid on the small trunk, and of Faster R-CNN's hidden layers there."""
LEVELS = 4
"""Of that pyramid, with strides of 8 to 64."""
HEADS = ("head.classification_head.cls_logits", "roi_heads.box_predictor")
"""Layers whose shape depends on the number of classes, in FCOS and in Faster R-CNN."""
PUBLISHED = ("fcos_resnet50_fpn", "fasterrcnn_resnet50_fpn")
"""What torchvision publishes weights of."""
RESNET50 = {"backbone_name": "resnet50", "weights": None, "trainable_layers": 5}
OUTPUTS = ("cls_logits", "bbox_regression", "bbox_ctrness")
"""What FCOS's head gives, in the order of D."""


class Trunk(nn.Module):
    """MobileNetV1 of a quarter of the width, `examples/mobilenet.py`, with a feature pyramid."""

    out_channels = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        from timm.models import efficientnet  # seconds to import

        self.body = efficientnet._gen_mobilenet_v1(
            "mobilenetv1_100",
            channel_multiplier=0.25,
            act_layer=partial(nn.LeakyReLU, negative_slope=0.1),
            features_only=True,
            out_indices=(2, 3, 4),
        )
        widths = self.body.feature_info.channels()
        self.fpn = FeaturePyramidNetwork(widths, CHANNELS, LastLevelMaxPool())

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> dict[str, Tensor]:
        return self.fpn({str(i): level for i, level in enumerate(self.body(images))})


def _fcos_mobilenet(outputs: int) -> FCOS:
    strides = tuple((8 * 2**level,) for level in range(LEVELS))
    anchors = AnchorGenerator(strides, ((1.0,),) * LEVELS)
    return FCOS(Trunk(), outputs, anchor_generator=anchors)


def _fasterrcnn_mobilenet(outputs: int) -> FasterRCNN:
    sides = tuple((16 * 2**level,) for level in range(LEVELS))
    return FasterRCNN(
        Trunk(),
        rpn_anchor_generator=AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * LEVELS),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(CHANNELS * 7**2, HIDDEN),
        box_predictor=FastRCNNPredictor(HIDDEN, outputs),
    )


def _fcos_resnet50(outputs: int) -> FCOS:
    levels = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
    return FCOS(resnet_fpn_backbone(**RESNET50, **levels), outputs)


def _fasterrcnn_resnet50(outputs: int) -> FasterRCNN:
    norm = partial(FrozenBatchNorm2d, eps=0.0)  # COCO_V1 was trained so
    return FasterRCNN(resnet_fpn_backbone(**RESNET50, norm_layer=norm), outputs)


DETECTORS: dict[str, Callable[[int], FCOS | FasterRCNN]] = {
    "fcos_resnet50_fpn": _fcos_resnet50,
    "fasterrcnn_resnet50_fpn": _fasterrcnn_resnet50,
    "fcos_mobilenet_025": _fcos_mobilenet,
    "fasterrcnn_mobilenet_025": _fasterrcnn_mobilenet,
}
"""Each takes the number of its outputs: classes, and one for the background."""


def check_detector(name: str) -> None:
    """Raise `InputError` with the known names if there is no such detector."""
    if is_own(name):
        find_own(name)
    elif name not in DETECTORS:
        raise InputError(
            f"base.net: unknown detector {name!r}; known are {', '.join(DETECTORS)} and "
            f"FILE.py:NAME{nearest(name, DETECTORS)}"
        )


def build_detector(
    name: str,
    classes: int,
    *,
    frozen_norms: bool,
    pretrained: bool = False,
    weights: Path | None = None,
    new_head: bool = True,
) -> FCOS | FasterRCNN:
    """The detector of that name.

    Args:
        frozen_norms: keep weight and bias of ResNet-50's frozen batch norms as buffers. False
            makes parameters of them, so that they can be trained and generated.
        pretrained: download torchvision's weights COCO_V1.
        weights: start from this state dict instead, of the detector or of its trunk alone.
        new_head: whether layers that depend on the number of classes may stay new.

    Raises:
        InputError: unknown name, or weights that are missing, of another net, for other classes, or
            anything but finite floats.
    """
    check_detector(name)
    outputs = classes + 1
    net = build_own(name, outputs) if is_own(name) else DETECTORS[name](outputs)
    if not isinstance(net, FCOS | FasterRCNN):
        raise InputError(
            f"base.net: {name} makes a {type(net).__name__}; task=detection takes torchvision's "
            "FCOS and FasterRCNN"
        )
    if pretrained:
        if name not in PUBLISHED:
            raise InputError(
                f"base.pretrained: there are no weights of {name} to download; use false"
            )
        _load(net, name, f"COCO_V1 of {name}", published(name, "COCO_V1"), new_head)
    if weights is not None:
        state = read_state(weights, "base.weights", net.state_dict())
        _load(net, name, weights, state, new_head)
    if not frozen_norms:
        _thaw(net)
    return net


def count_classes(state: dict[str, Tensor], net: nn.Module) -> int | None:
    """How many classes the head in a state dict tells apart; None if it holds no head."""
    for key in net.state_dict():
        if key.startswith(HEADS) and key.endswith(("cls_logits.bias", "cls_score.bias")):
            return len(state[key]) - 1 if key in state else None
    return None


def _load(
    net: nn.Module, name: str, source: Path | str, state: Mapping[str, Tensor], new_head: bool
) -> None:
    """Load the weights of a detector, or those of a classifier into its trunk."""
    own, may_be_new = net.state_dict(), HEADS
    if not own.keys() & state.keys():
        trunk = {f"backbone.body.{key}": value for key, value in state.items()}
        state = {key: value for key, value in trunk.items() if key in own}
        may_be_new = tuple(key for key in own if not key.startswith("backbone.body."))
    load_weights(net, name, source, state, may_be_new, new_head)


def _thaw(net: nn.Module) -> None:
    """Make parameters of the weights and biases of frozen batch norms, under the same names."""
    for norm in (m for m in net.modules() if isinstance(m, FrozenBatchNorm2d)):
        for name in ("weight", "bias"):
            value = getattr(norm, name)
            delattr(norm, name)
            norm.register_parameter(name, nn.Parameter(value))


def normalised(
    images: UInt8[Tensor, "B 3 _ _"], sizes: Int64[Tensor, "B 2"], data: DataConfig
) -> Float[Tensor, "B 3 H W"]:
    """What a detector takes: as high and wide as the largest image, up to a multiple of `STRIDE`.

    Zeros, the mean colour, are where an image has no pixels.
    """
    height, width = sizes.amax(0).tolist()
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (data.mean, data.std))
    pixels = (images[..., :height, :width].float() / 255 - mean) / std
    rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
    inside = (rows[:, None] < sizes[:, :1, None]) & (columns < sizes[:, 1:, None])  # (B, H, W)
    return functional.pad(pixels * inside[:, None], (0, -width % STRIDE, 0, -height % STRIDE))


def total_loss(
    net: FCOS | FasterRCNN,
    images: Float[Tensor, "B 3 H W"],
    sizes: Sizes,
    wanted: list[Boxes],
) -> Float[Tensor, ""]:
    """The sum of torchvision's losses of a batch; norms and dropout stay in the mode they are in.

    Only the parts of Faster R-CNN that choose what to return by their mode are put in train mode,
    without what they hold.
    """
    features, listed = net.backbone(images), ImageList(images, list(sizes))
    if isinstance(net, FCOS):
        levels = list(features.values())
        places = [level[0, 0].numel() for level in levels]
        anchors = net.anchor_generator(listed, levels)
        losses = net.compute_loss(wanted, net.head(levels), anchors, places)
        return torch.stack(list(losses.values())).sum()
    before = net.rpn.training, net.roi_heads.training
    net.rpn.training = net.roi_heads.training = True
    proposals, first = net.rpn(listed, features, wanted)
    _, second = net.roi_heads(features, proposals, listed.image_sizes, wanted)
    net.rpn.training, net.roi_heads.training = before
    return torch.stack(list({**first, **second}.values())).sum()


def detect(
    net: FCOS | FasterRCNN,
    images: Float[Tensor, "B 3 H W"],
    sizes: Sizes,
    features: dict[str, Tensor] | None = None,
) -> tuple[list[Boxes], Bool[Tensor, " B"]]:
    """What a net in eval mode finds in each image, and whether all numbers behind it are finite.

    `features` are the backbone's, if they are known.
    """
    features = net.backbone(images) if features is None else features
    if isinstance(net, FCOS):
        levels = list(features.values())
        return read_outputs(net, _joined(net.head(levels)), images, sizes, levels)
    listed = ImageList(images, list(sizes))
    proposals, _ = net.rpn(listed, features)
    found, _ = net.roi_heads(features, proposals, listed.image_sizes)
    finite = [own[key].isfinite().all() for own in found for key in ("boxes", "scores")]
    return found, torch.stack(finite).view(-1, 2).all(1)


def read_outputs(
    net: FCOS,
    outputs: Float[Tensor, "B _"],
    images: Float[Tensor, "_ 3 H W"],
    sizes: Sizes,
    levels: list[Tensor],
) -> tuple[list[Boxes], Bool[Tensor, " B"]]:
    """As `detect`, of the outputs of `Dense`; of images and levels only the shapes are used."""
    places = [level[0, 0].numel() for level in levels]
    anchors = net.anchor_generator(ImageList(images, list(sizes)), levels)
    each = outputs.unflatten(1, (sum(places), -1))  # (B, A, D)
    parts = each.split((each.shape[2] - 5, 4, 1), 2)
    by_level = {key: list(part.split(places, 1)) for key, part in zip(OUTPUTS, parts, strict=True)}
    split_anchors = [list(own.split(places)) for own in anchors]
    found = net.postprocess_detections(by_level, split_anchors, list(sizes))
    return found, outputs.isfinite().all(1)


class Dense(nn.Module):
    """FCOS up to the outputs of its head, as a matrix; the names are those of the whole net."""

    def __init__(self, net: FCOS) -> None:
        super().__init__()
        self.backbone, self.head = net.backbone, net.head

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B _"]:
        return _joined(self.head(list(self.backbone(images).values())))


def _joined(outputs: dict[str, Tensor]) -> Float[Tensor, "B _"]:
    return torch.cat([outputs[key] for key in OUTPUTS], 2).flatten(1)


def stream(
    split: Examples, data: DataConfig, batch_size: int
) -> Iterator[tuple[Float[Tensor, "B 3 H W"], Sizes]]:
    """The images of a split in order, as a detector takes them.

    A batch is filled up to its largest image, as in torchvision: with images of several sizes and
    group norms, results depend a little on `batch_size`.
    """
    for rows in torch.arange(len(split), device=split.labels.device).split(batch_size):
        columns = split.take(rows).columns
        images = normalised(columns["images"], columns["sizes"], data)
        yield images, list(map(tuple, columns["sizes"].tolist()))


def targets(columns: Mapping[str, Tensor]) -> list[Boxes]:
    """The boxes of each image without filling, and without those that are ignored."""
    rows = zip(columns["boxes"], columns["classes"], columns["ignored"], strict=True)
    kept = ((boxes, labels, (labels > 0) & ~ignored) for boxes, labels, ignored in rows)
    return [{"boxes": boxes[own], "labels": labels[own]} for boxes, labels, own in kept]

"""Positions that no logit depends on: they are not computed, and the logits stay the same."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from pdiff.evaluation.predict import CutNet
from tests.toys.nets import assert_logits_equal, noised, products, small_images, small_vit

pytestmark = pytest.mark.filterwarnings("error:.*cannot be cut")

WIDTH, TOKENS = 24, 8


class Tokens(nn.Module):
    """Rows of an image as tokens, a norm and a linear layer on each, and `rest`."""

    def __init__(self, rest) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.rest = nn.LayerNorm(WIDTH), rest
        self.linear, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(images.transpose(1, 2).flatten(2))
        return self.head(self.rest(tokens + functional.gelu(self.linear(tokens))))


RESTS = {
    "the first": (1, lambda x: x[:, 0]),
    "the last": (1, lambda x: x[:, -1]),
    "a slice": (2, lambda x: x[:, 1:3].mean(1)),
    "all but the first": (7, lambda x: x[:, 1:].mean(1)),
    "two of them": (2, lambda x: x[:, 0] + 2 * x[:, 1]),
    "first of a slice": (1, lambda x: x[:, 2:][:, 0]),
    "after a transpose": (1, lambda x: x.transpose(1, 2).relu()[..., 0]),
    "after a reshape": (1, lambda x: x.unflatten(2, (2, 12)).tanh()[:, 5].flatten(1)),
    "after what is not known": (8, lambda x: x.unflatten(2, (2, 12)).flip(2)[:, 5].flatten(1)),
    "times one for all": (1, lambda x: (x * x.new_tensor([[[2.0]]]))[:, 0]),
    "times one for each": (1, lambda x: (x * torch.arange(8.0)[:, None])[:, 3]),
    "mean": (8, lambda x: x.mean(1)),
    "first and mean": (8, lambda x: x[:, 0] + x.mean(1)),
    "mixed first": (8, lambda x: x.cumsum(1)[:, 3]),
    "softmax over tokens": (8, lambda x: x.softmax(1)[:, 3]),
    "mean added": (8, lambda x: (x + x.mean(1, keepdim=True))[:, 0]),
    "every second": (8, lambda x: x[:, ::2].mean(1)),
    "reshape that mixes": (8, lambda x: x.reshape(-1, 4, 48)[:, 0].unflatten(1, (2, 24)).sum(1)),
    "first value of each": (8, lambda x: x[:, :, :3].repeat(1, 1, 8).sum(1)),
    "slice of all": (8, lambda x: x[:, :].sum(1)),
}


@pytest.mark.parametrize("case", RESTS)
def test_logits_stay_the_same_and_only_positions_that_are_used_are_computed(case):
    count, rest = RESTS[case]
    net, names, images = Tokens(rest).eval().requires_grad_(False), ["norm.weight"], small_images()
    cut = CutNet(net, names, images)
    assert_logits_equal(net, names, noised(net, names), images, cut)
    assert products(net, names, images, cut) == count * WIDTH**2 + WIDTH * 5


def test_after_the_last_attention_a_vision_transformer_has_one_token():
    net, images = small_vit(), torch.randn(3, 3, 32, 32)
    names = ["blocks.1.norm2.weight", "norm.weight"]
    cut = CutNet(net, names, images)
    (boundary,) = cut.prefix(images)
    assert boundary.shape == (3, 1, WIDTH)
    assert products(net, names, images, cut) == 8 * WIDTH**2 + WIDTH * 10


class Attentions(TorchDispatchMode):
    """Numbers of queries and keys of every attention."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "scaled_dot_product" in str(function):
            self.seen.append((args[0].shape[2], args[1].shape[2]))
        return function(*args, **kwargs or {})


def test_the_last_attention_of_a_vision_transformer_has_one_query():
    net, names, images = small_vit(), ["blocks.0.norm1.weight"], torch.randn(3, 3, 32, 32)
    cut = CutNet(net, names, images)
    boundary = cut.prefix(images)
    with Attentions() as attentions:
        cut.run(cut.load(noised(net, names)[0]), boundary)
    assert attentions.seen == [(17, 17), (1, 17)]


@pytest.mark.parametrize(
    ("options", "layer"),
    [
        ({}, "patch_embed.proj"),
        ({}, "blocks.0.norm2"),
        ({}, "blocks.1.attn.qkv"),
        ({"global_pool": "avg"}, "blocks.0.norm1"),
        ({"reg_tokens": 2}, "blocks.0.norm1"),
        ({"dynamic_img_size": True}, "blocks.1.norm2"),  # takes images of any size
    ],
)
def test_a_vision_transformers_logits_stay_the_same(options, layer):
    net, names = small_vit(**options), [f"{layer}.weight", f"{layer}.bias"]
    side = 64 if "dynamic_img_size" in options else 32
    models = noised(net, names, (0.0, 4.0 if options else 0.5))
    assert_logits_equal(net, names, models, torch.randn(5, 3, side, side))

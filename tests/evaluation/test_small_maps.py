"""Convolutions of tiny maps: as matrices they are the same, and have no products with padding."""

import pytest
from torch import nn

from tests.toys.nets import assert_logits_equal, noised, products, small_images, small_net

pytestmark = pytest.mark.filterwarnings("error:.*cannot be cut")

MAPS = {1: nn.Conv2d(4, 4, 3), 2: nn.Conv2d(4, 4, 2), 3: nn.Identity()}  # from maps of 3x3


CONVS = [
    nn.Conv2d(4, 4, 3, padding=1),
    nn.Conv2d(4, 6, 3, padding=1, stride=2, bias=False),
    nn.Conv2d(4, 8, 3, padding=1, groups=4),
    nn.Conv2d(4, 6, 3, padding=1, groups=2),
    nn.Conv2d(4, 4, (3, 5), padding=(1, 2)),
    nn.Conv2d(4, 4, (1, 3), padding=(0, 1)),
    nn.Conv2d(4, 4, 3, padding=2, dilation=2),
    nn.Conv2d(4, 4, 2, padding=1, stride=2),
    nn.Conv2d(4, 4, 7, padding=3),
    nn.Conv2d(4, 4, 3, padding=2),
    nn.Conv2d(4, 4, 3, padding="same"),
]
BEFORE, ITSELF = ["0.weight"], ["2.weight"]


@pytest.mark.parametrize(
    ("conv", "side", "names"),
    [  # each convolution once, in turn on maps of each side and in prefix and suffix
        *((conv, i % 3 + 1, (BEFORE, ITSELF)[i % 2]) for i, conv in enumerate(CONVS)),
        (CONVS[0], 2, BEFORE),
        (CONVS[1], 1, BEFORE),
        (CONVS[3], 2, BEFORE),
    ],
    ids=str,
)
def test_convolutions_of_small_maps_equal_the_plain_way(conv, side, names):
    net = small_net(MAPS[side], conv)
    assert_logits_equal(net, names, noised(net, names), small_images())


@pytest.mark.parametrize(
    ("side", "conv", "count"),
    [
        (1, nn.Conv2d(4, 4, 3, padding=1), 4 * 4),
        (2, nn.Conv2d(4, 4, 3, padding=1), 4 * 4 * 16),
        (2, nn.Conv2d(4, 4, 3, padding=1, stride=2), 4 * 4 * 4),
        (3, nn.Conv2d(4, 4, 3, padding=1), 4 * 4 * 9 * 9),  # some with padding: it stays
        (3, nn.Conv2d(4, 4, 7, padding=3), 4 * 4 * 9 * 9),  # without: 441 with it
    ],
    ids=str,
)
def test_products_with_padding_are_left_out_where_a_matrix_has_none(side, conv, count):
    net = small_net(MAPS[side], nn.GroupNorm(1, 4), conv)
    found = products(net, ["2.weight"], small_images())
    assert found == count + net[-1].weight.numel()

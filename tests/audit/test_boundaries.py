"""The plane through three images, and what models predict on it."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from pdiff.audit.boundaries import (
    Boundaries,
    agreement,
    boundary_maps,
    pick_images,
    plane,
    plot_boundaries,
)
from pdiff.images.batches import ImageSplit
from pdiff.parameters.subset import select_subset
from tests.toys.nets import small_net

SIDE = 9


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return small_net(nn.BatchNorm2d(4), nn.ReLU())


@pytest.fixture(scope="module")
def subset(net):
    return select_subset(net, "last_norms:1")


@pytest.fixture(scope="module")
def split(net) -> ImageSplit:
    """Images with the labels that the net itself gives them."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (40, 3, 8, 8), generator=generator).byte()
    pixels = (images.float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        return ImageSplit(images, net(pixels).argmax(1))


@pytest.fixture(scope="module")
def matrices(net, subset) -> tuple[torch.Tensor, torch.Tensor]:
    """Originals around the net's own values; the first generated model is original 3."""
    generator = torch.Generator().manual_seed(0)
    base = torch.cat([value.flatten() for value in subset.read(net).values()])
    originals = base + torch.randn(6, len(base), generator=generator)
    generated = base + torch.randn(4, len(base), generator=generator)
    generated[0] = originals[3]
    return originals, generated


@pytest.fixture(scope="module")
def draw(net, subset, matrices, split, params):
    """`boundary_maps` of these models and images, or of others."""

    def make(originals=matrices[0], generated=matrices[1], split=split) -> Boundaries:
        data = params.data.model_copy(update={"size": 8, "resize": 8})
        options = {"models": 3, "side": SIDE, "batch_size": 20, "boundary_mib": 16}
        return boundary_maps(net, subset, originals, generated, split, data, **options)

    return make


@pytest.fixture(scope="module")
def maps(draw) -> Boundaries:
    return draw()


def test_the_plane_passes_through_its_images(generator):
    images = torch.randn(3, 3, 8, 8, generator=generator)
    points, places = plane(images, 41)  # linear between its points, as a plane is
    grid = points.unflatten(0, (41, 41))
    for image, (x, y) in zip(images, places.tolist(), strict=True):
        column, row = int(x), int(y)
        fx, fy = x - column, y - row
        corner, right, above = grid[row, column], grid[row, column + 1], grid[row + 1, column]
        found = corner + fx * (right - corner) + fy * (above - corner)
        torch.testing.assert_close(found, image, atol=1e-4, rtol=1e-4)


def test_the_plane_keeps_distances(generator):
    images = torch.randn(3, 3, 8, 8, generator=generator)
    points, places = plane(images, SIDE)
    grid = points.unflatten(0, (SIDE, SIDE)).flatten(2)
    step = (grid[0, 1] - grid[0, 0]).norm()
    assert (images[1] - images[0]).norm() == pytest.approx(
        float(step * (places[1, 0] - places[0, 0])), rel=1e-4
    )
    assert torch.dot(grid[0, 1] - grid[0, 0], grid[1, 0] - grid[0, 0]).abs() < 1e-4


def test_images_on_a_line_and_images_that_coincide_have_a_plane():
    one = torch.ones(1, 3, 4, 4)
    for images in (torch.cat([0 * one, one, 2 * one]), one.repeat(3, 1, 1, 1)):
        points, places = plane(images, SIDE)
        assert points.isfinite().all()
        assert places.isfinite().all()


def test_images_of_three_classes_are_picked_among_the_right_ones():
    labels = torch.tensor([0, 0, 1, 1, 2])
    predicted = torch.tensor([1, 0, 1, 1, 2], dtype=torch.int16)
    assert pick_images(predicted, labels) == [1, 2, 4]


def test_with_two_classes_a_second_image_of_one_is_picked():
    labels = torch.tensor([0, 0, 1, 0])
    assert pick_images(labels.short(), labels) == [0, 2, 1]


def test_a_model_agrees_with_itself(maps):
    table = maps.table
    assert table.loc[0, "nearest"] == 3
    assert table.loc[0, "agreement_nearest"] == 1
    assert agreement(torch.zeros(5, dtype=torch.int16), torch.zeros(5, dtype=torch.int16)) == 1


def test_the_maps_are_what_the_net_predicts(maps, net, subset, matrices, split):
    images = (split.images[:20].float() / 255 - 0.5) / 0.5
    picked = pick_images(split.labels[:20].short(), split.labels[:20])
    points, _ = plane(images[picked], SIDE)
    model = {name: t[0] for name, t in subset.unflatten(matrices[0][[3]]).items()}
    with torch.no_grad():
        expected = torch.func.functional_call(net, model, points).argmax(1).view(SIDE, SIDE)
    assert torch.equal(maps.classes[maps.labels.index("original 3")].long(), expected)


def test_agreements_are_shares_of_the_plane(maps):
    classes = dict(zip(maps.labels, maps.classes, strict=True))
    row = maps.table.loc[1]
    ours, ensemble = classes[f"generated {int(row['model'])}"], classes["ensemble"]
    assert row["agreement_ensemble"] == pytest.approx((ours == ensemble).double().mean().item())
    assert maps.table["agreement_originals"].between(0, 1).all()


def test_a_single_original_has_no_other_beside_it(draw, matrices, tmp_path):
    found = draw(originals=matrices[0][:1])
    assert found.table["agreement_originals"].isna().all()
    assert found.table["nearest_to_nearest"].isna().all()
    plot_boundaries(tmp_path / "a.png", found, list("abcde"))
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_generated_models_with_nan_are_passed_over(draw, matrices):
    generated = matrices[1].clone()
    generated[[1, 2], 0] = torch.nan
    assert draw(generated=generated).table["model"].tolist() == [0, 3]


def test_without_three_right_images_there_is_no_plane(draw, split, tmp_path):
    wrong = replace(split, labels=(split.labels + 1) % 5)
    found = draw(split=wrong)
    assert found.table.empty
    assert found.labels == []
    plot_boundaries(tmp_path / "a.png", found, list("abcde"))
    assert (tmp_path / "a.png").stat().st_size > 500


def test_the_figure_is_the_same_each_time(maps, tmp_path):
    for name in ("a.png", "b.png"):
        plot_boundaries(Path(tmp_path / name), maps, list("abcde"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_table_is_plain(maps, tmp_path):
    maps.table.to_csv(tmp_path / "t.csv", index=False)
    assert len(pd.read_csv(tmp_path / "t.csv")) == 3

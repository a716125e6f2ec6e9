"""The models that the audit looks at are those that were evaluated."""

import pytest
import torch

from pdiff.audit.evidence import all_matrices
from pdiff.baselines.originals import from_originals, matrix
from pdiff.baselines.registry import draw_groups, ordered
from pdiff.config import BaselinesConfig, SeedConfig
from pdiff.parameters.subset import Models, Subset

SUBSET = Subset({"x": (6,)})
LATENTS = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
ORIGINALS = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))


def doubled(latents: torch.Tensor):
    """Two copies of latents (M, 3) side by side, in two blocks of columns."""
    yield slice(0, 3), latents
    yield slice(3, 6), latents


def rows(count: int, value: float) -> Models:
    return Models(SUBSET, torch.full((count, 6), value))


@pytest.fixture(scope="module")
def config(tiny) -> BaselinesConfig:
    return tiny.baselines


@pytest.fixture(scope="module")
def found(config) -> dict[str, torch.Tensor]:
    given = {"original": Models(SUBSET, ORIGINALS), "generated": rows(2, 7.0)}
    given |= {"held_back": rows(3, 8.0), "fresh": rows(0, 0.0)}
    seed = SeedConfig(base=3, model=5)
    return all_matrices(given, [0, 4], doubled, LATENTS, config, seed, "vae")


def test_what_needs_the_originals_alone_is_drawn_by_the_seed_of_the_base(found, config):
    expected = from_originals(Models(SUBSET, ORIGINALS), config, 3, audit=True)
    for group, models in expected.items():
        assert torch.equal(found[group], matrix(models)), group
    other = from_originals(Models(SUBSET, ORIGINALS), config, 5, audit=True)["noised_0.05"]
    assert not torch.equal(found["noised_0.05"], matrix(other))


def test_what_the_codec_decodes_is_drawn_by_the_seed_of_the_model(found, config):
    expected = draw_groups(LATENTS, config, 5, audit=True, kind="vae")
    assert "vae_prior" in expected
    for group, latents in expected.items():
        assert torch.equal(found[group], torch.cat([latents, latents], 1)), group
    other = draw_groups(LATENTS, config, 3, audit=True, kind="vae")["latent_gaussian"]
    assert not torch.equal(found["latent_gaussian"][:, :3], other)


def test_what_lies_on_disk_is_taken_as_it_is_and_an_empty_group_left_out(found):
    assert (found["generated"] == 7).all() and (found["held_back"] == 8).all()
    assert "fresh" not in found
    torch.testing.assert_close(found["soup_greedy"][0], ORIGINALS[[0, 4]].mean(0))
    assert list(found) == ordered(found)

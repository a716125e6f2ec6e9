"""The groups that a run has, drawn from the originals and from their latents."""

import pytest
import torch

from pdiff.baselines import originals as module
from pdiff.baselines import registry
from pdiff.baselines.originals import from_originals, generator_of, matrix
from pdiff.config import parse_params
from pdiff.core.runtime import derive_seed
from pdiff.parameters.subset import Models, Subset
from tests.conftest import change

SUBSET = Subset({"a": (3,), "b": (2, 2)})


@pytest.fixture
def config(raw):
    own = {"rival_models": 4, "noised_models": 6, "noise_levels": [0.1], "soups": [2, 5, 9]}
    own |= {"ranks": [1, 3, 4, 9]}
    own |= {"noise_ladder": [0.1, 0.5], "absolute_noise": [0.06, 0.6], "latent_noise": [0.1, 2.0]}
    return parse_params(change(raw, **{f"baselines.{k}": v for k, v in own.items()})).baselines


def some(count, generator) -> Models:
    return Models(SUBSET, torch.randn(count, 7, generator=generator) + 1)


@pytest.fixture
def originals(generator):
    return some(5, generator)


def test_the_groups_of_the_originals_have_names_that_figures_know(originals, config):
    groups = from_originals(originals, config, 0, audit=True)
    fours = ["noised_0.5", "absolute_0.06", "absolute_0.6", "interpolated", "ema"]
    fours += ["gaussian_full", "gaussian_diagonal"]
    fours += ["soup_2", "soup_5"]  # there are no nine originals
    fours += ["projected_1", "projected_3"]  # four components would give the originals back
    sizes = {"original": 5, "ensemble": 1, "noised_0.1": 6}  # of noise_levels, and in the ladder
    assert {name: len(group) for name, group in groups.items()} == sizes | dict.fromkeys(fours, 4)
    for name in groups:
        family, level = registry.split(name)
        assert name in (family, registry.name(family, level))


def test_two_originals_have_all_rivals_but_larger_soups(generator, config):
    groups = from_originals(some(2, generator), config, 0, audit=True)
    assert {"soup_2", "interpolated", "gaussian_full", "gaussian_diagonal"} <= set(groups)
    assert "soup_5" not in groups
    assert all(matrix(group).isfinite().all() for group in groups.values())


def test_the_same_seed_gives_the_same_models_whatever_is_asked_first(originals, config):
    first, other = (from_originals(originals, config, 3, audit=True) for _ in range(2))
    for group in reversed(other.values()):
        group[len(group) - 1]
    for name, group in first.items():
        backwards = [other[name].row(i) for i in reversed(range(len(group)))]
        assert torch.equal(matrix(group), torch.stack(backwards[::-1])), name


def test_more_models_of_a_rival_begin_with_the_same_ones(originals, config):
    more = from_originals(originals, config.model_copy(update={"rival_models": 9}), 0, audit=True)
    for name, group in from_originals(originals, config, 0, audit=True).items():
        anew = registry.split(name)[0] in ("ema", "projected")  # their originals are spread anew
        if name not in ("original", "ensemble") and not anew:
            assert torch.equal(matrix(more[name])[:4], matrix(group)[:4]), name


def test_without_an_audit_there_are_the_papers_groups_alone(originals, config, generator):
    groups = from_originals(originals, config, 0, audit=False)
    assert list(groups) == ["original", "ensemble", "noised_0.1"]
    latents = torch.randn(5, 3, generator=generator)
    groups = registry.draw_groups(latents, config, 0, audit=False, kind="vae")
    assert list(groups) == ["reconstructed"]


def test_the_paper_has_the_levels_of_noise_levels(config):
    groups = ["original", "noised_0.1", "noised_0.5", "soup_2", "generated"]
    shown = [group for group in groups if registry.of_the_paper(group, config)]
    assert shown == ["original", "noised_0.1", "generated"]


def test_every_model_has_a_seed_of_its_own(monkeypatch, originals, config, generator):
    """Also those of two levels of a family: no two groups share their chance."""
    seeds = []

    def spy(seed: int, index: int) -> torch.Generator:
        seeds.append(seed + index)
        return generator_of(seed, index)

    monkeypatch.setattr(module, "generator_of", spy)
    for group in from_originals(originals, config, 7, audit=True).values():
        matrix(group)
    latents = torch.randn(5, 3, generator=generator)
    registry.draw_groups(latents, config, 7, audit=True, kind="vae")
    assert len(seeds) == len(set(seeds)) == 6 + 12 * 4
    first = [("soup", 2), ("noised", "0.5"), ("gaussian_full",), ("vae_prior",)]
    assert {derive_seed(7, *purpose) for purpose in first} < set(seeds)


def test_noise_on_latents_has_its_std_around_originals_that_take_turns(config, generator):
    latents = torch.randn(5, 400, generator=generator)
    config = config.model_copy(update={"rival_models": 10})
    groups = registry.draw_groups(latents, config, 0, audit=True, kind="conv")
    levels = {"reconstructed_noise_0.1", "reconstructed_noise_2"}
    assert set(groups) == levels | {"reconstructed", "latent_gaussian"}
    nearest = torch.cdist(groups["reconstructed_noise_0.1"], latents).argmin(1)
    assert nearest.bincount().tolist() == [2] * 5
    for level in (0.1, 2.0):
        noise = groups[f"reconstructed_noise_{level:g}"] - latents[nearest]
        assert noise.std().item() == pytest.approx(level, rel=0.05)


def test_the_gaussian_of_the_latents_has_their_mean_and_covariance(config, generator):
    latents = torch.randn(4, 2, generator=generator)
    config = config.model_copy(update={"rival_models": 5000})
    drawn = registry.draw_groups(latents, config, 0, audit=True, kind="conv")["latent_gaussian"]
    torch.testing.assert_close(drawn.mean(0), latents.mean(0), rtol=0, atol=0.06)
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(latents.T), rtol=0.1, atol=0.06)


def test_only_a_vae_has_a_prior(config, generator):
    latents = 5 + torch.randn(4, 300, generator=generator)
    groups = registry.draw_groups(latents, config, 0, audit=True, kind="vae")
    assert registry.ordered(groups)[-1] == "vae_prior"
    assert groups["vae_prior"].mean().item() == pytest.approx(0, abs=0.15)
    assert groups["vae_prior"].std().item() == pytest.approx(1, abs=0.1)
    assert "vae_prior" not in registry.draw_groups(latents, config, 0, audit=True, kind="linear")

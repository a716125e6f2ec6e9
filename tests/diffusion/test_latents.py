"""The denoiser with its schedule: samples, and samples that are followed from noise to latent."""

import pytest
import torch

from pdiff.diffusion.denoiser import Denoiser
from pdiff.diffusion.latents import LatentModel, LatentStatistics
from pdiff.diffusion.schedule import Diffusion

LENGTH, TIMESTEPS = 16, 30
MEAN, STD = torch.linspace(-1, 1, LENGTH), torch.linspace(0.5, 2, LENGTH)
STATISTICS = LatentStatistics(MEAN, torch.eye(LENGTH), STD)
DIFFUSION = Diffusion(TIMESTEPS, 1e-4, 0.5, prediction="v")


@pytest.fixture(scope="module")
def model() -> LatentModel:
    torch.manual_seed(0)
    denoiser = Denoiser(LENGTH, (4, 8, 4), 3).eval()
    return LatentModel(denoiser, STATISTICS, DIFFUSION, torch.arange(12) % 4 == 1)


@pytest.fixture
def config(tiny):
    def make(**changes):
        options = {"models": 3, "sampler": "ddpm", "steps": 10, "trajectories": 3}
        return tiny.generate.model_copy(update=options | {"trajectory_every": 7} | changes)

    return make


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, [0, 7, 14, 21, 28, 30]),
        ({"trajectory_every": 10}, [0, 10, 20, 30]),
        ({"trajectory_every": 31}, [0, 30]),
        ({"sampler": "ddim"}, [0, 7, 10]),
        ({"sampler": "ddim", "steps": 1}, [0, 1]),
    ],
)
def test_the_start_every_so_many_steps_and_the_end_are_kept(model, config, changes, steps):
    found, latents = model.follow(config(**changes), seeded())
    assert found.tolist() == steps
    assert latents.shape == (3, len(steps), LENGTH)


def test_a_trajectory_starts_at_noise_in_the_latents_own_space(model, config):
    _, latents = model.follow(config(), seeded())
    noise = torch.randn(3, LENGTH, generator=seeded())
    torch.testing.assert_close(latents[:, 0], noise * STD + MEAN)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("every", [5, 7])
def test_a_trajectory_ends_at_the_sample(model, config, sampler, every):
    """Followed or not: as many from the same seed are the same, bit for bit."""
    chosen = config(sampler=sampler, trajectory_every=every)
    _, latents = model.follow(chosen, seeded())
    assert torch.equal(latents[:, -1], model.sample(chosen, seeded()))
    unfollowed = config(sampler=sampler, trajectories=0)
    assert torch.equal(latents[:, -1], model.sample(unfollowed, seeded()))


def test_without_the_wish_nothing_is_followed(model, config):
    generator = seeded()
    steps, latents = model.follow(config(trajectories=0), generator)
    assert (steps.tolist(), tuple(latents.shape)) == ([], (0, 0, LENGTH))
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_the_prior_knows_no_statistics(model, config):
    sample = model.sample(config(sampler="prior", trajectories=0), seeded())
    assert torch.equal(sample, torch.randn(3, LENGTH, generator=seeded()))


def test_statistics_standardise_and_undo_it(generator):
    latents = torch.randn(50, LENGTH, generator=generator) * STD + MEAN
    latents[:, 3] = 2.5  # does not vary
    statistics = LatentStatistics.fit(latents, "dimension")
    standard = statistics.apply(latents)
    torch.testing.assert_close(standard.mean(0), torch.zeros(LENGTH), atol=1e-5, rtol=0)
    assert standard[:, 3].eq(0).all()
    torch.testing.assert_close(statistics.invert(standard), latents)
    plain = LatentStatistics.fit(latents, "none")
    assert torch.equal(plain.apply(latents), latents)


def test_a_model_on_disk_comes_back(model, config, tmp_path):
    model.save(tmp_path / "model.safetensors")
    again = LatentModel.load(tmp_path / "model.safetensors")
    assert torch.equal(again.sample(config(), seeded()), model.sample(config(), seeded()))
    assert torch.equal(again.held_out, model.held_out)

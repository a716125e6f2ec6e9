import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from pdiff.config import load_params
from pdiff.diffusion.schedule import Diffusion
from pdiff.diffusion.train import train_denoiser
from tests.conftest import ROOT
from tests.toys.training import FakeResume, equal_weights

BETAS = (1e-4, 0.02)
LENGTHS = [10, 100, 1000, 2000]
CHANGES = {"channels": (8, 16, 8), "kernel_size": 3, "timesteps": 100, "steps": 30, "lr": 0.003}
CHANGES |= {"batch_size": 10, "standardise": "none", "prediction": "epsilon", "held_out": 0.0}
CONFIG = load_params(ROOT / "params.yaml").ddpm.model_copy(update=CHANGES | {"ema": 0.0})


def reference(scheduler, timesteps=1000, **arguments):
    """The same diffusion in diffusers, in float64.

    Its own float32 loses the digits of 1 - alpha_bar in the first steps: errors up to 4e-4.
    """
    beta_start, beta_end = BETAS
    diffusers = scheduler(
        timesteps, beta_start=beta_start, beta_end=beta_end, clip_sample=False, **arguments
    )
    diffusers.betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
    diffusers.alphas = 1 - diffusers.betas
    diffusers.alphas_cumprod = diffusers.alphas.cumprod(0)
    return diffusers


def close(ours, theirs, atol=1e-5):
    torch.testing.assert_close(ours, theirs.float(), atol=atol, rtol=1e-5)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def diffusion():
    return Diffusion(1000, *BETAS)


@pytest.mark.parametrize("timesteps", LENGTHS)
def test_noising_and_the_posterior_variance_equal_diffusers(timesteps):
    ours, theirs = Diffusion(timesteps, *BETAS), reference(DDPMScheduler, timesteps)
    arguments = draw(timesteps, 6), draw(timesteps, 6, seed=1), torch.arange(timesteps)
    close(ours.add_noise(*arguments), theirs.add_noise(*arguments))
    expected = torch.stack([theirs._get_variance(t) for t in range(timesteps)])
    close(ours.posterior_variance, expected)


@pytest.mark.parametrize("timesteps", LENGTHS)
def test_each_ddpm_step_equals_diffusers(timesteps):
    ours, theirs = Diffusion(timesteps, *BETAS), reference(DDPMScheduler, timesteps)
    xt, epsilon = draw(4, 6), draw(4, 6, seed=1)
    for t in {0, 1, 2, timesteps // 3, timesteps // 2, timesteps - 1}:
        generator = torch.Generator().manual_seed(7)
        expected = theirs.step(epsilon, t, xt, generator=generator).prev_sample
        close(ours.ddpm_step(xt, epsilon, t, draw(4, 6, seed=7)), expected)


@pytest.mark.parametrize(
    ("timesteps", "steps"), [(10, 1), (10, 10), (100, 7), (1000, 50), (1000, 1000), (2000, 333)]
)
def test_each_ddim_step_equals_diffusers(timesteps, steps):
    ours = Diffusion(timesteps, *BETAS)
    theirs = reference(DDIMScheduler, timesteps, set_alpha_to_one=True)
    stride = timesteps // steps
    theirs.set_timesteps(steps)  # its step goes back by this stride
    xt = draw(4, 6)
    for t in {0, stride - 1, timesteps // 2, timesteps - 1}:
        # epsilon that belongs to an x_0 of ordinary size: float32 leaves 1e-7 / signal in x_0
        epsilon = (xt - ours.signal[t] * draw(4, 6, seed=1)) / ours.noise[t]
        expected = theirs.step(epsilon, t, xt, eta=0.0).prev_sample
        found = ours.ddim_step(xt, epsilon, t, max(t - stride, -1))
        close(found, expected, atol=max(1e-5, 2e-7 / ours.signal[t].item()))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, [9]), (2, [9, 0]), (4, [9, 6, 3, 0]), (5, [9, 7, 5, 2, 0]), (10, [*range(9, -1, -1)])],
)
def test_ddim_steps_reach_both_ends(steps, expected):
    assert Diffusion(10, *BETAS).ddim_timesteps(steps) == expected


@pytest.mark.parametrize("steps", [-1, 0, 11])
def test_impossible_numbers_of_ddim_steps_are_refused(steps):
    with pytest.raises(ValueError, match=f"DDIM takes 1 to 10 steps, not {steps}"):
        Diffusion(10, *BETAS).ddim_timesteps(steps)


def gaussian_epsilon(diffusion, mean, std):
    """The exact E[epsilon | x_t] where the data are N(mean, std^2); std 0 is a single point."""

    def predict(xt, t):
        signal, noise = diffusion.signal[t, None], diffusion.noise[t, None]
        return noise * (xt - signal * mean) / (signal**2 * std**2 + noise**2)

    return predict


def sample(diffusion, predict, shape, sampler="ddpm", steps=50):
    generator = torch.Generator().manual_seed(0)
    *_, last = diffusion.sample(predict, shape, generator, sampler, steps)
    return last


@pytest.mark.parametrize("timesteps", [10, 1000])
@pytest.mark.parametrize(("sampler", "steps"), [("ddpm", 1), ("ddim", 1), ("ddim", 7)])
def test_with_the_true_noise_of_one_point_sampling_ends_there(timesteps, sampler, steps):
    point, diffusion = draw(6), Diffusion(timesteps, *BETAS)
    predict = gaussian_epsilon(diffusion, point, 0.0)
    found = sample(diffusion, predict, (5, 6), sampler, steps)
    atol = 1e-4 if steps == 1 and sampler == "ddim" else 1e-5  # one jump: 1e-7 / signal
    torch.testing.assert_close(found, point.expand(5, 6), atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("sampler", "scheduler", "options"),
    [("ddpm", DDPMScheduler, {}), ("ddim", DDIMScheduler, {"set_alpha_to_one": True})],
)
def test_samplers_equal_diffusers(sampler, scheduler, options):
    """With all T steps, where diffusers' spacing reaches both ends too."""
    ours, theirs = Diffusion(100, *BETAS), reference(scheduler, 100, **options)
    predict = gaussian_epsilon(ours, 2.0, 0.7)
    theirs.set_timesteps(100)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 6, generator=generator)
    for t in theirs.timesteps:
        x = theirs.step(predict(x, t.expand(5)), int(t), x, generator=generator).prev_sample
    close(sample(ours, predict, (5, 6), sampler, 100), x)


def test_the_samplers_call_the_predictor_at_their_steps():
    diffusion, steps = Diffusion(10, *BETAS), []

    def predict(xt, t):
        assert t.unique().numel() == 1
        steps.append(t[0].item())
        return torch.zeros_like(xt)

    sample(diffusion, predict, (3, 2), "ddpm", steps=4)
    sample(diffusion, predict, (3, 2), "ddim", steps=4)
    assert steps == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 9, 6, 3, 0]


def test_the_loss_of_the_true_noise_is_zero_and_of_silence_one_at_steps_drawn_equally(diffusion):
    x0, seen = torch.full((20_000, 1), 0.5), []
    true = gaussian_epsilon(diffusion, 0.5, 0.0)
    generator = torch.Generator().manual_seed(0)
    assert diffusion.loss(true, x0, generator).item() == pytest.approx(0, abs=1e-6)
    silence = diffusion.loss(lambda xt, t: seen.append(t) or 0 * xt, x0, generator).item()
    assert silence == pytest.approx(1, abs=0.05)
    counts = torch.bincount(seen[0] // 100, minlength=10)
    assert len(counts) == 10 and counts.min() > 1800 and counts.max() < 2200


def train(latents=None, seed=0, resume=None, **changes):
    latents = draw(20, 16) if latents is None else latents
    config = CONFIG.model_copy(update=changes)
    generator = torch.Generator().manual_seed(seed)
    return train_denoiser(latents, config, generator, lambda *_: None, resume=resume)


def test_the_seed_alone_decides_about_the_weights_also_of_an_interrupted_training():
    torch.manual_seed(1)
    first, kept = train(steps=5), FakeResume(stop_after=3)
    torch.manual_seed(2)
    with pytest.raises(KeyboardInterrupt):
        train(steps=5, resume=kept)
    assert equal_weights(first, train(steps=5, resume=kept))
    assert not equal_weights(first, train(steps=5, seed=1))


def test_a_trained_denoiser_generates_latents_like_those_it_saw():
    latents = 2 + 0.1 * draw(50, 16)
    model = train(latents, steps=300, batch_size=50)
    found = sample(Diffusion.of(CONFIG), model, (50, 16))
    assert found.mean().item() == pytest.approx(2, abs=0.4)


def test_latents_that_are_not_finite_are_named():
    latents = draw(20, 16)
    latents[[2, 4]] = float("inf")
    with pytest.raises(ValueError, match=r"latents: 2 of 20 rows are not finite: \[2, 4\]"):
        train(latents)


def test_a_predictor_of_v_that_knows_the_point_has_no_loss_and_predicts_the_noise(diffusion):
    point = draw(1, 5)

    def velocity(xt, t):
        noise = (xt - diffusion.signal[t, None] * point) / diffusion.noise[t, None]
        return diffusion.velocity(point.expand_as(xt), noise, t)

    own, of_v = torch.Generator().manual_seed(2), Diffusion(1000, *BETAS, prediction="v")
    assert of_v.loss(velocity, point.expand(50, 5), own) < 1e-6
    assert diffusion.loss(velocity, point.expand(50, 5), own) > 0.1
    noise, t = draw(7, 5, seed=1), torch.tensor([0, 1, 10, 100, 500, 900, 999])
    xt = diffusion.add_noise(point.expand(7, 5), noise, t)
    close(of_v.predicts_noise(velocity)(xt, t), noise, atol=1e-4)


def test_schedule_and_prediction_are_those_of_the_parameters():
    config = CONFIG.model_copy(update={"prediction": "v"})
    names = ("timesteps", "beta_start", "beta_end", "prediction")
    assert Diffusion.of(config).config == {name: getattr(config, name) for name in names}


@pytest.mark.parametrize("anew", [False, True])
def test_the_denoiser_learns_every_latent_equally_often(monkeypatch, anew):
    latents, shown, loss = torch.arange(6.0)[:, None].expand(6, 8).clone(), [], Diffusion.loss

    def spy(self, denoiser, x0, *more):
        shown.append(x0)
        return loss(self, denoiser, x0, *more)

    monkeypatch.setattr(Diffusion, "loss", spy)
    config, own = CONFIG.model_copy(update={"batch_size": 40}), torch.Generator().manual_seed(0)
    encode = (lambda rows: 10 + latents[rows]) if anew else None  # other ones for the same rows
    train_denoiser(latents, config, own, lambda *_: None, encode=encode)
    assert [len(x0) for x0 in shown] == [40] * 30
    counts = (torch.cat(shown)[:, 0].long() - 10 * anew).bincount(minlength=6)
    assert counts.min() > 140 and counts.max() < 260  # 200 each, std 13

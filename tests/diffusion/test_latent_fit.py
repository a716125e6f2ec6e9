"""The fit of a generator: what it must see in one that has learned, not learned, or copied."""

import pytest
import torch

from pdiff.config import GenerateConfig
from pdiff.diffusion.bars import missed_latent_bars
from pdiff.diffusion.denoiser import Denoiser
from pdiff.diffusion.fit import gaussian_predictor, latent_fit, variance_along
from pdiff.diffusion.latents import (
    LatentModel,
    LatentStatistics,
    held_out_rows,
    principal_directions,
)
from pdiff.diffusion.schedule import Diffusion
from pdiff.diffusion.train import train_denoiser

STD = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.01, 0.01])
K, L = 300, len(STD)
DIFFUSION = Diffusion(200, 1e-4, 0.05)


def draw(count: int, seed: int = 0) -> torch.Tensor:
    """From a Gaussian with a mean, and with principal directions that are no dimensions."""
    own = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(L, L, generator=torch.Generator().manual_seed(9)))[0]
    return torch.randn(count, L, generator=own) * STD @ turn.T + 3


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return draw(K)


@pytest.fixture
def bars(params) -> GenerateConfig:
    return params.generate


class Predictor(Denoiser):
    """A function in the place of a trained denoiser."""

    def __init__(self, predict) -> None:
        super().__init__(L, (2, 4, 2), 3)
        self.predict = predict

    def forward(self, x, t):
        return self.predict(x, t)


def fit_of(latents, make, config, standardise="none"):
    """Fit of the generator that `make(scaled latents it may learn from)` returns."""
    held_out = held_out_rows(len(latents), 0.1)
    statistics = LatentStatistics.fit(latents[~held_out], standardise)
    denoiser = make(statistics.apply(latents[~held_out]))
    shape, own = (1000, len(statistics.std)), torch.Generator().manual_seed(3)
    *_, scaled = DIFFUSION.sample(denoiser, shape, own, "ddpm", 1)
    model = LatentModel(denoiser, statistics, DIFFUSION, held_out)
    own.manual_seed(4)
    return latent_fit(model, latents, statistics.invert(scaled), config, own)


def copier(scaled):
    """The exact noise in x_t if x_0 is one of the latents: it draws nothing but these."""

    def predict(xt, t):
        signal, noise = DIFFUSION.signal[t, None], DIFFUSION.noise[t, None]
        distance = torch.cdist(xt / signal, scaled) * signal / noise
        x0 = torch.softmax(-distance.square() / 2, 1) @ scaled
        return (xt - signal * x0) / noise

    return predict


@pytest.mark.parametrize("standardise", ["none", "dimension", "whiten"])
def test_the_true_scores_of_a_gaussian_pass(latents, bars, standardise):
    def oracle(scaled):
        held_out = held_out_rows(K, 0.1)
        statistics = LatentStatistics.fit(latents[~held_out], standardise)
        return Predictor(gaussian_predictor(statistics.apply(draw(100_000, seed=1)), DIFFUSION))

    fit = fit_of(latents, oracle, bars, standardise)
    assert missed_latent_bars(fit, bars) == []
    assert fit["directions"] == 4
    assert fit["outside"] < 0.02
    assert fit["loss_held_out"] == pytest.approx(fit["loss_training"], rel=0.1)


def test_a_denoiser_after_ten_steps_fails(latents, bars, params):
    changes = {"timesteps": DIFFUSION.timesteps, "beta_end": 0.05, "steps": 10}
    changes |= {"channels": (2, 4, 2), "prediction": "epsilon"}
    config = params.ddpm.model_copy(update=changes)

    def train(scaled):
        own = torch.Generator().manual_seed(0)
        return train_denoiser(scaled, config, own, lambda *_: None)

    missed = missed_latent_bars(fit_of(latents, train, bars, "whiten"), bars)
    assert any("generate.variance_ratio: 0.8 to 1.25" in reason for reason in missed)
    assert any("that of a Gaussian" in reason for reason in missed)


def test_one_that_repeats_its_latents_is_told_apart_by_the_held_out_loss(latents, bars):
    fit = fit_of(latents, lambda scaled: Predictor(copier(scaled)), bars)
    assert 0.8 < fit["variance_least"] <= fit["variance_most"] < 1.25
    assert fit["loss_training"] < fit["loss_gaussian"]
    assert fit["loss_held_out"] > 2 * fit["loss_gaussian"]
    assert ["held-out" in reason for reason in missed_latent_bars(fit, bars)] == [True]


def test_variance_along_directions_is_that_of_generated_over_originals(latents):
    _, directions = principal_directions(latents)
    centred = latents - latents.mean(0)
    stretched = centred + (centred @ directions[:, 1:2]) @ directions[:, 1:2].T + 7
    ratios, outside = variance_along(latents, stretched)  # the second direction twice as long
    assert ratios.tolist() == pytest.approx([1, 4, 1, 1], abs=0.01)
    assert outside < 0.01


def test_what_lies_outside_the_leading_directions_is_seen(latents):
    _, directions = principal_directions(latents)
    noise = torch.randn(K, 1, generator=torch.Generator().manual_seed(5)) @ directions[:, 5:].T
    _, outside = variance_along(latents, latents + 3 * noise)
    assert 0.2 < outside < 0.4  # 9 of 9 + 21


def test_whitened_latents_have_no_correlation_and_come_back(latents):
    statistics = LatentStatistics.fit(latents, "whiten")
    white = statistics.apply(latents)
    torch.testing.assert_close(white.T.cov(), torch.eye(L), atol=1e-3, rtol=0)
    torch.testing.assert_close(statistics.invert(white), latents, atol=1e-4, rtol=0)


def test_whitening_leaves_out_what_only_rounding_makes_different(latents):
    flat = latents.clone()
    flat[:, 0] = flat[:, 1]
    statistics = LatentStatistics.fit(flat, "whiten")
    assert statistics.directions.shape == (L, L - 1)
    torch.testing.assert_close(statistics.invert(statistics.apply(flat)), flat, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("count", "share", "rows"), [(20, 0.1, [4, 14]), (6, 0.5, [0, 2, 4]), (300, 0.0, [])]
)
def test_held_out_latents_are_spread_evenly(count, share, rows):
    assert held_out_rows(count, share).nonzero().flatten().tolist() == rows


def test_the_fit_is_measured_on_further_latents_where_few_are_decoded(latents, bars):
    """25 models tell the variance along a direction to a quarter only; 4,000 latents tell it."""
    held_out = held_out_rows(K, 0.1)
    statistics = LatentStatistics.fit(latents[~held_out], "none")
    oracle = Predictor(gaussian_predictor(draw(100_000, seed=1), DIFFUSION))
    model = LatentModel(oracle, statistics, DIFFUSION, held_out)
    few = bars.model_copy(update={"models": 25, "sampler": "ddpm"})
    decoded = model.sample(few, torch.Generator().manual_seed(5))

    def ratios(fit_latents: int | None) -> dict[str, float]:
        config, own = few.model_copy(update={"fit_latents": fit_latents}), torch.Generator()
        return latent_fit(model, latents, decoded, config, own.manual_seed(6))

    spread = variance_along(latents, decoded)[0]
    assert spread.log().abs().max() > 0.25
    assert ratios(None)["variance_least"] == spread.min() != ratios(4000)["variance_least"]
    truth = draw(100_000, seed=1).var(0).sum() / latents.var(0).sum()
    for name in ("variance_least", "variance_most"):
        assert ratios(4000)[name] == pytest.approx(truth.item(), abs=0.2)

import copy
import math

import pytest
import torch

from pdiff.autoencoder.blocks import BatchNorm
from pdiff.autoencoder.codec import reconstruction_error
from pdiff.autoencoder.net import Autoencoder
from pdiff.autoencoder.train import kl_divergence, reparameterise, train_autoencoder
from pdiff.config import NoiseConfig, load_params
from tests.conftest import ROOT
from tests.toys.training import FakeResume, equal_weights

PAPER = ((64, 128, 256, 256, 32), 7)  # channels, kernel size
SMALL = ((4, 8, 4), 3)
CHANGES = {"channels": SMALL[0], "kernel_size": SMALL[1], "latent_dim": 8, "lr": 0.003}
CHANGES |= {"steps": 40, "batch_size": 10}
CONFIG = load_params(ROOT / "params.yaml").autoencoder.model_copy(update=CHANGES)
NOISE = NoiseConfig(param=0.001, latent=0.1)


def toy_matrix(rows=20, length=70):
    factors = torch.randn(rows, 2, generator=torch.Generator().manual_seed(1))
    directions = torch.randn(2, length, generator=torch.Generator().manual_seed(2))
    return factors @ directions


def train(matrix=None, seed=0, log=lambda metrics, step: None, resume=None, noise=NOISE, **changes):
    matrix = toy_matrix() if matrix is None else matrix
    config = CONFIG.model_copy(update=changes)
    generator = torch.Generator().manual_seed(seed)
    return train_autoencoder(matrix, config, noise, generator, log, resume=resume)


def losses(**changes):
    points = []
    train(log=lambda metrics, step: points.append((step, metrics["loss"])), **changes)
    return [loss for _, loss in sorted(points)]


@pytest.fixture
def trained_looking():
    """An autoencoder in eval mode whose batch norms hold no initial values."""
    torch.manual_seed(0)
    model = Autoencoder(70, *SMALL, latent_dim=8)
    for _ in range(3):
        model.decode(model.encode(3 * torch.randn(30, 70) + 1))
    for module in model.modules():
        if isinstance(module, BatchNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias)
    return model.eval()


@pytest.mark.parametrize(
    ("length", "latent_dim", "variance_head", "parameters"),
    [
        (2048, 128, False, 2_182_689),
        (2048, 128, True, 2_199_201),
        (768, 128, True, 1_870_241),
        (80714, 768, True, 126_962_081),
        (9408, 1024, True, 23_016_929),
    ],
)
def test_parameter_counts_equal_the_authors(length, latent_dim, variance_head, parameters):
    with torch.device("meta"):
        model = Autoencoder(length, *PAPER, latent_dim, variance_head=variance_head)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("length", [1, 63, 64, 65, 70, 128])
def test_vectors_of_any_length_keep_it_and_are_padded_with_zeros(length):
    model, x = Autoencoder(length, *SMALL, latent_dim=8), torch.randn(3, length)
    latents = model.encode(x)
    assert (latents.shape, model.decode(latents).shape) == ((3, 8), (3, length))
    values, padding = model.pad(x).split([length, -length % 64], 1)
    assert torch.equal(values, x) and not padding.any()


@pytest.mark.parametrize(
    ("length", "depth", "padded"), [(64, 3, 64), (65, 3, 128), (80714, 5, 80768), (130, 7, 256)]
)
def test_padding_reaches_a_multiple_of_64_and_of_the_stride(length, depth, padded):
    with torch.device("meta"):
        assert Autoencoder(length, (2,) * depth, 3, latent_dim=4).padded_length == padded


@pytest.mark.parametrize("variance_head", [False, True])
def test_every_parameter_gets_a_gradient(variance_head):
    torch.manual_seed(0)
    model = Autoencoder(70, *SMALL, latent_dim=8, variance_head=variance_head)
    z, log_variance = model.posterior(model.pad(torch.randn(5, 70)))
    if variance_head:
        z = reparameterise(z, log_variance, torch.randn(5, 8))
    model.decode_padded(z).square().mean().backward()
    assert [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()
    ] == []


def test_norms_are_the_authors_modes_without_touching_the_statistics(trained_looking):
    """batch: training mode; sample: training mode with batches of one; running: eval mode."""
    model, before = trained_looking, copy.deepcopy(trained_looking.state_dict())
    x, z = torch.randn(20, 70), torch.randn(200, 8) * torch.linspace(0.1, 5, 200)[:, None]
    expected = {"running": (model.encode(x), model.decode(z))}
    expected |= {"batch": (model.train().encode(x), model.decode(z))}
    expected |= {"sample": (None, torch.cat([model.decode(row[None]) for row in z]))}
    for mode in (model.train, model.eval):
        model.load_state_dict(before)
        mode()
        for norm, (encoded, decoded) in expected.items():
            if encoded is not None:
                torch.testing.assert_close(model.encode(x, norm), encoded, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(model.decode(z, norm), decoded, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(model.state_dict(), before, atol=0, rtol=0)


def test_kl_divergence_equals_torchs_and_is_zero_for_the_prior():
    mean, log_variance = torch.randn(5, 7), torch.randn(5, 7)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(posterior, prior).sum(1).mean()
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)
    assert kl_divergence(torch.zeros(3, 4), torch.zeros(3, 4)) == 0


def test_the_loss_falls_and_the_reconstruction_beats_the_mean():
    matrix = toy_matrix()
    points = []
    model = train(matrix, steps=200, log=lambda metrics, step: points.append(metrics["loss"]))
    assert sum(points[-10:]) < 0.5 * sum(points[:10])
    with torch.no_grad():
        decoded = model.decode(model.encode(matrix, "batch"))
    assert reconstruction_error([(matrix, decoded)])["r2"] > 0.3


@pytest.fixture
def decoded(monkeypatch) -> list[torch.Tensor]:
    """What reaches the decoder, which answers 0 to everything."""
    seen = []

    def zeros(self, z, norm=None):
        seen.append(z.detach())
        return z.sum(1, keepdim=True).expand(-1, self.padded_length) * 0

    monkeypatch.setattr(Autoencoder, "decode_padded", zeros)
    return seen


@pytest.mark.parametrize("length", [1, 640])
def test_the_target_is_the_input_with_its_padding_and_noise_of_the_given_std(decoded, length):
    """A net that answers 0 has the loss of the noise: its variance."""
    noise = NoiseConfig(param=3.0, latent=0.0)
    found = losses(matrix=torch.zeros(20, length), steps=100, noise=noise)
    assert sum(found) / len(found) == pytest.approx(9.0, rel=0.03)


def test_latent_noise_reaches_the_decoder(decoded):
    for latent in (0.0, 2.0):
        train(batch_size=500, steps=1, noise=NoiseConfig(param=0.0, latent=latent))
    assert (decoded[1] - decoded[0]).std().item() == pytest.approx(2.0, rel=0.05)


def test_a_vae_draws_latents_with_its_own_mean_and_std(decoded, monkeypatch):
    """With mean 1 and variance 9 the decoder sees N(1, 9)."""

    def posterior(self, padded, norm=None):
        mean = torch.ones(len(padded), self.mean.out_features, requires_grad=True)
        return mean, torch.full_like(mean, math.log(9.0))

    monkeypatch.setattr(Autoencoder, "posterior", posterior)
    train(kind="vae", batch_size=500, steps=2)
    assert decoded[0].mean().item() == pytest.approx(1.0, abs=0.2)
    assert decoded[0].std().item() == pytest.approx(3.0, rel=0.05)
    assert not torch.equal(*decoded)


@pytest.mark.parametrize("kind", ["conv", "vae"])
def test_the_seed_alone_decides_about_the_weights_also_of_an_interrupted_training(kind):
    torch.manual_seed(1)
    first, kept = train(steps=5, kind=kind), FakeResume(stop_after=3)
    torch.manual_seed(2)
    with pytest.raises(KeyboardInterrupt):
        train(steps=5, kind=kind, resume=kept)
    assert equal_weights(first, train(steps=5, kind=kind, resume=kept))
    assert not equal_weights(first, train(steps=5, kind=kind, seed=1))


def test_the_kl_weight_draws_the_vae_towards_the_prior():
    def divergence(kl_weight):
        matrix = toy_matrix()
        model = train(matrix, kind="vae", kl_weight=kl_weight, steps=100, lr=0.01)
        with torch.no_grad():
            return kl_divergence(*model.posterior(model.pad(matrix), "batch")).item()

    assert divergence(10.0) < 0.2 * divergence(0.0)


@pytest.mark.parametrize("kind", ["conv", "vae"])
@pytest.mark.parametrize("changes", [{"checkpointing": True}, {"micro_batch": 3}], ids=str)
def test_training_with_less_memory_has_the_same_losses(kind, changes):
    expected, found = losses(kind=kind, steps=5), losses(kind=kind, steps=5, **changes)
    assert found == pytest.approx(expected, rel=1e-4)


def test_checkpoints_that_are_not_finite_are_named():
    matrix = toy_matrix()
    matrix[3, 5] = float("nan")
    with pytest.raises(ValueError, match=r"checkpoints: 1 of 20 rows are not finite: \[3\]"):
        train(matrix)

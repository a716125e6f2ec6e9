import json
import math

import pytest
import torch

from pdiff.autoencoder.blocks import BatchNorm
from pdiff.autoencoder.codec import reconstruction_error
from pdiff.autoencoder.net import Autoencoder
from pdiff.autoencoder.train import kl_divergence, reparameterise, train_autoencoder
from pdiff.config import AutoencoderConfig, NoiseConfig
from tests.toys.training import FakeResume, equal_weights, one_thread  # noqa: F401

PAPER = ((64, 128, 256, 256, 32), 7)  # channels, kernel size
SMALL = ((4, 8, 4), 3)
CONFIG = AutoencoderConfig(
    kind="conv",
    normalise="tensor",
    channels=SMALL[0],
    kernel_size=SMALL[1],
    latent_dim=8,
    steps=40,
    batch_size=10,
    optimizer="adamw",
    lr=0.003,
    weight_decay=0.01,
    checkpointing=False,
    micro_batch=None,
    kl_weight=1.0,
    encode_norm="batch",
    decode_norm="sample",
    min_r2=0.0,
)
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
        model(3 * torch.randn(30, 70) + 1)
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
        (3072, 128, True, 2_462_369),
        (4096, 128, True, 2_725_537),
        (5120, 128, True, 2_988_705),
        (24262, 768, True, 40_201_505),
        (25138, 768, True, 41_480_289),
        (66970, 768, True, 105_812_961),
        (74970, 768, True, 118_108_961),
        (80714, 768, True, 126_962_081),
        (10853, 256, True, 7_352_993),
        (9408, 1024, True, 23_016_929),
        (51300, 512, True, 54_776_737),
    ],
)
def test_parameter_counts_equal_the_authors(length, latent_dim, variance_head, parameters):
    with torch.device("meta"):
        model = Autoencoder(length, *PAPER, latent_dim, variance_head=variance_head)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("length", [1, 63, 64, 65, 70, 128])
def test_vectors_of_any_length_keep_it(length):
    model = Autoencoder(length, *SMALL, latent_dim=8)
    x = torch.randn(3, length)
    assert model.encode(x).shape == (3, 8)
    assert model(x).shape == (3, length)


@pytest.mark.parametrize(
    ("length", "depth", "padded"), [(64, 3, 64), (65, 3, 128), (80714, 5, 80768), (130, 7, 256)]
)
def test_padding_reaches_a_multiple_of_64_and_of_the_stride(length, depth, padded):
    with torch.device("meta"):
        assert Autoencoder(length, (2,) * depth, 3, latent_dim=4).padded_length == padded


def test_padding_is_zeros_at_the_end():
    x = torch.randn(2, 70)
    padded = Autoencoder(70, *SMALL, latent_dim=8).pad(x)
    assert torch.equal(padded[:, :70], x)
    assert padded.shape == (2, 128) and not padded[:, 70:].any()


def test_the_padding_is_part_of_the_loss():
    only_padding = losses(matrix=torch.zeros(20, 1), noise=NoiseConfig(param=1.0, latent=0.0))
    assert only_padding[-1] > 0.5  # 63 of the 64 targets are noise, which nothing can predict


def test_config_survives_json_and_rebuilds_the_model():
    model = Autoencoder(70, *SMALL, latent_dim=8, variance_head=True)
    copy = Autoencoder(**json.loads(json.dumps(model.config())))
    copy.load_state_dict(model.state_dict())
    assert copy.config() == model.config()


@pytest.mark.parametrize("variance_head", [False, True])
def test_every_parameter_gets_a_gradient(variance_head):
    torch.manual_seed(0)
    model = Autoencoder(70, *SMALL, latent_dim=8, variance_head=variance_head)
    mean, log_variance = model.posterior(model.pad(torch.randn(5, 70)))
    if log_variance is not None:
        mean = reparameterise(mean, log_variance, torch.randn(5, 8))
    model.decode_padded(mean).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_sample_norm_decodes_a_batch_as_one_at_a_time(trained_looking):
    z = torch.randn(200, 8) * torch.linspace(0.1, 5, 200)[:, None]
    singly = torch.cat([trained_looking.decode(row[None], "sample") for row in z])
    torch.testing.assert_close(trained_looking.decode(z, "sample"), singly, atol=1e-5, rtol=1e-4)


def test_sample_norm_is_the_authors_training_mode_with_batches_of_one(trained_looking):
    z = torch.randn(5, 8)
    ours = trained_looking.decode(z, "sample")
    trained_looking.train()
    authors = torch.cat([trained_looking.decode(row[None]) for row in z])
    torch.testing.assert_close(ours, authors, atol=1e-5, rtol=1e-4)


def test_batch_norm_mode_is_training_mode_without_touching_the_statistics(trained_looking):
    x = torch.randn(20, 70)
    before = {name: value.clone() for name, value in trained_looking.state_dict().items()}
    ours = trained_looking.encode(x, "batch")
    assert all(torch.equal(v, before[k]) for k, v in trained_looking.state_dict().items())
    torch.testing.assert_close(ours, trained_looking.train().encode(x), atol=1e-5, rtol=1e-4)


def test_running_norm_is_eval_mode(trained_looking):
    x = torch.randn(20, 70)
    expected = trained_looking.eval()(x)
    trained_looking.train()
    z = trained_looking.encode(x, "running")
    torch.testing.assert_close(trained_looking.decode(z, "running"), expected)


def test_the_three_norms_differ(trained_looking):
    z = torch.randn(20, 8)
    batch, sample, running = (trained_looking.decode(z, n) for n in ("batch", "sample", "running"))
    for a, b in ((batch, sample), (sample, running), (batch, running)):
        assert (a - b).abs().max() > 0.01


def test_kl_divergence_has_the_known_values():
    zero, one = torch.zeros(3, 4), torch.ones(3, 4)
    assert kl_divergence(zero, zero).item() == 0
    assert kl_divergence(2 * one, zero).item() == pytest.approx(4 * 2.0)  # mean^2 / 2 each
    expected = 4 * (4 - 1 - math.log(4)) / 2  # std 2
    assert kl_divergence(zero, math.log(4) * one).item() == pytest.approx(expected)


def test_kl_divergence_equals_torchs():
    mean, log_variance = torch.randn(5, 7), torch.randn(5, 7)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(posterior, prior).sum(1).mean()
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)


def test_reparameterised_draws_have_the_posteriors_mean_and_std():
    mean, log_variance = torch.full((2, 2), 3.0), torch.full((2, 2), math.log(25.0))
    noise = torch.tensor([[0.0, 1.0], [-1.0, 2.0]])
    expected = torch.tensor([[3.0, 8.0], [-2.0, 13.0]])
    torch.testing.assert_close(reparameterise(mean, log_variance, noise), expected)


def test_the_loss_falls_and_the_reconstruction_beats_the_mean():
    matrix = toy_matrix()
    points = []
    model = train(matrix, steps=200, log=lambda metrics, step: points.append(metrics["loss"]))
    assert sum(points[-10:]) < 0.5 * sum(points[:10])
    with torch.no_grad():
        decoded = model.decode(model.encode(matrix, "batch"))
    assert reconstruction_error([(matrix, decoded)])["r2"] > 0.3


def test_the_target_is_the_noised_input():
    """With much noise the clean target costs at least the noise that gets through."""
    matrix, noise = torch.zeros(20, 64), NoiseConfig(param=1.0, latent=0.0)
    first = losses(matrix=matrix, noise=noise)[0]
    assert first > 0.9  # against the clean zeros an untrained net would be near 0.1


def test_the_noise_levels_are_standard_deviations(monkeypatch):
    """A net that ignores its input has the loss of the noise: its variance."""
    monkeypatch.setattr(Autoencoder, "decode_padded", zero_decoder)
    noised = losses(matrix=torch.zeros(20, 640), steps=20, noise=NoiseConfig(param=3.0, latent=0.0))
    assert sum(noised) / len(noised) == pytest.approx(9.0, rel=0.03)


def zero_decoder(self, z, norm=None):
    return z.sum(1, keepdim=True).expand(-1, self.padded_length) * 0


def test_latent_noise_reaches_the_decoder(monkeypatch):
    seen = []

    def spy(self, z, norm=None):
        seen.append(z.detach())
        return zero_decoder(self, z, norm)

    monkeypatch.setattr(Autoencoder, "decode_padded", spy)
    for latent in (0.0, 2.0):
        train(batch_size=500, steps=1, noise=NoiseConfig(param=0.0, latent=latent))
    assert (seen[1] - seen[0]).std().item() == pytest.approx(2.0, rel=0.05)


def test_a_vae_draws_latents_with_its_own_std(monkeypatch):
    """With mean 0 and variance 9 the decoder sees N(0, 9)."""
    seen = []

    def posterior(self, padded, norm=None):
        mean = torch.zeros(len(padded), self.mean.out_features, requires_grad=True)
        return mean, torch.full_like(mean, math.log(9.0))

    def spy(self, z, norm=None):
        seen.append(z.detach())
        return zero_decoder(self, z, norm)

    monkeypatch.setattr(Autoencoder, "posterior", posterior)
    monkeypatch.setattr(Autoencoder, "decode_padded", spy)
    train(kind="vae", batch_size=500, steps=2)
    assert seen[0].mean().abs() < 0.2 and seen[0].std().item() == pytest.approx(3.0, rel=0.05)
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("kind", ["conv", "vae"])
def test_the_same_seed_gives_the_same_weights(kind):
    torch.manual_seed(1)
    first = train(steps=5, kind=kind)
    torch.manual_seed(2)
    assert equal_weights(first, train(steps=5, kind=kind))
    assert not equal_weights(first, train(steps=5, kind=kind, seed=1))


def test_the_kl_weight_draws_the_vae_towards_the_prior():
    def divergence(kl_weight):
        matrix = toy_matrix()
        model = train(matrix, kind="vae", kl_weight=kl_weight, steps=100, lr=0.01)
        with torch.no_grad():
            return kl_divergence(*model.posterior(model.pad(matrix), "batch")).item()

    assert divergence(10.0) < 0.2 * divergence(0.0)


@pytest.mark.parametrize(
    "changes",
    [{"kind": "conv"}, {"kind": "vae"}, {"optimizer": "adafactor"}, {"micro_batch": 3}],
    ids=str,
)
def test_an_interrupted_training_ends_with_the_same_weights(changes):
    resume, changes = FakeResume(stop_after=7), {"steps": 10, **changes}
    with pytest.raises(KeyboardInterrupt):
        train(resume=resume, **changes)
    assert equal_weights(train(resume=resume, **changes), train(**changes))


@pytest.mark.parametrize("kind", ["conv", "vae"])
@pytest.mark.parametrize("changes", [{"checkpointing": True}, {"micro_batch": 3}], ids=str)
def test_training_with_less_memory_has_the_same_losses(kind, changes):
    expected, found = losses(kind=kind, steps=5), losses(kind=kind, steps=5, **changes)
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_trained_autoencoder_is_in_eval_mode():
    assert not train(steps=1).training


def test_checkpoints_that_are_not_finite_are_named():
    matrix = toy_matrix()
    matrix[3, 5] = float("nan")
    with pytest.raises(ValueError, match=r"checkpoints: 1 of 20 rows are not finite: \[3\]"):
        train(matrix)

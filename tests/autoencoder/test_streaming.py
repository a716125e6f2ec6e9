"""Checkpointed and streamed chains of blocks against the plain ones."""

import pytest
import torch
import torch.nn.functional as F

from pdiff.autoencoder import low_memory as streaming
from pdiff.autoencoder.net import Autoencoder
from pdiff.autoencoder.train import kl_divergence, reparameterise

SMALL = ((4, 8, 4), 3)
PAPER = ((64, 128, 256, 256, 32), 7)
MODES = [{"checkpointing": True}, *({"micro_batch": size} for size in (1, 3, 10))]
PLAIN = {}


def five_steps(
    mode,
    dtype=torch.float64,
    *,
    length=70,
    shape=SMALL,
    latent_dim=8,
    batch=10,
    variance_head=False,
    bfloat16=False,
):
    """Losses, gradients and final state of five steps, by name."""
    torch.manual_seed(0)
    model = Autoencoder(length, *shape, latent_dim, variance_head=variance_head).to(dtype).train()
    model.save_memory(**mode)
    for block in (*model.encoder, *model.decoder):
        torch.nn.init.uniform_(block.norm.weight, 0.5, 2)
        torch.nn.init.normal_(block.norm.bias)
    updates = torch.optim.SGD(model.parameters(), lr=1e-3)
    found = {}
    for step in range(5):
        x = (step + 1) * model.pad(torch.randn(batch, length, dtype=dtype))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            z, log_variance = model.posterior(x)
            if log_variance is not None:
                z = reparameterise(z, log_variance, torch.randn(batch, latent_dim, dtype=dtype))
            y = model.decode_padded(z)
        loss = F.mse_loss(y.to(dtype), x)
        if log_variance is not None:
            loss = loss + kl_divergence(z, log_variance)
        updates.zero_grad()
        loss.backward()
        found[f"{step} loss"] = loss.detach()
        found |= {f"{step} {name}": p.grad.clone() for name, p in model.named_parameters()}
        updates.step()
    return found | {f"end {name}": value for name, value in model.state_dict().items()}


def assert_equal(found, expected, tolerance):
    """Every number within `tolerance` of the largest in its tensor.

    The gradient of a bias before a batch norm is zero but for rounding.
    """
    assert found.keys() == expected.keys()
    for name in expected:
        zero = name.endswith("conv.bias") and not name.startswith("end")
        size = 1.0 if zero else expected[name].abs().max()
        error = (found[name] - expected[name]).abs().max() / size
        assert error <= tolerance, f"{name}: {error}"


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize(
    ("variance_head", "dtype", "tolerance"),
    [(False, torch.float64, 1e-12), (True, torch.float64, 1e-12), (False, torch.float32, 3e-5)],
)
def test_losses_gradients_and_statistics_equal_the_plain_ways(
    mode, variance_head, dtype, tolerance
):
    expected = five_steps(PLAIN, dtype, variance_head=variance_head)
    assert_equal(five_steps(mode, dtype, variance_head=variance_head), expected, tolerance)


def test_checkpointing_is_equal_to_the_last_bit():
    expected = five_steps(PLAIN, torch.float32, bfloat16=True)
    found = five_steps({"checkpointing": True}, torch.float32, bfloat16=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_streaming_runs_in_the_precision_of_the_forward_pass():
    """bfloat16 has three digits; a backward pass in another precision would lose no more."""
    expected = five_steps(PLAIN, torch.float32, bfloat16=True)
    found = five_steps({"micro_batch": 3}, torch.float32, bfloat16=True)
    first = {name: value for name, value in expected.items() if name.startswith("0 ")}
    assert_equal({name: found[name] for name in first}, first, 0.03)
    exact = five_steps(PLAIN, torch.float32)
    assert found["0 loss"] != exact["0 loss"]


def test_streaming_keeps_the_input_alone_and_can_go_back_twice():
    """Of the whole batch nothing else is saved for the backward pass."""
    model = Autoencoder(70, *SMALL, latent_dim=8).train()
    x, kept = torch.randn(10, 4, 16, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        end = streaming.streamed(model.decoder, model.output, x, 3).square().sum()
    assert [t for t in kept if t.shape == x.shape] == [x]
    first, again = (torch.autograd.grad(end, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again) and first.any()


@pytest.mark.parametrize("mode", [{"checkpointing": True}, {"micro_batch": 1}], ids=str)
@pytest.mark.parametrize(
    ("length", "latent_dim", "batch"),
    [
        pytest.param(2048, 128, 4, marks=pytest.mark.nightly),
        pytest.param(30016, 256, 2, marks=pytest.mark.nightly),
    ],
)
def test_the_papers_nets_train_the_same(mode, length, latent_dim, batch):
    size = {"length": length, "shape": PAPER, "latent_dim": latent_dim, "batch": batch}
    assert_equal(five_steps(mode, **size), five_steps(PLAIN, **size), 1e-10)

import math

import pytest
import torch

from pdiff.diffusion.denoiser import Denoiser, timestep_embedding

PAPER = (64, 128, 256, 512, 256, 128, 64)
QUICK = (16, 32, 64, 128, 64, 32, 16)


@pytest.mark.parametrize(
    ("latent_dim", "parameters"),
    [(128, 2_462_977), (256, 2_545_153), (512, 2_807_809), (768, 3_201_537), (1024, 3_726_337)],
)
def test_parameter_counts_equal_the_authors(latent_dim, parameters):
    with torch.device("meta"):
        model = Denoiser(latent_dim, PAPER, 7)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("channels", [(4,), (4, 8, 4), (4, 8, 6, 8, 4), QUICK])
def test_any_odd_symmetric_list_of_widths_runs(channels):
    x, t = torch.randn(3, 20), torch.randint(1000, (3,))
    assert Denoiser(20, channels, 3)(x, t).shape == (3, 20)


@pytest.mark.parametrize("channels", [(), (4, 4), (4, 8, 8, 4), (4, 8, 5)])
def test_other_widths_are_refused(channels):
    with pytest.raises(ValueError, match="symmetric and odd in number, not"):
        Denoiser(20, channels, 3)


def test_the_embedding_has_cosines_first_then_sines():
    embedding = timestep_embedding(torch.tensor([0, 3]))
    assert embedding.shape == (2, 256)
    assert torch.equal(embedding[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    for i in (0, 1, 64, 127):
        angle = 3 * 10000 ** (-i / 128)
        assert embedding[1, i].item() == pytest.approx(math.cos(angle), abs=1e-5)
        assert embedding[1, 128 + i].item() == pytest.approx(math.sin(angle), abs=1e-5)


def test_each_convolution_gets_the_time_vector_and_its_skip():
    """Convolutions from 1: outputs of 3, 2, 1 are added to the inputs of 6, 7, 8."""
    torch.manual_seed(0)
    model, traffic = Denoiser(20, QUICK, 7).eval(), []
    for layer in (*model.blocks, model.output):
        layer.register_forward_hook(lambda _, args, out: traffic.append((args[0], out)))
    x, t = torch.randn(5, 20), torch.randint(1000, (5,))
    model(x, t)
    time = model.time(timestep_embedding(t))[:, None]
    assert time.abs().max() > 0.01
    skips = {6: 3, 7: 2, 8: 1}
    for number in range(1, 9):
        expected = traffic[number - 2][1] if number > 1 else x[:, None]
        if number in skips:
            expected = expected + traffic[skips[number] - 1][1]
        torch.testing.assert_close(traffic[number - 1][0], expected + time)

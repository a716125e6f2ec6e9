"""Rivals of zoos: what kernel densities draw, what validation images choose, what is trained."""

import pytest
import torch

from pdiff.baselines import zoos
from pdiff.baselines.originals import from_originals, matrix
from pdiff.baselines.registry import draw_groups
from pdiff.baselines.zoos import Tokens, WholeNets, Zoo, kde, keep_best, token_index
from pdiff.config import parse_params
from pdiff.parameters.align import Chain
from pdiff.parameters.subset import Models, Subset
from tests.conftest import change, composed

SUBSET = Subset({"a.weight": (3, 2), "a.bias": (3,), "b.weight": (2, 3), "b.bias": (2,)})
LATENTS = torch.randn(7, 5, 2, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def config():
    own = {"baselines.zoo": {"steps": 30, "kde_seed": "shared"}, "baselines.rival_models": 12}
    raw = change(composed("data=digits", "net=cnn_small", "checkpoints=zoo"), **own)
    return parse_params(raw).baselines


@pytest.fixture(scope="module")
def zoo():
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(20, SUBSET.length, generator=random)
    return Zoo(Models(SUBSET, rows), torch.arange(20) / 20)


def test_a_shared_seed_gives_a_training_latent_plus_one_constant(generator):
    drawn = kde(LATENTS[..., :1], 0.1, 50, generator, shared=True)
    for sample in drawn:
        offsets = sample - LATENTS[..., :1]  # (K, P, 1)
        assert offsets.std(1).min() < 1e-6  # of one latent they are all the same number
    assert (drawn.std(0) > 0.1).all()


def test_a_shared_seed_adds_one_vector_to_every_token_of_a_training_latent(generator):
    offsets = kde(LATENTS, 0.1, 1, generator, shared=True) - LATENTS  # (K, P, W)
    spread = offsets.std(1).amax(1)
    assert spread.min() < 1e-6 and spread.sort().values[1] > 0.1
    vector = offsets[spread.argmin(), 0]
    assert vector[0] != vector[1]


def test_an_independent_seed_mixes_latents_and_has_their_mean_and_spread(generator):
    drawn = kde(LATENTS, 0.5, 4000, generator, shared=False)
    torch.testing.assert_close(drawn.mean(0), LATENTS.mean(0), atol=0.08, rtol=0)
    wanted = (LATENTS.var(0, correction=0) + 0.25).sqrt()
    torch.testing.assert_close(drawn.std(0), wanted, atol=0.08, rtol=0)
    assert (drawn[:20, None] - LATENTS).std(2).min() > 1e-3


def test_a_token_is_a_neuron_with_its_bias_last():
    expected = [[0, 1, 6, 17], [2, 3, 7, 17], [4, 5, 8, 17], [9, 10, 11, 15], [12, 13, 14, 16]]
    assert token_index(SUBSET).tolist() == expected


def test_tokens_and_whole_nets_come_back_with_their_numbers_in_place():
    torch.manual_seed(0)
    nets = torch.randn(3, SUBSET.length)
    tokens = Tokens(SUBSET, width=8, latent=2)
    tokens.into = tokens.encoder = tokens.decoder = torch.nn.Identity()
    assert torch.equal(tokens.decode(tokens.encode(nets)), nets)
    assert Tokens(SUBSET, 8, 2).encode(nets).shape == (3, 5, 2)
    assert WholeNets(SUBSET.length, 8, 2).encode(nets).shape == (3, 2, 1)


def test_densities_are_fitted_to_the_best_by_validation_alone(zoo, config, monkeypatch):
    seen = {}

    def spy(latents, bandwidth, models, *_, **shared):
        seen[bandwidth] = (len(latents), shared["shared"])
        return latents[:1].expand(models, -1, -1)

    monkeypatch.setattr(zoos, "kde", spy)
    groups = draw_groups(zoo, config, 0, audit=True, rated=True)
    assert list(groups) == ["s_kde30", "sane_kde30"]
    assert seen == {0.002: (6, True), 0.2: (6, True)}
    originals = matrix(zoo.originals)
    for group in groups.values():  # the first latent of the best is that of original 14
        assert (matrix(group)[:1] - originals).square().sum(1).argmin() == 14


def test_rivals_need_an_audit_and_a_zoo(zoo, config):
    assert draw_groups(zoo, config, 0, audit=False, rated=True) == {}
    none = config.model_copy(update={"zoo": None})
    assert draw_groups(zoo, none, 0, audit=True, rated=True) == {}
    with_zoo, without = (from_originals(zoo.originals, c, 0, audit=True) for c in (config, none))
    assert {g.rpartition("_")[0] for g in with_zoo.keys() - without.keys()} == {"soup_shuffled"}


def test_a_shuffled_soup_of_one_computes_the_same_and_more_are_other_soups(zoo, config):
    one = Models(SUBSET, matrix(zoo.originals)[:1].expand(2, -1))
    found = from_originals(one, config, 0, audit=True)["soup_shuffled_2"]
    assert (matrix(found) - one.row(0)).abs().max() > 0.1  # two orders of one net
    layers = Chain.of_shapes(SUBSET)
    shuffled = layers.shuffled(one.row(0), torch.Generator().manual_seed(0))
    x = torch.randn(5, 2)

    def net(row):
        state = layers.state(row)
        hidden = torch.tanh(x @ state["a.weight"].T + state["a.bias"])
        return hidden @ state["b.weight"].T + state["b.bias"]

    torch.testing.assert_close(net(shuffled), net(one.row(0)))


def test_sane_sub_keeps_what_validation_images_choose(monkeypatch):
    monkeypatch.setattr(zoos, "KEPT", 2)
    validation = torch.tensor([[0, 0, 1], [1, 1, 1], [1, 1, 0]]).short()
    test = torch.tensor([[9], [8], [7]]).short()
    known = {"validation": {"sane_kde30": validation}, "test": {"sane_kde30": test}}
    keep_best(known, torch.ones(3).long())
    assert known["test"]["sane_sub"].tolist() == [[8], [7]]
    assert known["validation"]["sane_sub"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_without_its_draws_there_is_no_sane_sub():
    known = {"validation": {}, "test": {}}
    keep_best(known, torch.ones(3).long())
    assert known == {"validation": {}, "test": {}}

"""A zoo: each net is trained as it would be alone, from a start and with batches of its own."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pdiff.config import FinetuneConfig, parse_params
from pdiff.images.batches import training_batches
from pdiff.images.pixels import ImageSplit
from pdiff.nets.minis import CNNSmall
from pdiff.nets.zoo import align_zoo, check_zoo, losses, new_nets, zoo_runs
from pdiff.parameters.align import Chain
from pdiff.parameters.subset import Models, select_subset
from pdiff.system.errors import InputError
from pdiff.tasks.registry import make_task
from tests.conftest import change, composed

ZOO = ("net=cnn_small", "checkpoints=zoo")
SMALL = {"finetune.runs": 3, "finetune.checkpoints": 6, "finetune.held_back": 2}
SMALL |= {"finetune.fresh_runs": 1, "finetune.fresh_checkpoints": 2, "finetune.batch_size": 8}
SMALL |= {"finetune.steps": 4, "finetune.save_after": 2, "finetune.save_every": 1}
SMALL |= {"autoencoder.latent_dim": 4}


@pytest.fixture(scope="module")
def params():
    return parse_params(change(composed("data=digits", *ZOO), **SMALL))


@pytest.fixture(scope="module")
def images():
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (20, 3, 28, 28), generator=random, dtype=torch.uint8)
    return ImageSplit(pixels, torch.randint(10, (20,), generator=random))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(9)
    return CNNSmall(10)


def seeds(*numbers):
    return [torch.Generator().manual_seed(number) for number in numbers]


def task_of(params):
    return make_task(params.task, params.data)


def run(net, images, params, generators, **zoo):
    """The checkpoints of a zoo as they are trained, (M, D)."""
    own = {"zoo": params.finetune.zoo.model_copy(update={"align": False} | zoo)}
    config: FinetuneConfig = params.finetune.model_copy(update=own)
    subset = select_subset(net, "all")
    rows = zoo_runs(net, subset, images, task_of(params), config, generators, lambda *_: None)
    return torch.stack(list(rows))


def test_a_net_of_a_zoo_is_trained_as_in_a_plain_loop(net, images, params):
    rows = run(net, images, params, seeds(1, 2))
    assert rows.shape == (4, 2464)
    generator, config = seeds(2)[0], params.finetune
    plain = CNNSmall(10)
    plain.load_state_dict({k: v[0] for k, v in new_nets(CNNSmall(10), [generator]).items()})
    options = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    optimizer = torch.optim.AdamW(plain.parameters(), **options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4, config.lr_end)
    batches = [  # two whole ones of each pass; the third, of four images, is left out
        *list(training_batches(images, params.data, 8, generator))[:2],
        *list(training_batches(images, params.data, 8, generator))[:2],
    ]
    found = []
    for pixels, labels in batches:
        optimizer.zero_grad()
        cross_entropy(plain(pixels), labels).backward()
        optimizer.step()
        schedule.step()
        found.append(torch.cat([p.detach().flatten() for p in plain.parameters()]))
    torch.testing.assert_close(rows[2:], torch.stack(found[2:]), atol=1e-5, rtol=1e-4)


def test_how_many_are_trained_at_once_changes_no_net(net, images, params):
    together = run(net, images, params, seeds(1, 2, 3), at_once=3)
    apart = run(net, images, params, seeds(1, 2, 3), at_once=2)
    torch.testing.assert_close(together, apart)


def test_batches_that_the_images_cannot_fill_are_refused(net, images, params):
    config = params.finetune.model_copy(update={"batch_size": 21})
    with pytest.raises(InputError, match=r"finetune\.batch_size: 21 is more than the 20 training"):
        run(net, images, params.model_copy(update={"finetune": config}), seeds(1))


def test_one_program_for_all_nets_gives_the_losses_of_nets_in_turn(net, params):
    stacked = new_nets(net, seeds(1, 2))
    pixels = torch.randn(2, 5, 3, 28, 28)
    labels = torch.arange(10).view(2, 5)
    settings = net, task_of(params), stacked, (pixels, labels)
    turns, together = (losses(*settings, in_turn=own) for own in (True, False))
    torch.testing.assert_close(turns, together)
    assert turns[0] != turns[1]


def test_each_net_starts_anew_and_the_given_net_stays_as_it_is(net, images, params):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    run(net, images, params, seeds(1))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    starts = new_nets(CNNSmall(10), seeds(1, 2))
    assert not any(torch.equal(*value) for value in starts.values())


def test_aligned_checkpoints_lie_nearer_each_other_and_are_the_same_nets(net, images, params):
    plain, fresh = (run(net, images, params, seeds(*own)) for own in ((1, 2, 3), (4, 5)))
    settings = net, select_subset(net, "all"), images, task_of(params)
    aligned = torch.stack(list(align_zoo(iter(plain), *settings, 4)))  # the last two are held back
    known = Models(select_subset(net, "all"), aligned[:4])
    others = torch.stack(list(align_zoo(iter(fresh), *settings, known)))
    assert (aligned - aligned.mean(0)).norm() < (plain - plain.mean(0)).norm()
    mean = aligned[:4].mean(0)
    assert ((others - mean).norm(dim=1) < (fresh - plain[:4].mean(0)).norm(dim=1)).all()
    layers, pixels = Chain.of_shapes(known.subset), torch.randn(4, 3, 28, 28)
    for one, other in zip([*plain, *fresh], [*aligned, *others], strict=True):
        states = (layers.state(row) for row in (one, other))
        logits = [torch.func.functional_call(net, state, pixels) for state in states]
        torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm2d(8), "1 keeps running statistics"),
        (nn.PReLU(), None),
        (nn.MultiheadAttention(8, 2), "has parameters and no reset_parameters"),
    ],
)
def test_a_net_that_cannot_start_anew_is_refused(layer, message, params):
    broken = nn.Sequential(nn.Conv2d(3, 8, 5), layer)
    zoo = params.finetune.zoo.model_copy(update={"align": False})
    config = params.finetune.model_copy(update={"zoo": zoo})
    subset = select_subset(broken, "all")
    if message is None:
        return check_zoo(broken, subset, config, torch.randn(4, 3, 28, 28))
    with pytest.raises(InputError, match=message):
        check_zoo(broken, subset, config, torch.randn(4, 3, 28, 28))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subset.select": "last_norms:1"}, r"subset\.select: last_norms:1 must be all"),
        ({"finetune.checkpoints": 4}, r"checkpoints: 4 must be 6: .*runs: 3 nets leaves 2"),
        ({"finetune.held_back": 3}, r"held_back: 3 must be a multiple of 2, whole nets"),
        ({"finetune.fresh_runs": 6}, r"fresh_runs: 6 is more than finetune\.runs: 3"),
        ({"finetune.folder": "/x"}, r"finetune\.zoo and finetune\.folder exclude each other"),
        ({"finetune.zoo": None}, r"baselines\.zoo: needs independent nets"),
        ({"finetune.zoo": {"align": True}}, r"finetune\.zoo\.at_once is missing"),
        (
            {"finetune.zoo": {"align": True, "at_once": 2, "x": 1}},
            r"unknown key finetune\.zoo\.x; known: align, at_once",
        ),
        ({"baselines.zoo": {"steps": 1, "kde_seed": 42}}, r"kde_seed: 42 is refused: .*'shared'"),
    ],
)
def test_a_zoo_that_cannot_be_is_refused_by_the_name_of_a_parameter(changes, message):
    with pytest.raises(InputError, match=message):
        parse_params(change(composed("data=digits", *ZOO), **(SMALL | changes)))

"""Base net and checkpoints, on a net and images so small that it takes seconds."""

import copy

import pytest
import torch

from pdiff.config import Params
from pdiff.core.optimise import seeded
from pdiff.datasets.prepare import prepare_images
from pdiff.images.batches import ImageSet
from pdiff.nets.base import finetune, make_optimizer, measure_accuracy, train_base
from pdiff.nets.registry import build_net
from pdiff.parameters.subset import select_subset
from pdiff.system.errors import InputError


def ignore(metrics, step):
    pass


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images(tiny: Params) -> ImageSet:
    return prepare_images(tiny.data, torch.Generator().manual_seed(0))


def new_net():
    return seeded(lambda: build_net("test_resnet", 10, 32), torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def base(tiny, images):
    net = new_net()
    config = tiny.base.model_copy(update={"epochs": 4, "lr": 5e-3})
    points = []
    generator = torch.Generator().manual_seed(2)
    best = train_base(
        net, images, tiny.data, config, generator, lambda metrics, step: points.append(metrics)
    )
    return net, best, points


def test_training_lowers_the_loss(base):
    _, _, points = base
    assert points[-1]["loss"] < 0.8 * points[0]["loss"]


def test_the_best_validation_epoch_is_kept(base, images, tiny):
    net, best, points = base
    assert best == max(point["validation_accuracy"] for point in points)
    assert measure_accuracy(net, images.validation, tiny.data, 50) == pytest.approx(best)


def test_no_epoch_leaves_the_weights_as_they_are(images, tiny):
    net, points = new_net(), []
    config = tiny.base.model_copy(update={"epochs": 0})
    generator = torch.Generator().manual_seed(2)
    accuracy = train_base(
        net, images, tiny.data, config, generator, lambda metrics, step: points.append(metrics)
    )
    before = new_net().state_dict()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert accuracy == measure_accuracy(net, images.validation, tiny.data, 50)
    assert points == []


class Killed(Exception):
    pass


class Interrupted:
    """Keeps the state of the first epoch, then stops the training; later gives it back."""

    def __init__(self):
        self.state = None

    def load(self):
        return copy.deepcopy(self.state)

    def save(self, state):
        if self.state is None:
            self.state = copy.deepcopy(state())
            raise Killed


def test_a_resumed_training_gives_the_same_bits(tiny, images):
    def train(resume=None):
        net, curve = new_net(), []
        generator = torch.Generator().manual_seed(2)
        train_base(
            net,
            images,
            tiny.data,
            tiny.base,
            generator,
            lambda metrics, step: curve.append((step, metrics)),
            resume,
        )
        return net.state_dict(), curve

    whole, whole_curve = train()
    kept = Interrupted()
    with pytest.raises(Killed):
        train(kept)
    resumed, resumed_curve = train(kept)
    assert resumed_curve == whole_curve
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.fixture
def tune(base, images, tiny):
    def run(expression="last_norms:2", **changes):
        net = copy.deepcopy(base[0])
        subset = select_subset(net, expression)
        config = tiny.finetune.model_copy(update={"held_back": 0} | changes)
        generator = torch.Generator().manual_seed(3)
        rows = finetune(net, subset, images.train, tiny.data, config, generator, ignore)
        return torch.stack(list(rows)), net, subset

    return run


def test_only_the_subset_moves(tune, base):
    _, net, subset = tune(batch_norm="eval")
    before = base[0].state_dict()
    changed = {n for n, value in net.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == set(subset.names)


def test_every_checkpoint_differs_from_the_one_before(tune):
    matrix, _, subset = tune()
    assert matrix.shape == (12, subset.length)
    assert ((matrix[1:] - matrix[:-1]).abs().amax(1) > 0).all()


def test_the_last_checkpoint_is_the_nets_state(tune):
    matrix, net, subset = tune()
    now = torch.cat([value.flatten() for value in subset.read(net).values()])
    assert torch.equal(matrix[-1], now)


def test_save_every_keeps_each_so_many_steps(tune):
    every, sparse = tune()[0], tune(save_every=3, checkpoints=4)[0]
    assert torch.equal(sparse, every[2::3])


def test_fewer_checkpoints_are_the_first_ones(tune):
    assert torch.equal(tune(checkpoints=5)[0], tune()[0][:5])


def test_those_held_back_follow_the_checkpoints_of_the_same_run(tune):
    assert torch.equal(tune(checkpoints=8, held_back=4)[0], tune(checkpoints=12)[0])


def test_the_rate_stays_at_its_end_after_the_last_step(base, images, tiny):
    config = tiny.finetune.model_copy(update={"lr_end": 0.001, "held_back": 10})
    net, rates = copy.deepcopy(base[0]), {}
    generator = torch.Generator().manual_seed(3)
    rows = finetune(
        net,
        select_subset(net, "last_norms:2"),
        images.train,
        tiny.data,
        config,
        generator,
        lambda metrics, step: rates.update({step: metrics["lr"]}),
    )
    assert len(list(rows)) == 22
    assert rates[10] > 0.001 and rates[20] == pytest.approx(0.001)


def test_save_after_keeps_later_steps(tune):
    every = tune()[0]
    assert torch.equal(tune(save_after=4, checkpoints=8)[0], every[4:])
    sparse = tune(save_after=2, save_every=3, checkpoints=3)[0]  # steps 5, 8, 11
    assert torch.equal(sparse, every[4::3])


@pytest.mark.parametrize(
    ("mode", "updates"), [("train", 12), ("eval", 0), ("eval_after_1", 1), ("eval_after_2", 2)]
)
def test_batch_norm_modes_update_running_statistics_as_often_as_they_say(tune, base, mode, updates):
    _, net, _ = tune(batch_norm=mode)
    name = next(n for n in net.state_dict() if n.endswith("num_batches_tracked"))
    assert net.state_dict()[name] - base[0].state_dict()[name] == updates


def step_of_finetuning(images, tiny, expression, mode) -> tuple[list, list]:
    """Layers' outputs in the order in which they ran, and the activations kept for the gradient."""
    net = build_net("resnet18", 10, 32)
    outputs, kept = [], {}
    for name, module in net.named_modules():
        if not list(module.children()):
            hook = lambda _, inputs, output, name=name: outputs.append((name, output))  # noqa: E731
            module.register_forward_hook(hook)
    own = {value.data_ptr() for value in [*net.parameters(), *net.buffers()]}

    def keep(value):
        if value.data_ptr() not in own:
            kept[value.data_ptr()] = value.nbytes
        return value

    changes = {"steps": 1, "checkpoints": 1, "save_after": 0, "batch_norm": mode}
    config = tiny.finetune.model_copy(update=changes)
    subset, generator = select_subset(net, expression), torch.Generator().manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        list(finetune(net, subset, images.train, tiny.data, config, generator, ignore))
    return outputs, kept


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_finetuning_keeps_no_activation_from_before_the_subset(images, tiny, mode):
    outputs, kept = step_of_finetuning(images, tiny, "last_norms:2", mode)
    names = [name for name, _ in outputs]
    before = outputs[: names.index("layer4.1.bn1")]
    assert len(before) > 40
    *earlier, norm_input = [output.data_ptr() for _, output in before]
    assert norm_input in kept
    assert not kept.keys() & set(earlier)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_finetuning_the_last_norms_keeps_a_fraction_of_all_activations(images, tiny, mode):
    kept = step_of_finetuning(images, tiny, "last_norms:2", mode)[1]
    of_all = step_of_finetuning(images, tiny, "all", mode)[1]
    assert sum(kept.values()) < sum(of_all.values()) / 20


def test_the_rate_falls_to_its_end(base, images, tiny):
    rates = []
    config = tiny.finetune.model_copy(update={"steps": 20, "checkpoints": 20, "lr_end": 0.01})
    net = copy.deepcopy(base[0])
    subset = select_subset(net, "fc")
    generator = torch.Generator().manual_seed(0)
    list(
        finetune(
            net,
            subset,
            images.train,
            tiny.data,
            config,
            generator,
            lambda metrics, step: rates.append(metrics["lr"]),
        )
    )
    assert rates[0] < 0.03
    assert rates[-1] == pytest.approx(0.01)


def test_a_rate_that_explodes_is_one_clear_error(tune):
    with pytest.raises(InputError, match=r"finetune\.lr: the loss became (nan|inf)"):
        tune("fc", lr=1e38, lr_end=1e38, optimizer="sgd")


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimizers_are_what_they_are_called(name):
    optimizer = make_optimizer(name, [torch.nn.Parameter(torch.zeros(1))], 0.1, 0.01)
    assert type(optimizer).__name__.lower() == name
    assert optimizer.param_groups[0]["weight_decay"] == 0.01

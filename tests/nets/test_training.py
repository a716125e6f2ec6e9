"""Base net and checkpoints, on a net and images so small that it takes seconds."""

import copy
import json
import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from pdiff.config import Params
from pdiff.core.optimise import seeded
from pdiff.core.runtime import make_generator
from pdiff.datasets.prepare import prepare_images
from pdiff.images.batches import ImageSet, load_images, training_batches
from pdiff.nets.base import measure_accuracy, train_base
from pdiff.nets.finetune import finetune, finetune_runs
from pdiff.nets.registry import build_net, load_net
from pdiff.parameters.stack import load_stack
from pdiff.parameters.subset import select_subset
from pdiff.system.errors import InputError
from pdiff.tasks import classification
from pdiff.tasks.registry import Task, make_task
from tests.toys.training import FakeResume

OPTIMIZERS = {
    "sgd": lambda values, lr: torch.optim.SGD(values, lr, momentum=0.9, weight_decay=0.1),
    "adam": lambda values, lr: torch.optim.Adam(values, lr, weight_decay=0.1, fused=True),
    "adamw": lambda values, lr: torch.optim.AdamW(values, lr, weight_decay=0.1, fused=True),
}


def ignore(metrics, step):
    pass


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.fixture(scope="module")
def images(tiny: Params) -> ImageSet:
    return prepare_images(tiny.data, seed(0))


@pytest.fixture(scope="module")
def task(tiny: Params) -> Task:
    return make_task(tiny.task, tiny.data)


def new_net():
    return seeded(lambda: build_net("test_resnet", 10, 32), seed(1))


def cosine(lr, end, step, steps):
    return end + (lr - end) * (1 + math.cos(math.pi * step / steps)) / 2


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_base_training_equals_a_plain_loop(images, tiny, monkeypatch, name, task):
    net, plain, points = new_net(), new_net(), []
    changes = {"epochs": 3, "lr": 5e-3, "weight_decay": 0.1, "optimizer": name}
    config = tiny.base.model_copy(update=changes)
    accuracies = iter((0.1, 0.2, 0.3))  # the last epoch is the best
    monkeypatch.setattr(classification, "measure_accuracy", lambda *_: next(accuracies))
    train_base(net, images, task, config, seed(2), lambda m, step: points.append(m["loss"]))

    optimizer, generator = OPTIMIZERS[name](plain.parameters(), 5e-3), seed(2)
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = cosine(5e-3, 0, epoch, 3)
        torch.randint(2**62, (), generator=generator)  # the seed of dropout
        losses = []
        for pixels, labels in training_batches(images.train, tiny.data, 50, generator):
            loss = cross_entropy(plain.train()(pixels), labels)
            plain.zero_grad()
            loss.backward()
            optimizer.step()
            losses += [loss.item()] * len(labels)
        assert points[epoch] == pytest.approx(sum(losses) / 120, rel=1e-5)
    torch.testing.assert_close(net.state_dict(), plain.state_dict(), atol=1e-5, rtol=1e-4)


def test_the_net_is_that_of_the_first_of_the_best_epochs(images, tiny, monkeypatch, task):
    accuracies, states = iter((0.3, 0.9, 0.5, 0.9)), []

    def scripted(net, *_):
        states.append(copy.deepcopy(net.state_dict()))
        return next(accuracies)

    monkeypatch.setattr(classification, "measure_accuracy", scripted)
    net, config = new_net(), tiny.base.model_copy(update={"epochs": 4})
    start = net.state_dict()["bn1.weight"].clone()
    accuracy, epochs = train_base(net, images, task, config, seed(2), ignore)
    assert accuracy == 0.9
    torch.testing.assert_close(net.state_dict(), states[1], rtol=0, atol=0)
    expected = torch.stack([start, *(state["bn1.weight"] for state in states)])
    torch.testing.assert_close(epochs["bn1.weight"], expected, rtol=0, atol=0)
    assert {value.ndim for value in epochs.values()} == {2}


def test_no_epoch_leaves_the_weights_as_they_are(images, tiny, task):
    net, points = new_net(), []
    config = tiny.base.model_copy(update={"epochs": 0})
    log = lambda *_: points.append(_)  # noqa: E731
    accuracy, epochs = train_base(net, images, task, config, seed(2), log)
    assert torch.equal(epochs["fc.bias"], net.fc.bias[None])
    torch.testing.assert_close(net.state_dict(), new_net().state_dict(), rtol=0, atol=0)
    assert accuracy == measure_accuracy(net, images.validation, tiny.data, 50)
    assert points == []


def test_accuracy_is_the_share_of_right_answers_of_the_net_in_eval_mode(images, tiny):
    net, labels = new_net(), images.validation.labels
    net.eval().fc.weight.data.zero_()
    net.fc.bias.data = torch.arange(10.0)  # every answer is 9
    nines = (labels == 9).sum().item()
    assert measure_accuracy(net.train(), images.validation, tiny.data, 7) == pytest.approx(
        nines / len(labels)
    )
    assert not net.training


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_base_net_without_finite_logits_has_no_accuracy(images, tiny, value):
    net = new_net()
    net.fc.bias.data[3] = value
    with pytest.raises(InputError, match=r"base\.net: .* are not finite on 60 of 60 images"):
        measure_accuracy(net, images.validation, tiny.data, 7)


def test_a_resumed_training_gives_the_same_bits(tiny, images, task):
    def train(resume=None):
        net, curve = new_net(), []
        log = lambda metrics, step: curve.append((step, metrics))  # noqa: E731
        config = tiny.base.model_copy(update={"epochs": 3})
        _, epochs = train_base(net, images, task, config, seed(2), log, resume)
        return net.state_dict() | epochs, curve

    whole, whole_curve = train()
    kept = FakeResume(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        train(kept)
    resumed, resumed_curve = train(kept)
    assert resumed_curve == whole_curve
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


@pytest.fixture
def tune(images, tiny, task):
    """Fine-tune a new net: the checkpoints (K, D), the net, the subset and the logged rates."""

    def run(expression="last_norms:2", **changes):
        net, rates = new_net(), {}
        subset = select_subset(net, expression)
        config = tiny.finetune.model_copy(update={"held_back": 0} | changes)
        log = lambda metrics, step: rates.update({step: metrics["lr"]})  # noqa: E731
        rows = finetune(net, subset, images.train, task, config, seed(3), log)
        return torch.stack(list(rows)), net, subset, rates

    return run


def test_finetuning_equals_a_plain_loop(tune, images, tiny):
    changes = {"lr": 0.02, "lr_end": 0.001, "weight_decay": 0.1, "optimizer": "sgd"}
    changes |= {"steps": 12, "checkpoints": 6, "save_every": 2, "batch_norm": "eval_after_2"}
    matrix, _, subset, rates = tune(**changes)
    net, generator = new_net(), seed(3)
    torch.randint(2**62, (), generator=generator)  # the seed of dropout
    values = [net.get_parameter(parameter) for parameter in subset.names]
    optimizer, rows = OPTIMIZERS["sgd"](values, 0.02), []
    passes = [training_batches(images.train, tiny.data, 40, generator) for _ in range(4)]
    batches = (batch for one in passes for batch in one)
    for step in range(12):
        optimizer.param_groups[0]["lr"] = cosine(0.02, 0.001, step, 12)
        pixels, labels = next(batches)
        loss = cross_entropy(net.train(step < 2)(pixels), labels)
        net.zero_grad()
        loss.backward()
        optimizer.step()
        rows.append(torch.cat([value.detach().flatten() for value in values]))
    torch.testing.assert_close(matrix, torch.stack(rows[1::2]), atol=1e-5, rtol=1e-4)
    assert rates == pytest.approx({step: cosine(0.02, 0.001, step, 12) for step in (1, 10)})


def test_only_the_subset_moves(tune):
    _, net, subset, _ = tune(batch_norm="eval")
    before = new_net().state_dict()
    changed = {n for n, value in net.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == set(subset.names)


def test_checkpoints_are_kept_as_often_and_as_late_as_they_shall(tune):
    every = tune()[0]
    assert torch.equal(tune(checkpoints=5)[0], every[:5])
    assert torch.equal(tune(save_every=3, checkpoints=4)[0], every[2::3])
    assert torch.equal(tune(save_after=4, checkpoints=8)[0], every[4:])
    assert torch.equal(tune(save_after=2, save_every=3, checkpoints=3)[0], every[4::3])
    assert torch.equal(tune(checkpoints=8, held_back=4)[0], every)  # they follow in the same run


def test_several_runs_leave_an_equal_share_each_spread_over_the_run(images, tiny, task):
    net, subset = new_net(), select_subset(new_net(), "last_norms:2")
    config = tiny.finetune.model_copy(update={"checkpoints": 6, "runs": 2, "held_back": 3})
    curve = {}
    log = lambda metrics, step: curve.update({step: metrics["loss"]})  # noqa: E731
    arguments = net, subset, images.train, task, config, [seed(3), seed(4)], log
    found = torch.stack(list(finetune_runs(*arguments)))
    whole = config.model_copy(update={"checkpoints": config.steps, "runs": 1})
    alone = [
        list(finetune(copy.deepcopy(net), subset, images.train, task, whole, seed(s), ignore))
        for s in (3, 4)
    ]
    wanted = [run[index] for run in alone for index in (0, 6, 11)] + alone[1][12:]
    assert torch.equal(found, torch.stack(wanted))  # what is held back follows the last run
    assert list(curve) == [1, 10, 13, 22]


def test_the_rate_stays_at_its_end_after_the_last_step(tune):
    matrix, _, _, rates = tune(lr_end=0.001, held_back=10)
    assert len(matrix) == 22
    assert rates[10] > 0.001 and rates[20] == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("mode", "updates"), [("train", 12), ("eval", 0), ("eval_after_1", 1), ("eval_after_2", 2)]
)
def test_batch_norm_modes_update_running_statistics_as_often_as_they_say(tune, mode, updates):
    _, net, _, _ = tune(batch_norm=mode)
    name = next(n for n in net.state_dict() if n.endswith("num_batches_tracked"))
    assert net.state_dict()[name] - new_net().state_dict()[name] == updates


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_finetuning_keeps_no_activation_from_before_the_subset(images, tiny, mode, task):
    net, outputs, kept = build_net("resnet18", 10, 32), [], set()
    for name, module in net.named_modules():
        if not list(module.children()):
            hook = lambda _, inputs, output, name=name: outputs.append((name, output))  # noqa: E731
            module.register_forward_hook(hook)
    changes = {"steps": 1, "checkpoints": 1, "save_after": 0, "batch_norm": mode}
    config = tiny.finetune.model_copy(update=changes)
    keep = lambda value: kept.add(value.data_ptr()) or value  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        subset = select_subset(net, "last_norms:2")
        list(finetune(net, subset, images.train, task, config, seed(3), ignore))
    before = outputs[: [name for name, _ in outputs].index("layer4.1.bn1")]
    assert len(before) > 40
    *earlier, norm_input = [output.data_ptr() for _, output in before]
    assert norm_input in kept
    assert not kept & set(earlier)


def test_a_rate_that_explodes_is_one_clear_error(tune):
    with pytest.raises(InputError, match=r"finetune\.lr: the loss became (nan|inf)"):
        tune("fc", lr=1e38, lr_end=1e38, optimizer="sgd")


@pytest.fixture(scope="module")
def ran(finished, tiny):
    """A folder in which all stages ran, its parameters, net and images."""
    net = load_net(finished / "models/base.safetensors")
    return finished, tiny, net, load_images(finished / "data/images.safetensors")


def test_the_test_accuracy_is_that_of_the_test_images(ran):
    folder, params, net, images = ran
    metrics = json.loads((folder / "metrics/train_base.json").read_text())
    found = [measure_accuracy(net, s, params.data, 50) for s in (images.validation, images.test)]
    assert [metrics["base_validation_accuracy"], metrics["base_test_accuracy"]] == found
    assert found[0] != found[1]


def test_the_fresh_run_is_another_one_and_its_checkpoints_are_spread_evenly(ran, task):
    folder, params, net, images = ran
    subset = select_subset(net, params.subset.select)
    config = params.finetune.model_copy(update={"held_back": 0})
    generator = make_generator(3, "finetune_again")
    rows = list(finetune(net, subset, images.train, task, config, generator, ignore))
    _, first = load_stack(folder / "data/checkpoints.safetensors")
    _, again = load_stack(folder / "data/fresh.safetensors")
    assert torch.equal(again, torch.stack(rows)[[0, 3, 6, 8, 11]])
    assert (again[:, None] != first).any(2).all()

import pytest
import torch
from torch import nn

from pdiff.core.optimise import Recipe, make_optimizer, optimise, seeded, train_step
from tests.toys.training import FakeResume, equal_weights


def train(
    seed=0, seen=lambda model: None, log=lambda *_: None, resume=None, steps=40, lr=0.01, **recipe
):
    """A line with batch norm fitted to random points."""
    generator = torch.Generator().manual_seed(seed)
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), generator)

    def batch_loss():
        seen(model)
        x = torch.randn(8, 3, generator=generator)
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    recipe = Recipe(steps, lr, **{"weight_decay": 0.0} | recipe)
    optimise(model, batch_loss, recipe, generator, log, resume, "line")
    return model


def curve(**options):
    points = []
    log = lambda metrics, step: points.append((step, metrics["loss"], metrics["lr"]))  # noqa: E731
    train(log=log, **options)
    return points


def test_initial_weights_depend_on_the_generator_alone():
    def make(seed):
        return seeded(lambda: nn.Linear(3, 4), torch.Generator().manual_seed(seed))

    torch.manual_seed(1)
    first = make(0)
    torch.manual_seed(2)
    assert equal_weights(first, make(0))
    assert not equal_weights(first, make(1))


def test_training_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    train(steps=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_exponential_average_is_that_of_the_weights_after_each_step():
    history = []
    averaged = train(steps=40, ema=0.8, seen=lambda net: history.append(net[0].weight.clone()))
    history = [*history[1:], train(steps=40)[0].weight]  # after steps 1 to 40
    expected = history[0]
    for count, weight in enumerate(history[1:], start=1):
        kept = min(0.8, count / (count + 9))
        expected = kept * expected + (1 - kept) * weight
    torch.testing.assert_close(averaged[0].weight, expected)
    assert not torch.allclose(averaged[0].weight, history[-1], atol=1e-4)


def test_weights_and_rates_equal_those_of_torchs_cosine_schedule():
    generator = torch.Generator().manual_seed(0)
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), generator)
    fused = {"fused": True}  # rounds otherwise, which Adam makes steps of in the first bias
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1, **fused)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    rates = []
    for _ in range(40):
        rates += scheduler.get_last_lr()
        x = torch.randn(8, 3, generator=generator)
        optimizer.zero_grad()
        (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(train(weight_decay=0.1).state_dict(), model.state_dict())
    assert [rate for _, _, rate in curve(steps=40)] == pytest.approx(rates)


@pytest.mark.parametrize("steps", [1, 499, 500, 501, 1001])
def test_a_curve_has_some_500_points_at_most_and_the_ends(steps):
    points = curve(steps=steps)
    assert min(steps, 250) <= len(points) <= 501
    assert points[0][0] == 0 and points[-1][0] == steps - 1


@pytest.mark.parametrize(
    ("stop_after", "options"), [(1, {}), (7, {"ema": 0.8}), (40, {"optimizer": "adafactor"})]
)
def test_an_interrupted_training_has_the_same_weights_and_curve(stop_after, options):
    resume, options = FakeResume(stop_after), {"weight_decay": 0.1, **options}
    with pytest.raises(KeyboardInterrupt):
        train(resume=resume, **options)
    state = resume.state
    assert state["progress"]["step"] == stop_after
    assert equal_weights(train(resume=resume, **options), train(**options))
    resume.state = state
    assert curve(resume=resume, **options) == curve(**options)


def test_the_trained_net_is_in_eval_mode():
    assert not train(steps=1).training


def test_a_loss_that_is_not_finite_ends_the_training():
    with pytest.raises(ValueError, match=r"line: loss is (nan|inf) at step \d+; lower the rate"):
        train(lr=1e30)


def test_adafactor_keeps_one_number_a_row_and_column():
    model = nn.Linear(30, 20)
    optimizer = make_optimizer("adafactor", model.parameters(), 0.01, 0.0)
    train_step(optimizer, lambda: model(torch.ones(2, 30)).square().sum())
    state = [value.numel() for entry in optimizer.state.values() for value in entry.values()]
    assert sorted(state) == [1, 1, 20, 20, 30]  # two counts of steps, the bias, rows, columns

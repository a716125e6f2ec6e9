"""Speeds are counts over the time that passed while they were done."""

import pytest

from pdiff.system import speed


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time that moves by hand, and a meter at zero."""
    now = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    speed.reset()
    yield now
    speed.reset()


def test_a_block_counts_its_units(clock):
    with speed.measured(models=6, predictions=60):
        clock[0] += 3
    assert speed.speeds() == {"models_per_s": 2, "predictions_per_s": 20}


def test_blocks_add_up(clock):
    for seconds in (1, 3):
        with speed.measured(images=100):
            clock[0] += seconds
    assert speed.speeds() == {"images_per_s": 50}


def test_a_block_that_fails_counts_for_nothing(clock):
    with pytest.raises(KeyError), speed.measured(images=100):
        raise KeyError
    assert speed.speeds() == {}


def test_a_loop_counts_the_turns_that_ran_and_not_what_lies_between(clock):
    def steps():
        for step in range(4):
            clock[0] += 100  # drawing the item is not the loop's work
            yield step

    for step in speed.counted(steps(), steps=1, images=50):
        clock[0] += 2
        if step == 3:
            break  # the last turn is not finished
    assert speed.speeds() == {"steps_per_s": 0.5, "images_per_s": 25}


def test_reset_forgets(clock):
    with speed.measured(images=1):
        clock[0] += 1
    speed.reset()
    assert speed.speeds() == {}

"""What the tests of trainings share."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads cost more than they give at toy sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class FakeResume:
    """Keeps a copy of each state; interrupts the training after `stop_after` steps."""

    def __init__(self, stop_after=None):
        self.state, self.stop_after = None, stop_after

    def load(self):
        return self.state

    def save(self, state):
        self.state = plain_copy(state())
        if self.state["step"] == self.stop_after:
            self.stop_after = None
            raise KeyboardInterrupt


def plain_copy(value):
    """A copy through the types that every file format has; refuses all others."""
    if isinstance(value, dict):
        assert all(isinstance(key, str) for key in value)
        return {key: plain_copy(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain_copy(entry) for entry in value]
    assert isinstance(value, torch.Tensor | float | int | str)
    return value.clone() if isinstance(value, torch.Tensor) else value


def equal_weights(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)

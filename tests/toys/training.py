"""What the tests of trainings share."""

import io

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
    """Keeps each state as a file would; interrupts the training after `stop_after` steps."""

    def __init__(self, stop_after=None):
        self.state, self.stop_after = None, stop_after

    def load(self):
        return self.state

    def save(self, state):
        file = io.BytesIO()
        torch.save(state(), file)
        file.seek(0)
        self.state = torch.load(file, weights_only=True)
        if self.state["progress"]["step"] == self.stop_after:
            self.stop_after = None
            raise KeyboardInterrupt


def equal_weights(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)

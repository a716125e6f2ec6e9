"""What the tests of trainings share."""

import io

import torch

from pdiff.system.resume import Checkpointer


def reread(state):
    """As a file would give it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class FakeResume(Checkpointer):
    """Keeps a copy of each state; interrupts the training after it has kept `stop_after`."""

    def __init__(self, stop_after=None):
        self.state, self.kept, self.stop_after = None, 0, stop_after

    def load(self):
        return reread(self.state)

    def save(self, state):
        self.state, self.kept = reread(state()), self.kept + 1
        if self.kept == self.stop_after:
            raise KeyboardInterrupt


def equal_weights(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)

"""What p-diff is compared with: the originals' mean and noise-added originals.

Axes: K checkpoints, D parameters, P tensors.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pdiff.subset import Models, Rows


def ensemble(originals: Rows) -> Models:
    """The mean of all originals, one model (the paper's "ensemble")."""
    blocks = (block for _, block in originals.columns())
    means = [block.double().mean(0, keepdim=True).float() for block in blocks]
    return Models(originals.subset, torch.cat(means, 1))


class Noised(Sequence):
    """Noise-added originals, drawn from a seed whenever they are asked for and never stored.

    Model i is an original, in a random order in which all take turns, plus Gaussian noise whose
    std is `level` times the std of each tensor's values in that original (authors' evaluate.py).
    """

    def __init__(self, originals: Rows, level: float, count: int, seed: int) -> None:
        self._originals = originals
        self._level, self._count, self._seed = level, count, seed
        generator = torch.Generator().manual_seed(seed)
        self._order = torch.randperm(len(originals), generator=generator)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self._count:
            raise IndexError(index)
        subset, original = self._originals.subset, self._originals.row(self.source(index))
        scale = torch.cat([_own_std(part) for part in original.split(subset.sizes)])
        generator = torch.Generator().manual_seed(self._seed + 1 + index)
        noise = torch.randn(original.shape, generator=generator).to(original.device)
        row = original + self._level * scale * noise
        return {name: t[0] for name, t in subset.unflatten(row[None]).items()}

    def source(self, index: int) -> int:
        """Which original model `index` is a copy of."""
        return int(self._order[index % len(self._order)])


def _own_std(values: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    """A tensor's unbiased std, once for each value; 0 for a tensor of one value: no noise."""
    return values.std().expand(len(values)) if len(values) > 1 else torch.zeros_like(values)

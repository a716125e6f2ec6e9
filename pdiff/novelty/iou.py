"""How differently two classifiers err, and what follows from it (paper, Section 4).

Axes: M models, R reference models, K originals, G generated, N test images.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def wrong_iou(wrong: Bool[Tensor, "M N"], reference: Bool[Tensor, "R N"]) -> Float[Tensor, "M R"]:
    """IoU of the sets of wrongly predicted images, for every pair of models.

    1 means two models err on the same images, 0 that they share no error. Two models without any
    error count as identical (IoU 1). The counts are exact: fp32 holds whole numbers up to 2^24.
    """
    a, b = wrong.float(), reference.float()
    both = a @ b.T  # (M, R)
    either = a.sum(1, keepdim=True) + b.sum(1) - both  # (M, R)
    return torch.where(either > 0, both / either, 1.0)


def max_similarity(
    wrong: Bool[Tensor, "M N"], originals: Bool[Tensor, "K N"]
) -> Float[Tensor, " M"]:
    """Similarity of each model to the original it is most like: the paper's maximum similarity."""
    return wrong_iou(wrong, originals).amax(1)


def max_similarity_among(originals: Bool[Tensor, "K N"]) -> Float[Tensor, " K"]:
    """Maximum similarity of each original to the others, itself left out; NaN for a single one."""
    similarity = wrong_iou(originals, originals)
    if len(similarity) == 1:
        return similarity.new_full((1,), math.nan)
    return similarity.fill_diagonal_(-1).amax(1)


def similarity_within(wrong: Bool[Tensor, "M N"]) -> float:
    """Mean similarity over the ordered pairs of different models; NaN for a single model."""
    count = len(wrong)
    if count == 1:
        return math.nan
    similarity = wrong_iou(wrong, wrong).double()
    return ((similarity.sum() - similarity.diagonal().sum()) / (count * (count - 1))).item()


def best_of_n(accuracy: Float[Tensor, " M"], n: int) -> float:
    """Expected best accuracy of `n` models drawn without replacement from M: exact, no sampling.

    It makes the best of many comparable with the best of few. The i-th smallest of M is the best
    of n with probability C(i - 1, n - 1) / C(M, n).
    """
    count = len(accuracy)
    if not 1 <= n <= count:
        raise ValueError(f"best of {n} out of {count} models; n must lie in 1 to {count}")
    return _last_of_n(accuracy.double().sort().values.tolist(), n)


def chosen_of_n(accuracy: Float[Tensor, " M"], choosing: Float[Tensor, " M"], n: int) -> float:
    """Expected accuracy of the one, of `n` models drawn from M, that does best in `choosing`.

    `choosing` are accuracies on the images that choose; models that are equal there are chosen
    equally often. Exact, as `best_of_n`, which chooses by the accuracy itself.
    """
    values, place = choosing.unique(return_inverse=True)  # rising
    sums = torch.zeros(len(values)).double().index_add_(0, place, accuracy.double())
    means = (sums / place.bincount())[place]  # of the models that are equal in choosing
    return _last_of_n(means[place.argsort()].tolist(), n)


def _last_of_n(ordered: list[float], n: int) -> float:
    """Expected value of the one, of `n` drawn without replacement, that stands last in the list."""
    total = math.comb(len(ordered), n)
    return sum(math.comb(i, n - 1) / total * value for i, value in enumerate(ordered))

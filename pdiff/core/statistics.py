"""Sums of parts that keep their digits, and eigenvectors that are the same every time."""

import torch
from jaxtyping import Float64
from torch import Tensor

Moments = tuple[int, Tensor | float, Tensor | float]
"""Number of values, their mean, and the sum of their squared deviations from it."""
NOTHING: Moments = (0, 0.0, 0.0)


def merged(a: Moments, b: Moments) -> Moments:
    """The moments of two parts together (Chan et al. 1979)."""
    (count, mean, squares), (more, other, added) = a, b
    shift = other - mean
    mean = mean + shift * (more / (count + more))
    return count + more, mean, squares + added + shift**2 * (count * more / (count + more))


def spectrum(
    matrix: Float64[Tensor, "n n"],
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, "n n"]]:
    """Eigenvalues of a symmetric matrix, largest first, and its eigenvectors as columns.

    An eigenvector's sign is arbitrary; here its entry of largest magnitude is positive.
    """
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(matrix))
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return values, vectors * largest.sign()

"""Eigenvectors whose order and signs are the same every time."""

import torch
from jaxtyping import Float64
from torch import Tensor


def spectrum(
    matrix: Float64[Tensor, "n n"],
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, "n n"]]:
    """Eigenvalues of a symmetric matrix, largest first, and its eigenvectors as columns.

    An eigenvector's sign is arbitrary; here its entry of largest magnitude is positive.
    """
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(matrix))
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return values, vectors * largest.sign()

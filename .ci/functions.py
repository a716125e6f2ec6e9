"""Does this processor compute single functions as another does? Digests, to compare with `diff`.

python .ci/functions.py > here.txt
qemu-x86_64 -cpu Haswell .venv/bin/python .ci/functions.py | diff here.txt -
"""

import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import pdiff.system.portable  # noqa: F401 - first, for it must come before torch

# isort: split
import numpy
import torch

NAMES = [
    "acos",
    "asin",
    "atan",
    "cos",
    "cosh",
    "digamma",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "lgamma",
    "log",
    "log10",
    "log1p",
    "log2",
    "reciprocal",
    "rsqrt",
    "sigmoid",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
]


def digest(values: torch.Tensor) -> str:
    return hashlib.sha1(values.detach().contiguous().numpy().tobytes()).hexdigest()[:12]


def fused_adamw(values: torch.Tensor) -> torch.Tensor:
    parameter = torch.nn.Parameter(values.clone())
    optimizer = torch.optim.AdamW([parameter], lr=0.01, fused=True)
    for factor in (0.3, 0.1):
        parameter.grad = values * factor
        optimizer.step()
    return parameter


single = torch.arange(0x3F000000, 0x3F000000 + 200000, 37, dtype=torch.int32).view(torch.float32)
for values in (single, single.double()):
    for name in NAMES:
        print(values.dtype, name, digest(getattr(torch, name)(0.9 * values)))
    exact = torch.from_numpy(numpy.sqrt(values.numpy()))
    wrong = int((values.sqrt() != exact).sum())
    print(values.dtype, "sqrt: not as IEEE rounds:", wrong, "of", len(values))
    print(values.dtype, "numpy.sqrt", digest(exact))
    for name in ("silu", "gelu"):
        print(values.dtype, name, digest(getattr(torch.nn.functional, name)(values)))
    print(values.dtype, "softmax", digest(values.softmax(0)), "pow", digest(values**1.3))
    print(values.dtype, "norm", digest(values.norm()), "std", digest(values.std()))
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(n, generator=generator, dtype=values.dtype) for n in (1000, 7)]
    print(values.dtype, "randn", *map(digest, draws))
print("fused AdamW", digest(fused_adamw(single)))

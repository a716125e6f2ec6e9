"""One instruction set and number of threads, so that a stage gives the same bytes everywhere.

AVX-512 sums in another order than AVX2, another maker's processor in another one, and four threads
in another than two. Libraries read these variables when they are loaded: programs import this
module before torch and numpy, `import pdiff` does not. Values that the user has set stay;
`PDIFF_PORTABLE=0` sets nothing. Only Linux on processors with AVX2 is changed.
"""

import os
from importlib.metadata import version
from pathlib import Path


def wanted() -> bool:
    """Whether the user and this processor allow the settings."""
    if os.environ.get("PDIFF_PORTABLE", "on").lower() in ("off", "0", "false"):
        return False
    processor = Path("/proc/cpuinfo")
    return processor.is_file() and " avx2 " in processor.read_text()


def settings() -> dict[str, str]:
    """The environment variables that hold torch, numpy and scikit-learn to AVX2 and two threads."""
    numpy = tuple(int(part) for part in version("numpy").split(".")[:2])
    return {
        "ATEN_CPU_CAPABILITY": "avx2",  # torch's own loops: sums, exp, batch norm
        "ONEDNN_MAX_CPU_ISA": "AVX2",  # torch's convolutions
        # torch's matrix products and eigh: the only value with the same bytes on AMD
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Haswell",  # products of numpy, scipy and scikit-learn
        # numpy's own loops; it warns of names that its version does not know
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"
        if numpy >= (2, 4)
        else "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL",
        "OMP_NUM_THREADS": "2",  # whatever the number of cores
        "MKL_DYNAMIC": "FALSE",  # or MKL takes one thread on one core
        "OPENBLAS_NUM_THREADS": "1",  # OpenBLAS refuses two on one core
    }


if wanted():
    for name, value in settings().items():
        os.environ.setdefault(name, value)

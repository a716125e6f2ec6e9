"""One instruction set and number of threads, so that a stage gives the same bytes everywhere.

A processor with AVX-512 sums in another order than one with AVX2, and so does another maker's.
Four threads sum in another order than two: in matrix products, some convolutions, batch norm of
1 x 1 maps and the mean over a large tensor.
The libraries read these variables once, when they are loaded: import this module before torch and
numpy. Child processes inherit them. A value that the user has set stays, and `PDIFF_PORTABLE=0`
sets nothing. Processors without AVX2 (ARM too), and systems other than Linux, are left as they are.

Only what is started as a program imports this module: to `import pdiff` changes no process.
"""

import os
from importlib.metadata import version
from pathlib import Path


def wanted() -> bool:
    """Whether this process is to compute as all others do, and this processor can."""
    if os.environ.get("PDIFF_PORTABLE", "on").lower() in ("off", "0", "false"):
        return False
    processor = Path("/proc/cpuinfo")
    return processor.is_file() and " avx2 " in processor.read_text()


def settings() -> dict[str, str]:
    """The environment variables that hold torch, numpy and scikit-learn to AVX2 and two threads."""
    numpy = tuple(int(part) for part in version("numpy").split(".")[:2])
    return {
        # torch's own loops: sums, exp, batch norm
        "ATEN_CPU_CAPABILITY": "avx2",
        # torch's convolutions
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        # torch's matrix products and eigh; on AMD, MKL takes no other value for the same bytes
        "MKL_CBWR": "COMPATIBLE",
        # matrix products of numpy, scipy and scikit-learn
        "OPENBLAS_CORETYPE": "Haswell",
        # numpy's own loops; it warns of names that its version does not know
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"
        if numpy >= (2, 4)
        else "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL",
        # two threads also where there is one core, or many
        "OMP_NUM_THREADS": "2",
        # MKL takes fewer where it sees fewer cores
        "MKL_DYNAMIC": "FALSE",
        # OpenBLAS too, whatever it is told; one it always takes
        "OPENBLAS_NUM_THREADS": "1",
    }


if wanted():
    for name, value in settings().items():
        os.environ.setdefault(name, value)

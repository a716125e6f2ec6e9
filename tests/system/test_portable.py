"""Which processes compute as all others do: the settings stand before torch is loaded."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pdiff.system.portable import settings, wanted
from tests.conftest import ROOT

# Ends where torch or numpy is about to be loaded, with the setting that it would see.
BEFORE_TORCH = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "numpy"):
            print(os.environ.get("ATEN_CPU_CAPABILITY"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
"""


def python(code: str, **environment: str) -> str:
    """What a new process prints that has none of the settings but `environment`."""
    own = {name: value for name, value in os.environ.items() if name not in settings()}
    own.pop("PDIFF_PORTABLE", None)
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", code],
        env=own | {"PYTHONPATH": str(ROOT)} | environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


needs_avx2 = pytest.mark.skipif(not wanted(), reason="no AVX2, or PDIFF_PORTABLE=0")


@needs_avx2
@pytest.mark.parametrize(
    "module", ["stages", "benchmarks.__main__", "pdiff.paper.__main__", "tests.conftest"]
)
def test_the_settings_stand_before_torch_is_loaded(module):
    assert python(f"{BEFORE_TORCH}import {module}, torch") == "avx2"


@needs_avx2
def test_numpy_and_openblas_follow_and_numpy_does_not_warn():
    code = (
        "import stages, numpy, threadpoolctl\n"
        "from numpy._core import _multiarray_umath as core\n"
        "loops = [name for name in core.__cpu_dispatch__ if core.__cpu_features__[name]]\n"
        "print([name for name in loops if '512' in name or name == 'X86_V4'])\n"
        "print({found['architecture'] for found in threadpoolctl.threadpool_info()"
        " if found['internal_api'] == 'openblas'})"
    )
    assert python(code).splitlines() == ["[]", "{'Haswell'}"]


def test_pdiff_portable_0_sets_nothing(monkeypatch):
    code = f"import os, stages; print(*sorted(set(os.environ) & set({list(settings())})))"
    assert python(code, PDIFF_PORTABLE="0") == ""
    for off in ("off", "False"):
        monkeypatch.setenv("PDIFF_PORTABLE", off)
        assert not wanted()


@needs_avx2
def test_torch_has_avx2_and_two_threads_unless_the_user_says_otherwise():
    names = ("OMP_NUM_THREADS", "MKL_DYNAMIC", "OPENBLAS_NUM_THREADS", "MKL_CBWR")
    code = (
        "import os, stages, torch\n"
        f"print(*(os.environ[name] for name in {names}), torch.get_num_threads(),"
        " torch.backends.cpu.get_cpu_capability())"
    )
    one_core = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    own = settings()["MKL_CBWR"]
    assert python(one_core + code) == f"2 FALSE 1 {own} 2 AVX2"
    assert python(code, OMP_NUM_THREADS="3", MKL_CBWR="AVX2") == "3 FALSE 1 AVX2 3 AVX2"


def test_importing_the_library_changes_no_process():
    code = "import os; before = dict(os.environ)\nimport {}\nprint(dict(os.environ) == before)"
    program = ROOT / "pdiff/cli.py"
    for path in sorted({*Path(ROOT / "pdiff").rglob("[a-z]*.py")} - {program}):
        imported = re.search(r"^\s*(import|from)\b.*\bportable\b", path.read_text(), re.MULTILINE)
        assert not imported, path
    assert python(code.format("pdiff.autoencoder.net, pdiff.evaluation.predict")) == "True"

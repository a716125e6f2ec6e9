"""Which processes compute as all others do: the settings stand before torch is loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pdiff.system.portable import settings, wanted
from tests.conftest import ROOT

# Ends with a failure where torch or numpy were loaded before the settings stood.
BEFORE_TORCH = """
import os, sys
seen = {}
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "numpy"):
            seen.setdefault(name, os.environ.get("ATEN_CPU_CAPABILITY"))
sys.meta_path.insert(0, Watch())
"""
SHOW = "\nimport torch; print(seen.get('torch'), torch.backends.cpu.get_cpu_capability())"


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
@pytest.mark.parametrize("module", ["stages", "benchmarks.__main__", "tests.conftest"])
def test_the_settings_stand_before_torch_is_loaded(module):
    assert python(f"{BEFORE_TORCH}import {module}{SHOW}") == "avx2 AVX2"


@needs_avx2
def test_tables_set_them_too():
    code = "import sys; sys.argv = ['tables', '--help']; import runpy\n" + (
        "try: runpy.run_module('pdiff.paper', run_name='__main__')\nexcept SystemExit: pass\n"
    )
    assert python(f"{BEFORE_TORCH}{code}{SHOW}").splitlines()[-1] == "avx2 AVX2"


@needs_avx2
def test_numpy_and_openblas_follow_and_numpy_does_not_warn():
    code = (
        "import stages, numpy, threadpoolctl\n"
        "from numpy._core._multiarray_umath import __cpu_features__ as has\n"
        "print([name for name in has if '512' in name and has[name] and '_' in name])\n"
        "print({found['architecture'] for found in threadpoolctl.threadpool_info()"
        " if found['internal_api'] == 'openblas'})"
    )
    assert python(code).splitlines() == ["[]", "{'Haswell'}"]


def test_pdiff_portable_0_sets_nothing():
    code = "import os, stages; print(*sorted(set(os.environ) & set(sys.argv)))"
    code = f"import sys; sys.argv = {list(settings())}\n{code}"
    for off in ("0", "off", "False"):
        assert python(code, PDIFF_PORTABLE=off) == ""


@needs_avx2
def test_a_users_own_value_stays():
    code = "import os, stages; print(os.environ['MKL_CBWR'], os.environ['ATEN_CPU_CAPABILITY'])"
    assert python(code, MKL_CBWR="AVX2") == "AVX2 avx2"


@needs_avx2
def test_two_threads_unless_the_user_says_otherwise():
    code = (
        "import os, stages, torch\n"
        "print(*(os.environ[name] for name in ('OMP_NUM_THREADS', 'MKL_DYNAMIC',"
        " 'OPENBLAS_NUM_THREADS')), torch.get_num_threads())"
    )
    assert python(code) == "2 FALSE 1 2"
    one_core = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    assert python(one_core + code) == "2 FALSE 1 2"
    assert python(code, OMP_NUM_THREADS="3") == "3 FALSE 1 3"


def test_importing_the_library_changes_no_process():
    code = "import os; before = dict(os.environ)\nimport {}\nprint(dict(os.environ) == before)"
    for path in sorted(Path(ROOT / "pdiff").rglob("[a-z]*.py")):
        assert path.stem == "portable" or "portable" not in path.read_text(), path
    assert python(code.format("pdiff.autoencoder.net, pdiff.evaluation.predict")) == "True"

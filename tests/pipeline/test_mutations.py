"""Whatever stands in params.yaml, `check_params` says yes, or no in one line: never a traceback."""

import contextlib
import io
import math
from copy import deepcopy

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.toys.pipeline import run_stages

NUMBERS = st.sampled_from(
    [
        *(-1, 0, 1, 2, 3, 7, 40, 1001, 10**5, 10**6, 10**9, 2**32 - 1, 2**32, 2**63, 10**400),
        *(-0.0, 1e-320, 1e-45, 1e-9, 0.1, 0.999999, 1.5, 1e10, 1e30, 1e308, math.inf, math.nan),
    ]
)
WORDS = ["", "all", "last_norms:99999999999999999999", "*", "[", "1e-3", "???", "\0", "~", "/", "ü"]
LEAVES = st.one_of(
    NUMBERS,
    st.sampled_from(["conv", "vae", "linear", "ddim", "prior", "paper", "folder", *WORDS]),
    st.text(max_size=8),
    st.booleans(),
    st.none(),
)
VALUES = st.one_of(
    LEAVES, st.lists(LEAVES, max_size=5), st.dictionaries(st.text(max_size=3), LEAVES)
)


@st.composite
def mutations(draw: st.DrawFn, raw: dict) -> object:
    """params.yaml with one to three values changed, dropped or added, or sections replaced."""
    params = deepcopy(raw)
    for _ in range(draw(st.integers(1, 3))):
        section = draw(st.sampled_from(sorted(params)))
        if not isinstance(params[section], dict) or draw(st.integers(0, 19)) == 0:
            params[section] = draw(VALUES)
            continue
        key = draw(st.sampled_from([*sorted(params[section], key=str), "more"]))
        if draw(st.integers(0, 19)) == 0:
            params[section].pop(key, None)
        else:
            params[section][key] = draw(VALUES)
    return params


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mutations")


@pytest.mark.slow
@given(data=st.data())
@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_random_mutations_end_well_or_in_one_line(folder, tiny_raw, data):
    raw, said, code = data.draw(mutations(tiny_raw)), io.StringIO(), 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            run_stages(folder, raw, ("check_params",))
        except SystemExit as ended:
            code = ended.code
    lines = said.getvalue().splitlines()
    assert (code, len(lines)) in ((0, 0), (1, 1)), yaml.safe_dump(raw)
    assert all(line.startswith("error: ") for line in lines)

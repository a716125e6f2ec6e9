"""The lock file pins what requirements.txt asks for."""

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT


def lines(name: str) -> list[Requirement]:
    """The requirements of a file, without its comments."""
    text = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return [Requirement(line) for line in text if line]


LOCKED = {canonicalize_name(found.name): found for found in lines("requirements.lock")}


@pytest.mark.parametrize("wanted", lines("requirements.txt"), ids=str)
def test_the_lock_pins_a_version_that_is_allowed(wanted):
    locked = LOCKED[canonicalize_name(wanted.name)]
    (pin,) = locked.specifier
    assert pin.operator == "=="
    assert wanted.specifier.contains(pin.version)


def test_the_lock_holds_exact_versions_alone():
    assert {str(found.specifier)[:2] for found in LOCKED.values()} == {"=="}
    assert not [found for found in LOCKED.values() if found.url]

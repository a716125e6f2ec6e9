"""Names, order and colours of the groups of models."""

import pytest

from pdiff.baselines.registry import FAMILIES, colour, family, label, level, name, ordered

GROUPS = [
    "noised_1e-05",
    "soup_8",
    "noised_0.15",
    "soup_64",
    "soup_greedy",
    "generated",
    "original",
]


def test_a_name_gives_back_family_and_level():
    for kind, entry in FAMILIES.items():
        group = name(kind, 0.15 if "{}" in entry.label else None)
        assert (family(group), level(group)) == (kind, 0.15 if "{}" in entry.label else 0.0)


def test_groups_are_ordered_by_family_and_then_by_level():
    expected = ["original", "generated", "soup_8", "soup_64", "soup_greedy"]
    assert ordered(GROUPS) == [*expected, "noised_1e-05", "noised_0.15"]


@pytest.mark.parametrize("unknown", ["noise_0.1", "noised", "generated_2", "soup_many", "soup_-1"])
def test_an_unknown_group_is_refused_by_name(unknown):
    with pytest.raises(ValueError, match=f"unknown group '{unknown}'; families are original, "):
        family(unknown)


def test_a_label_holds_the_level():
    assert [label(g) for g in ("noised_0.15", "soup_8")] == ["noise 0.15", "soup of 8"]


def test_groups_that_are_shown_together_have_different_colours():
    assert len({colour(group, GROUPS) for group in GROUPS}) == len(GROUPS)

"""Claims over pipelines: which word follows from which differences."""

import math

import numpy as np
import pytest

from pdiff.novelty import inference
from pdiff.novelty.claims import Claim, bracket, judge, over_pipelines, shown

MARGINS = {"accuracy": 0.002, "similarity": 0.01}
NEAR = (-0.0002, 0.0, 0.0001, 0.0001)
FAR = (0.0099, 0.0101, 0.01, 0.01)
WIDE = (-0.05, 0.05, 0.01, -0.01)
CLEAR = (0.0150, 0.0070, 0.0140, 0.0040)


def three(*groups: tuple[float, ...], kind: str = "accuracy") -> list[Claim]:
    claims = [over_pipelines(f"claim {i}", kind, values) for i, values in enumerate(groups)]
    return judge(claims, MARGINS)


def test_each_word_follows_from_the_differences_over_pipelines():
    worse = tuple(-value for value in FAR)
    found = [claim.word for claim in three(FAR, worse, NEAR, WIDE)]
    assert found == ["better", "worse", "equal within the margin", "unknown"]


def test_the_margin_is_that_of_the_claims_own_kind():
    """Differences of about 0.006 are within 0.01 IoU, and beyond 0.002 of accuracy."""
    values = (0.004, -0.003, 0.006, -0.005)
    assert three(values, kind="similarity")[0].word == "equal within the margin"
    assert three(values)[0].word == "unknown"


def test_a_difference_that_is_found_within_the_margin_is_better_all_the_same():
    assert three((0.0010, 0.0011, 0.0009, 0.0010))[0].word == "better"


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (CLEAR, "better"),
        ((0.00224, -0.0014, 0.00168, -0.00196, 0.00028, -0.0007), "equal within the margin"),
    ],
)
def test_a_claim_that_stands_alone_may_not_stand_among_three(values, word):
    """The p of the word is 0.02 to 0.05: enough for one claim, not for the smallest of three."""
    (alone,) = three(values)
    among, *_ = three(values, WIDE, WIDE)
    assert (alone.word, among.word) == (word, "unknown")
    assert among.p == pytest.approx(min(3 * alone.p, 1))


@pytest.mark.parametrize("values", [(), (0.01,)])
def test_fewer_than_two_pipelines_have_no_word_and_still_count(values):
    few, other, _ = three(values, CLEAR, WIDE)
    assert few.word is None and math.isnan(few.p) and math.isnan(few.power)
    assert math.isnan(few.low)
    assert other.p == pytest.approx(3 * three(CLEAR)[0].p)


def test_each_word_has_the_power_of_holms_first_step():
    alone, *_ = three(WIDE)
    among, far, _ = three(WIDE, FAR, WIDE)
    assert 0.016 < among.power < alone.power < 0.06
    assert far.power == 1


def test_a_described_claim_has_its_difference_and_interval_and_no_word():
    claim = over_pipelines("text", "accuracy", FAR)
    assert claim.estimate == pytest.approx(0.01)
    assert claim.low < 0.01 < claim.high
    assert claim.word is None and math.isnan(claim.p)


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ((0.0, 0.0, 0.0), {"better", "worse"}),
        ((0.002, 0.002, -0.002), {"equal within the margin"}),
    ],
)
def test_a_word_is_wrong_in_no_more_than_5_percent_of_studies(means, words, monkeypatch):
    """Models without a difference, and models on the margin: five pipelines in 200 studies."""
    monkeypatch.setattr(inference, "POWER_STEPS", 1)  # the power, which takes the time, is not read
    random, found = np.random.default_rng(0), 0
    for _ in range(200):
        studies = [tuple(random.normal(mean, 0.001, 5)) for mean in means]
        found += not words.isdisjoint(claim.word for claim in three(*studies))
    assert found / 200 <= 0.06


def test_numbers_are_points_or_similarities_with_their_sign():
    assert (shown(0.0123, "accuracy"), shown(-0.0123, "similarity")) == ("+1.23", "-0.012")
    assert bracket(-0.01, 0.02, "accuracy") == "[-1.00, +2.00]"
    assert (shown(math.nan, "accuracy"), bracket(math.nan, math.nan, "accuracy")) == ("-", "-")

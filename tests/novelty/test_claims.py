"""What a report claims of one run, from hand-made tables."""

import numpy as np
import pandas as pd

from pdiff.novelty.claims import claims


def compared(**words: str) -> pd.DataFrame:
    groups = ["original", "ensemble", "gaussian_full", "latent_gaussian"]
    frame = pd.DataFrame({"group": groups, "chosen_difference": 0.01, "chosen_p": 0.2})
    for name in ("accuracy", "novelty"):
        frame[f"{name}_difference"], frame[f"{name}_low"], frame[f"{name}_high"] = (
            0.01,
            -0.002,
            0.03,
        )
        frame[f"{name}_word"] = words.get(name, "cannot tell")
    return frame.assign(chosen_word=words.get("chosen", "cannot tell"))


def ladders(p: float, difference: float, no_overlap: float) -> pd.DataFrame:
    row = {"p": p, "difference": difference, "no_overlap": no_overlap}
    row |= {"difference_low": difference - 0.01, "difference_high": difference + 0.01}
    return pd.DataFrame([{"ladder": name, **row} for name in ("noised", "absolute", "soup")])


def test_claims_carry_the_words_and_numbers_of_the_tables():
    found = {
        c.text: c for c in claims(compared(accuracy="holds"), ladders(0.001, 0.02, 0.0), fits=True)
    }
    best = found["better than the originals on average"]
    assert (best.outcome, best.numbers) == ("holds", "+1.00 % [-0.20, +3.00] against original")
    assert found["more novel than a Gaussian of the latents"].outcome == "cannot tell"
    equal = found["more novel than noise at equal accuracy"]
    assert equal.outcome == "holds"
    assert equal.numbers == "+0.020 similarity [+0.010, +0.030], no overlap in 0 % of replicates"


def test_without_overlap_nothing_can_be_told():
    found = {c.text: c for c in claims(compared(), ladders(np.nan, np.nan, 1.0), fits=True)}
    equal = found["more novel than noise at equal accuracy"]
    assert (equal.outcome, equal.numbers) == ("cannot tell", "no overlap in 100 % of replicates")


def test_two_ladders_are_two_claims_for_holm():
    found = [
        c.outcome
        for c in claims(compared(), ladders(0.03, 0.02, 0.0), fits=True)
        if "equal" in c.text
    ]
    assert found == ["cannot tell", "cannot tell"]  # 0.03 alone would have been enough


def test_nothing_is_told_of_a_generator_that_does_not_fit():
    tables = compared(accuracy="holds"), ladders(0.001, 0.02, 0.0)
    fitted, unfitted = (claims(*tables, fits=fits) for fits in (True, False))
    assert "holds" in {claim.outcome for claim in fitted}
    assert {claim.outcome for claim in unfitted} == {"cannot tell"}
    assert [claim.numbers for claim in unfitted] == [claim.numbers for claim in fitted]

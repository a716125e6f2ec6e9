"""How groups are drawn: a colour of Okabe and Ito's, and a marker of its own.

Originals are blue and generated models orange as in the paper, noise is grey. Readers with
deuteranopia or protanopia tell the `MAIN` groups apart, and their markers stand out from white.
Okabe & Ito 2008, "Color Universal Design".
"""

from typing import NamedTuple

from pdiff.baselines.registry import split


class Look(NamedTuple):
    """Colour and matplotlib marker."""

    colour: str
    marker: str


MAIN = {
    "original": Look("#0072B2", "o"),
    "generated": Look("#D55E00", "D"),
    "ensemble": Look("#000000", "*"),
    "latent_gaussian": Look("#CC79A7", "s"),
    "fresh": Look("#009E73", "^"),
}
"""What a reader compares first; other groups of the report are `OTHER`."""
PAPER = {"reconstructed": Look("#56B4E9", "P"), "noised": Look("#767676", "X")}
"""What the paper draws beside them, by family."""
OTHER = Look("#A6A6A6", "o")


def look(group: str) -> Look:
    """How a group is drawn wherever it is named."""
    return (MAIN | PAPER).get(split(group)[0], OTHER)

"""The warnings that the last stages repeat, and the six lines that a run ends with."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pdiff.diffusion.bars import caveats
from pdiff.novelty.bootstrap import Replicates
from pdiff.novelty.ending import accuracies, where
from pdiff.novelty.pictures import plot_scatter

FINE = {"the base net": 0.9, "the originals": 0.8}


def test_a_run_that_went_well_has_no_caveat():
    assert caveats([], FINE, 0.2, 0.0, 0.01) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((["R² is -8.66"], FINE, 0.2, 0.0, 0.01), "The generator does not fit: R² is -8.66; no "),
        (([], FINE | {"the base net": 0.2}, 0.2, 0.0, 0.01), "The accuracy of the base net is 0.2"),
        (([], FINE, 0.8, 0.0, 0.01), "The accuracy of the originals is 0.8000; guessing reaches 0"),
        (([], FINE, 0.2, 0.0125, 0.01), "Reconstructed checkpoints lose 0.0125 of mean test accu"),
    ],
)
def test_each_warning_of_an_earlier_stage_is_a_caveat(arguments, text):
    (found,) = caveats(*arguments)
    assert found.startswith(text)


def test_the_caption_of_the_scatter_carries_the_warnings():
    columns = {"group": ["original", "generated"], "accuracy": 0.5, "max_similarity": 0.5}
    figure, _ = plot_scatter(pd.DataFrame(columns), "test", note="The base net guesses.")
    assert figure.get_suptitle() == "The base net guesses."


def test_the_scatter_leaves_out_models_whose_score_is_infinite():
    columns = {"group": ["original", "generated", "generated"], "max_similarity": 0.5}
    models = pd.DataFrame({**columns, "accuracy": 0.0, "score": [9.0, 8.0, math.inf]})
    figure, words = plot_scatter(models, "test", metric="FID")
    assert "8.00 at 0.500" in words and figure.axes[0].get_ylim()[1] < 100


def test_a_run_ends_with_six_lines():
    groups = {"original": 0.9, "ensemble": 0.95, "reconstructed": 0.91, "generated": 0.92}
    table = pd.DataFrame({"group": groups.keys(), "accuracy_mean": groups.values()})
    draws = {g: Replicates(*[np.full(100, mean - 0.3)] * 5) for g, mean in groups.items()}
    assert accuracies(table, draws, "test", fits=True) == [
        "test accuracy (%): original 90.00, ensemble 95.00, reconstructed 91.00, generated 92.00",
        "the generator fits; generated - original +2.00 [+2.00, +2.00]; "
        "generated - ensemble -3.00 [-3.00, -3.00]",
    ]
    scores = table.assign(score="mIoU", score_mean=table["accuracy_mean"] * 50)
    assert accuracies(scores, draws, "test", fits=True) == [
        "test mIoU: original 45.00, ensemble 47.50, reconstructed 45.50, generated 46.00",
        "the generator fits; generated - original +1.00; generated - ensemble -1.50",
    ]
    assert where(723.4, Path("report/audit/report.html"), "git commit") == [
        "its stages took 12 min 3 s",
        "report:  report/audit/report.html",
        "compare: make ui, or make table",
        "keep:    git commit",
    ]

"""Every number in README's prose and tables comes from a file, or is part of a name.

`.ci/check.py docs` holds the first table to `report/summary.csv`.
"""

import json
import re
from functools import cache

import pandas as pd
import pytest
import yaml

from pdiff.novelty.claims import bracket, shown
from pdiff.paper.cli import parser
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
NAMES = (  # what has a digit and was not measured here
    *("ResNet-18", "ResNet-20", "MobileNetV1", "CIFAR-100", "CIFAR-10", "x86-64", "H100", "2024)"),
    *("Python 3.11", "about 6 GB of disk", "2.4 GHz", "images (0.2 GB)", "224 px", "Apache-2.0"),
    *(
        "Tables 3, 4, 8 and 9 and Figures 3 to 5",
        "Tables 1, 2, 3a to 3f, 4 to 13",
        "Tables 7 and 10 to 12",
    ),
    *("Figures 1, 3, 4, 5a, 5b, 5c", "95 % intervals"),
)


def prose() -> str:
    """README without tables, code and the targets of links."""
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    text = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "", text))
    return " ".join(text.split())


@cache
def verdict() -> pd.DataFrame:
    """`results/verdict.csv`, by image set, recipe and row."""
    rows = pd.read_csv(ROOT / "results/verdict.csv", dtype={"row": str})
    setting = rows["section"].str.extract(r"^(?P<data>\w+),.*\brecipe (?P<recipe>\w+)")
    return pd.concat([rows, setting], axis=1).set_index(["data", "recipe", "row"]).sort_index()


def number(data: str, recipe: str, row: str) -> str:
    """Estimate and interval of one row of one setting."""
    found = verdict().loc[(data, recipe, row)]
    interval = bracket(found["low"], found["high"], found["kind"])
    return f"{shown(found['estimate'], found['kind'])} {interval}"


PAPERS = ("cifar100_images", "cifar100")
"""The sections of the paper's recipe: MobileNetV1, ResNet-18."""


def estimate(data: str) -> float:
    """R² of the paper's recipe."""
    return verdict().loc[(data, "paper", "0"), "estimate"]


def sources() -> list[str]:
    """Texts of the prose whose numbers files have."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    fit = json.loads((ROOT / "metrics/novelty.json").read_text())["fit"]
    return [
        f"keep {params['finetune']['checkpoints']} checkpoints",
        f"draw {params['generate']['models']} new parameter sets",
        f"on {params['data']['train_size']} noisy digits",
        "2,048 values",  # tests/parameters counts them
        f"{params['data']['test_size']} test images",
        f"R² = {fit['r2']:.3f}",
        f"gain {' and '.join(number(data, 'paper', '1') for data in PAPERS)} points",
        f"R² is {' and '.join(format(estimate(data), '.2f') for data in PAPERS)} there",
    ]


def test_every_number_of_the_prose_comes_from_a_file():
    text = prose()
    for source in sources():
        assert source in text
        text = text.replace(source, "")
    for name in NAMES:
        text = text.replace(name, "")
    assert re.findall(r"[^ ]*\d[^ ]*", text) == []


def test_the_number_of_pipelines_is_that_of_the_verdict():
    words = ("two", "three", "four", "five", "six", "seven")
    digits, photos = (
        words[int(verdict().loc[(d, "quick", "1"), "n"]) - 2] for d in ("digits", "cifar100_images")
    )
    assert f"{digits} on the digits, {photos} with a pretrained" in prose()


COMPARED = {"1": "+0.8", "2": "0.0", "3": "-", "4": "-", "8b": "-", "8": "-"}
"""Rows of `verdict.csv` in the table behind `<!-- verdict -->`, with the number of the paper."""


def test_the_table_of_the_verdict_is_that_of_results():
    lines = README.partition("<!-- verdict -->")[2].partition("\n\n")[0].strip().splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [[paper, *cells] for _, paper, *cells in rows] == [
        [paper, *(answered(data, row) for data in ("digits", "cifar100_images"))]
        for row, paper in COMPARED.items()
    ]


def answered(data: str, row: str) -> str:
    """`better: +0.19 [+0.16, +0.21]`, without a word where the verdict gives none."""
    word, found = verdict().loc[(data, "quick", row), "answer"], number(data, "quick", row)
    return found if word == "described" else f"{word}: {found}"


FITS = {  # rows of the table behind `<!-- fits -->`: recipe and group of `results/fit_*.csv`
    "originals": ("", "original"),
    "fresh runs": ("", "second_run"),  # its name at the commit that the files name
    "ensemble": ("", "ensemble"),
    "soups of 8": ("", "soup_8"),
    "Gaussian, full": ("", "gaussian_full"),
    "first version: reconstructed": ("normalise_tensor", "reconstructed"),
    "first version: generated": ("normalise_tensor", "generated"),
    "now: reconstructed": ("", "reconstructed"),
    "**now: generated**": ("", "generated"),
}


def test_the_table_of_fits_is_that_of_results():
    frames = [
        pd.read_csv(ROOT / f"results/fit_quick_{name}.csv", keep_default_na=False, na_values=[""])
        for name in ("digits_resnet18", "cifar10_images_cifar_resnet20")
    ]
    lines = README.partition("<!-- fits -->")[2].strip().splitlines()[2:]
    rows = {}
    for line in lines[: lines.index("")]:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = cells
    assert list(rows) == list(FITS)
    for name, (recipe, group) in FITS.items():
        expected = []
        for frame in frames:
            recipes = frame["recipe"].fillna("")
            row = frame[(recipes == recipe) & (frame["row"] == group)].iloc[0]
            expected.append(_cell(100 * row["accuracy"], 100 * row["accuracy_std"], 2))
            within = row["similarity_within"], row["similarity_within_std"]
            expected.append(_cell(*within, 3))
        assert rows[name] == expected, name


def _cell(mean: float, std: float, digits: int) -> str:
    if pd.isna(mean):
        return "-"
    return f"{mean:.{digits}f}" + ("" if pd.isna(std) else f" ± {std:.{digits}f}")


@pytest.mark.parametrize("line", re.findall(r"^make (?:table|verdict) .*$", README, re.MULTILINE))
def test_a_command_of_the_readme_has_arguments_that_exist(line):
    found = {k: a or b for k, a, b in re.findall(r'(T|ARGS)=(?:"([^"]*)"|(\S+))', line)}
    parser().parse_args([found.get("T", "verdict"), *found.get("ARGS", "").split()])


def test_the_tests_that_the_page_on_reliability_names_exist():
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs/reliability.md").read_text())
    assert named
    assert [name for name in named if f"def {name}(" not in code] == []

"""The report of hand-made evidence: whole, offline, escaped, no wider than a phone."""

import base64
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import pdiff.audit
from pdiff.audit import report
from pdiff.audit.analysis import Analysis, analyses
from pdiff.audit.report import cell, columns, heading, lead, number, write_audit
from pdiff.config import GenerateConfig
from tests.toys.audit import SIZES, toy_evidence, toy_matrices
from tests.toys.runs import FIT

CHROME = shutil.which("chromium") or shutil.which("google-chrome")
TABLES = {"groups", "pareto", "codec", "neighbours", "votes", "similarity_matrix", "distances"}
TABLES |= {"copying"}
FIGURES = TABLES - {"groups", "neighbours"} | {"similarity", "heat_map", "projection"}


def attributes(text: str, tag: str = r"\w+") -> list[dict[str, str]]:
    """Those of each element."""
    return [
        dict(re.findall(r'(\w+)="([^"]*)"', found)) for found in re.findall(f"<{tag}[^>]*", text)
    ]


@pytest.fixture(scope="module")
def audited(tmp_path_factory) -> tuple[Path, dict]:
    """An audit with real pictures, and its headline numbers."""
    folder, lead = tmp_path_factory.mktemp("audit"), "The generator fits & <learned>."
    return folder, write_audit(folder, toy_evidence(), lead, {"data": "made up"})


@pytest.fixture(scope="module")
def text(audited) -> str:
    return (audited[0] / "report.html").read_text()


def test_every_analysis_leaves_its_files_and_the_report_holds_its_pictures(audited, text):
    expected = {f"{name}.csv" for name in TABLES} | {f"{name}.png" for name in FIGURES}
    assert {path.name for path in audited[0].iterdir()} == expected | {"report.html"}
    assert text.count("data:image/png") == len(FIGURES)


def test_every_element_is_closed_and_nothing_is_fetched(text):
    opened, closed = (Counter(re.findall(rf"<{slash}(\w+)", text)) for slash in ("", "/"))
    assert set(opened - closed) == {"meta", "img"} and not closed - opened
    links = [each.get("src") or each.get("href", "#") for each in attributes(text)]
    assert [link[:40] for link in links if not link.startswith(("#", "data:"))] == []
    assert not re.search(r"<(script|link|iframe|base)\b|@import|url\(", text)


def test_all_anchors_resolve(text):
    targets = [each["id"] for each in attributes(text) if "id" in each]
    assert len(targets) == len(set(targets)) == len(analyses())
    links = {each["href"].removeprefix("#") for each in attributes(text) if "href" in each}
    assert links == set(targets)


def test_all_images_decode_and_say_what_they_show(text):
    for image in attributes(text, "img"):
        content = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        with Image.open(BytesIO(content)) as picture:
            picture.load()
            assert picture.size == (int(image["width"]), int(image["height"]))
            assert picture.mode == "P" and len(content) < 80_000
            assert set(picture.info) <= {"dpi", "transparency"}  # no time, no program
        assert image["alt"].endswith(".") and len(image["alt"]) > 20


def test_the_fit_and_the_differences_stand_before_the_analyses(text):
    top = text.partition("<main>")[0]
    fit, table = top.index("The generator fits"), top.index("accuracy difference (%)")
    assert fit < table < top.index("made up")
    assert top.count('<span class="dot"') == len(SIZES)
    assert "<dt>soup of N</dt><dd>The mean of N random originals.</dd>" in top


def test_all_text_is_escaped(tmp_path, monkeypatch, text):
    assert "fits &amp; &lt;learned&gt;." in text
    evil = "<b>&\"'</b>"
    words = dict.fromkeys(("title", "question", "reading", "definition", "source"), evil)
    section = {"analysis": Analysis("x", 1, **words), "pictures": {}}
    section["table"] = pd.DataFrame({evil: [evil]})
    groups = pd.DataFrame({"group": ["original"]})
    report.write_report(tmp_path / "r.html", evil, {evil: evil}, groups, [section])
    found = (tmp_path / "r.html").read_text()
    assert "<b>" not in found
    assert found.count("&lt;b&gt;&amp;") == 11


def test_the_same_evidence_gives_the_same_bytes(audited, tmp_path, monkeypatch):
    """All tables, and one picture, which takes most of the time."""
    drawn = [replace(each, figures={}) for each in analyses() if each.name != "pareto"]
    shown = [analyses()[0], *drawn]
    monkeypatch.setattr(report, "analyses", lambda: shown)
    write_audit(tmp_path, toy_evidence(), "lead", {})
    assert {path.name for path in tmp_path.glob("*.csv")} == {f"{name}.csv" for name in TABLES}
    for path in (*tmp_path.glob("*.csv"), tmp_path / "pareto.png"):
        assert path.read_bytes() == (audited[0] / path.name).read_bytes(), path.name


NEW = '''
import pandas as pd
from matplotlib import pyplot as plt
from pdiff.audit.analysis import Analysis

def picture(evidence, table):
    """A line through the counts of models."""
    figure, axes = plt.subplots()
    axes.plot(table["models"])
    return figure

ANALYSIS = Analysis(
    name="throw_away", order=0, title="Thrown away", question="How many?", reading="Read it.",
    definition="A count.", source="None.", figures={"throw_away": picture},
    table=lambda evidence: pd.DataFrame({"models": [len(w) for w in evidence.wrong.values()]}),
    numbers=lambda table: {"most_models": table["models"].max()},
)
'''


def test_an_analysis_is_added_by_one_file(tmp_path, monkeypatch):
    (tmp_path / "throw_away.py").write_text(NEW)
    monkeypatch.setattr(pdiff.audit, "__path__", [*pdiff.audit.__path__, str(tmp_path)])
    shown = [each if each.order == 0 else replace(each, figures={}) for each in analyses()]
    monkeypatch.setattr(report, "analyses", lambda: shown)
    unseen = ("held_back", "fresh")
    kept = {g: m for g, m in toy_matrices().items() if g not in unseen}
    found = write_audit(tmp_path / "out", toy_evidence(kept), "lead", {})
    assert found["z_fresh"] is None and found["z_held_back"] is None  # not defined
    text = (tmp_path / "out/report.html").read_text()
    assert found["most_models"] == 12
    assert text.index("Thrown away") < text.index("Accuracy and similarity")
    assert 'alt="A line through the counts of models."' in text
    assert (tmp_path / "out/throw_away.png").exists()
    table = pd.read_csv(tmp_path / "out/throw_away.csv")
    assert table["models"].tolist() == [len(models) for models in kept.values()]


def test_the_headline_numbers_are_those_of_the_generated_models(audited):
    folder, found = audited
    table = {name: pd.read_csv(folder / f"{name}.csv").set_index("group") for name in TABLES}
    groups = table["groups"]["accuracy"]
    difference = groups["generated"] - groups["gaussian_full"]
    assert found["accuracy_over_gaussian_full"] == pytest.approx(difference, abs=2e-6)
    for name in ("z_fresh", "z_held_back"):
        assert found[name] == pytest.approx(table["copying"].loc["generated", name], abs=1e-6)
    own = table["distances"].loc["generated"]
    assert found["interpolation_index"] == pytest.approx(own["interpolation_mean"], abs=1e-6)
    assert found["outside_span"] == pytest.approx(own["outside_span_mean"], abs=1e-6)


def test_the_lead_says_the_fit_and_what_it_misses(params):
    similarity = {"reconstructed_within": 0.749, "original_within": 0.735}
    config: GenerateConfig = params.generate
    said = lead({"fit": FIT, "similarity": similarity}, config, 0.98)
    assert said.startswith("The codec explains R² = 0.990 of the checkpoints' deviation")
    assert said.endswith("The generator fits.")
    missed = lead({"fit": FIT | {"r2": 0.87}, "similarity": similarity}, config, 0.98)
    assert "The generator does not fit: the codec's R² is 0.87" in missed
    assert missed.endswith("no claim about the method can be made from this run.")


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("accuracy_mean", 0.92188, "92.19"),
        ("share_of_front", 0.5, "50.00"),
        ("max_similarity_mean", 0.97914, "0.979"),
        ("z_held_back", -12.3456, "-12.346"),
        ("models", np.int64(2300), "2,300"),
        ("nearest", 12345.6, "12,346"),
        ("nearest", 0.00012, "1.2e-04"),
        ("max_similarity", 1.0, "1.000"),
        ("r2", -7.2e-10, "0.000"),
        ("nearest", float("nan"), "-"),
        ("rank", pd.NA, "-"),
    ],
)
def test_numbers_are_made_for_readers(column, value, expected):
    assert number(column, value) == expected


def test_an_interval_stands_in_the_cell_of_its_estimate_and_a_heading_has_its_unit():
    table = pd.DataFrame({"group": ["soup_8"], "accuracy": [0.5]})
    table = table.assign(accuracy_low=0.4, accuracy_high=0.625, nearest_low=1.0)
    assert columns(table) == ["group", "accuracy", "nearest_low"]
    assert cell(table, 0, "accuracy") == "50.00 [40.00, 62.50]"
    assert cell(table, 0, "group") == "soup of 8"
    found = [heading(n) for n in ("accuracy_mean", "max_similarity_mean", "noised_0.15")]
    assert found == ["accuracy mean (%)", "max similarity mean", "noise 0.15"]


@pytest.mark.slow
@pytest.mark.skipif(CHROME is None, reason="neither chromium nor google-chrome is on PATH")
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(text, tmp_path, width):
    """In a frame of that width, since a window of Chromium is 500 pixels wide at least."""
    check = (
        "<script>addEventListener('load', () => { const page = document.documentElement;"
        "parent.postMessage(`${innerWidth} wide, ${page.scrollWidth - page.clientWidth} more`, '*')"
        "})</script>"
    )
    (tmp_path / "report.html").write_text(text + check)
    (tmp_path / "frame.html").write_text(
        "<title>nothing</title><body style='margin:0'>"
        "<script>addEventListener('message', m => { document.title = m.data })</script>"
        f"<iframe src='report.html' style='border:0;width:{width}px;height:900px'></iframe>"
    )
    command = [CHROME, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    command += ["--dump-dom", (tmp_path / "frame.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    assert f"<title>{width} wide, 0 more</title>" in dom, dom[:500]

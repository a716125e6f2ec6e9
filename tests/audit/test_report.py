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
from pdiff.audit.report import Fit, cell, columns, finding, heading, lead, number, write_audit
from pdiff.config import GenerateConfig
from tests.toys.audit import SIZES, toy_evidence, toy_matrices, toy_summary
from tests.toys.runs import FIT

CHROME = shutil.which("chromium") or shutil.which("google-chrome")
TABLES = {"groups", "pareto", "codec", "neighbours", "votes", "similarity_matrix", "distances"}
TABLES |= {"copying"}
FIGURES = TABLES - {"neighbours"} | {"similarity", "heat_map", "projection"}
FITS = Fit(True, "The generator fits & <learned>.", "R² = 0.99.")


def attributes(text: str, tag: str = r"\w+") -> list[dict[str, str]]:
    """Those of each element."""
    return [
        dict(re.findall(r'(\w+)="([^"]*)"', found)) for found in re.findall(f"<{tag}[^>]*", text)
    ]


@pytest.fixture(scope="module")
def audited(tmp_path_factory) -> tuple[Path, dict]:
    """An audit with real pictures, and its headline numbers."""
    folder = tmp_path_factory.mktemp("audit")
    others = toy_summary(tmp_path_factory.mktemp("examples"))
    return folder, write_audit(folder, toy_evidence(), FITS, {"data": "made up"}, *others)


@pytest.fixture(scope="module")
def text(audited) -> str:
    return (audited[0] / "report.html").read_text()


def test_every_analysis_leaves_its_files_and_the_report_holds_its_pictures(audited, text):
    expected = {f"{name}.csv" for name in TABLES}
    expected |= {f"{name}.{end}" for name in FIGURES for end in ("png", "pdf")}
    assert {path.name for path in audited[0].iterdir()} == expected | {"report.html"}
    assert text.count("data:image/png") == len(FIGURES) + 1  # and test images
    assert 'alt="4 by 4 pixels."' in text


def test_every_element_is_closed_and_nothing_is_fetched(text):
    opened, closed = (Counter(re.findall(rf"<{slash}(\w+)", text)) for slash in ("", "/"))
    assert set(opened - closed) == {"meta", "img"} and not closed - opened
    links = [each.get("src") or each.get("href", "#") for each in attributes(text)]
    assert [link[:40] for link in links if not link.startswith(("#", "data:"))] == []
    assert not re.search(r"<(script [^>]*src|link|iframe|base)\b|@import|url\(", text)


def test_all_anchors_resolve(text):
    targets = [each["id"] for each in attributes(text) if "id" in each]
    assert len(targets) == len(set(targets)) == len(analyses())
    links = {e["href"][1:] for e in attributes(text) if e.get("href", "").startswith("#")}
    assert links == set(targets)


def test_a_table_under_a_figure_is_behind_its_summary_and_embedded_as_csv(audited, text):
    links = {each["download"]: each["href"] for each in attributes(text, "a") if "download" in each}
    assert set(links) == {f"{name}.csv" for name in TABLES}
    for name, link in links.items():
        content = base64.b64decode(link.removeprefix("data:text/csv;base64,"))
        assert content == (audited[0] / name).read_bytes()
    shown = re.findall(r"<details( open)?><summary>Table, \d+ rows</summary>", text)
    assert len(shown) == len(TABLES) and shown.count(" open") == 1  # neighbours has no figure


def test_all_images_decode_and_say_what_they_show(text):
    for image in attributes(text, "img"):
        content = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        with Image.open(BytesIO(content)) as picture:
            picture.load()
            assert picture.size == (int(image["width"]), int(image["height"]))
            assert len(content) < 60_000
            known = {"dpi", "transparency", "Description"}  # no time, no program
            assert set(picture.info) <= known
            assert picture.mode == ("RGB" if "Description" in picture.info else "P")
        assert image["alt"].endswith(".")
        assert re.search(r"\d", image["alt"]), "an alternative text says what was found"
        assert f"<figcaption>{image['alt']}</figcaption>" in text


def test_the_finding_the_fit_and_a_picture_stand_before_everything_else(text):
    top = text.partition("<main>")[0]
    marks = ("8 generated models, ", "The generator fits", "generated models less", "<figure>")
    marks += ("accuracy difference (%)", "made up", "Contents")
    places = [top.index(mark) for mark in marks]
    assert places == sorted(places)
    assert top.count('<span class="dot"') == len(SIZES) + 3  # in the box: no Gaussian of latents
    assert "<dt>soup of N</dt><dd>The mean of N random originals.</dd>" in top


def test_all_text_is_escaped(tmp_path, text):
    assert "fits &amp; &lt;learned&gt;." in text
    evil = "<b>&\"'</b>"
    words = dict.fromkeys(("title", "question", "reading", "definition", "source"), evil)
    part = {"pictures": {}, "csv": tmp_path / "x.csv"}
    part["csv"].touch()
    section = {"analysis": Analysis("x", 1, **words), "table": pd.DataFrame({evil: [evil]}), **part}
    top = {"finding": evil, "table": pd.DataFrame({"group": ["held_back"]}), **part}
    top["scores"] = pd.DataFrame({"group": ["held_back"], evil: [evil]})
    report.write_report(tmp_path / "r.html", Fit(False, evil, evil), {evil: evil}, top, [section])
    found = (tmp_path / "r.html").read_text()
    assert "<b>" not in found
    assert found.count("&lt;b&gt;&amp;") == 15


def test_the_same_evidence_gives_the_same_bytes(audited, tmp_path, monkeypatch):
    """All tables, and one picture, which takes most of the time."""
    drawn = [replace(each, figures={}) for each in analyses() if each.name != "pareto"]
    shown = [analyses()[0], *drawn]
    monkeypatch.setattr(report, "analyses", lambda: shown)
    write_audit(tmp_path, toy_evidence(), FITS, {}, *toy_summary(tmp_path / "images"))
    assert {path.name for path in tmp_path.glob("*.csv")} == {f"{name}.csv" for name in TABLES}
    for path in (*tmp_path.glob("*.csv"), tmp_path / "pareto.png"):
        assert path.read_bytes() == (audited[0] / path.name).read_bytes(), path.name


NEW = """
import pandas as pd
from matplotlib import pyplot as plt
from pdiff.audit.analysis import Analysis

def picture(evidence, table):
    figure, axes = plt.subplots()
    axes.plot(table["models"])
    return figure, "The largest group has nan models."

ANALYSIS = Analysis(
    name="throw_away", order=0, title="Thrown away", question="How many?", reading="Read it.",
    definition="A count.", source="None.", figures={"throw_away": picture},
    table=lambda evidence: pd.DataFrame({"models": [len(w) for w in evidence.wrong.values()]}),
    numbers=lambda table: {"most_models": table["models"].max()},
)
"""


def test_an_analysis_is_added_by_one_file(tmp_path, monkeypatch):
    (tmp_path / "throw_away.py").write_text(NEW)
    monkeypatch.setattr(pdiff.audit, "__path__", [*pdiff.audit.__path__, str(tmp_path)])
    shown = [each if each.order == 0 else replace(each, figures={}) for each in analyses()]
    monkeypatch.setattr(report, "analyses", lambda: shown)
    unseen = ("held_back", "fresh")
    kept = {g: m for g, m in toy_matrices().items() if g not in unseen}
    found = write_audit(
        tmp_path / "out", toy_evidence(kept), FITS, {}, *toy_summary(tmp_path / "images")
    )
    assert found["z_fresh"] is None and found["z_held_back"] is None  # not defined
    text = (tmp_path / "out/report.html").read_text()
    assert found["most_models"] == 12
    assert text.index("Thrown away") < text.index("Accuracy and similarity")
    assert 'alt="The largest group has unknown models."' in text
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
    assert said.numbers.startswith("The codec explains R² = 0.990 of the checkpoints' deviation")
    assert said.fits and said.conclusion == "The generator fits."
    missed = lead({"fit": FIT | {"r2": 0.87}, "similarity": similarity}, config, 0.98)
    assert not missed.fits
    assert "The generator does not fit: the codec's R² is 0.87" in missed.conclusion
    assert missed.conclusion.endswith("no claim about the method can be made from this run.")


def differences() -> pd.DataFrame:
    """Less accurate than the mean, more than a Gaussian, as good as the originals."""
    ends = {"ensemble": (-0.02, -0.01), "latent_gaussian": (0.01, 0.02), "original": (-0.01, 0.01)}
    rows = [{"group": "generated", "models": 200, "accuracy": 0.9288}]
    for group, (low, high) in ends.items():
        own = {"accuracy_difference_low": low, "accuracy_difference_high": high}
        rows.append({"group": group, "models": 50, "accuracy": 0.92, **own})
    return pd.DataFrame(rows)


def test_the_finding_is_a_sentence_with_accuracies_words_by_interval_and_steps():
    steps = pd.Series({"generated": 19.04, "fresh": 32.5})
    assert finding(differences(), "900 test images", steps, fits=True) == (
        "200 generated models, 92.88 % on 900 test images: not told apart in accuracy from the "
        "originals (92.00 %), less accurate than their plain mean (92.00 %), more accurate than a "
        "Gaussian of their latents (92.00 %); the nearest checkpoint is 19.0 steps away, for a "
        "fresh run 32.5."
    )


def test_an_unfitted_generator_is_said_first_and_unknown_steps_are_left_out():
    said = finding(differences(), "900 test images", pd.Series({"generated": np.nan}), fits=False)
    assert said.startswith("The generator does not fit, so no claim follows. 200 generated")
    assert said.endswith("Gaussian of their latents (92.00 %).")


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


def title_of(page: str, folder: Path) -> str:
    """What Chromium makes of the title of a page that waits for a message.

    A frame in a process of its own may be slower than the page's virtual time: it gets five tries.
    """
    listen = "<script>addEventListener('message', m => { document.title = m.data })</script>"
    (folder / "frame.html").write_text(f"<title>nothing</title>{listen}{page}")
    command = [CHROME, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000"]
    command += ["--dump-dom", (folder / "frame.html").as_uri()]
    for _ in range(5):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        title = done.stdout.partition("<title>")[2].partition("</title>")[0]
        if title != "nothing":
            break
    return title


browser = pytest.mark.skipif(CHROME is None, reason="neither chromium nor google-chrome is on PATH")


@pytest.mark.slow
@browser
@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_is_wider_than_the_window(text, tmp_path, width):
    """In a frame of that width, since a window of Chromium is 500 pixels wide at least."""
    check = (
        "<script>addEventListener('load', () => { const page = document.documentElement;"
        "document.querySelectorAll('details').forEach(each => { each.open = true });"
        "parent.postMessage(`${innerWidth} wide, ${page.scrollWidth - page.clientWidth} more`, '*')"
        "})</script>"
    )
    (tmp_path / "report.html").write_text(text + check)
    frame = f"<iframe src='report.html' style='border:0;width:{width}px;height:900px'></iframe>"
    assert title_of(frame, tmp_path) == f"{width} wide, 0 more"


@pytest.mark.slow
@browser
def test_links_of_the_contents_scroll_in_a_frame_as_mlflows(text, tmp_path):
    """A frame that may run scripts and nothing else, and whose address is a blob."""
    check = (
        "<script>addEventListener('load', () => {"
        "document.querySelector('nav a[href=\"#copying\"]').click();"
        "const top = document.getElementById('copying').getBoundingClientRect().top;"
        "parent.postMessage(`${scrollY > 999} ${Math.abs(top) < 2}`, '*')})</script>"
    )
    content = base64.b64encode((text + check).encode()).decode()
    frame = (
        "<iframe sandbox='allow-scripts' style='width:1200px;height:800px'></iframe><script>"
        f"const bytes = Uint8Array.from(atob('{content}'), each => each.charCodeAt(0));"
        "document.querySelector('iframe').src = "
        "URL.createObjectURL(new Blob([bytes], {type: 'text/html'}))</script>"
    )
    assert title_of(frame, tmp_path) == "true true"

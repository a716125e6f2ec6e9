"""The HTML report: whole, offline, escaped, the same each time, and no wider than a phone."""

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pdiff.audit.html import Section, heading, number, table_html, write_report
from pdiff.audit.report import ANALYSES, audit_report
from pdiff.novelty.claims import Claim
from tests.toys.audit import SIZES, toy_audit, toy_report

VOID = {"meta", "img", "br"}
CHROMES = ("chromium", "chromium-browser", "google-chrome")
CHROME = next((path for name in CHROMES if (path := shutil.which(name))), None)


class Page(HTMLParser):
    """Elements, and whether each one that opens is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return toy_audit(tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def page(path) -> Page:
    return Page(path.read_text())


def report(path: Path, *sections: Section, claims=(), facts=None) -> str:
    options = {"title": "t", "lead": "l", "headline": pd.DataFrame({"group": ["original"]})}
    write_report(path, sections, facts=facts or {}, claims=claims, **options)
    return path.read_text()


def section(title: str = "One", **changes) -> Section:
    texts = ("question", "reading", "definition", "source")
    return Section(title, **{name: name for name in texts} | changes)


def test_every_element_is_closed(page):
    assert page.open == []


def test_nothing_is_fetched(page, path):
    links = page.values("src") + page.values("href")
    assert links
    assert [link[:40] for link in links if not link.startswith(("#", "data:"))] == []
    assert not re.search(r"<(script|link|iframe|base)\b|@import|url\(", path.read_text())


def test_all_anchors_resolve(page):
    targets = page.values("id")
    assert len(targets) == len(set(targets)) > 5
    assert {link.removeprefix("#") for link in page.values("href")} == set(targets)


def test_all_images_decode_and_say_what_they_show(page):
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 10
    for image in images:
        content = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        with Image.open(BytesIO(content)) as picture:
            picture.load()
            assert picture.size == (int(image["width"]), int(image["height"]))
        assert len(image["alt"]) > 20


def test_the_same_files_give_the_same_bytes(path, tmp_path):
    folder = shutil.copytree(path.parent, tmp_path / "elsewhere")
    (folder / "report.html").unlink()
    assert toy_report(folder).read_bytes() == path.read_bytes()


def test_an_analysis_without_files_is_left_out(path):
    text = path.read_text()
    assert "Novel and performant" in text
    assert "Decision boundaries" not in text


def test_each_family_that_occurs_is_explained(path):
    glossary = path.read_text().partition('id="groups-of-models"')[2]
    assert "noise N" in glossary
    assert "VAE prior" not in glossary


def test_the_headline_and_the_verdict_stand_before_the_sections(path):
    top = path.read_text().partition("<main>")[0]
    assert '<span class="outcome open">cannot tell</span>' in top
    assert "More &lt;accurate&gt; &amp; novel." in top
    assert "0.10 points, -0.20 to 0.40" in top
    assert "made up" in top


def test_all_text_is_escaped(tmp_path):
    evil = "<b>&\"'</b>"
    table = pd.DataFrame({evil: [evil]})
    names = ("question", "reading", "definition", "source")
    found = section(evil, tables={evil: table}, **dict.fromkeys(names, evil))
    claim = Claim(evil, "holds", evil)
    text = report(tmp_path / "r.html", found, claims=[claim], facts={evil: evil})
    assert "<b>" not in text
    assert text.count("&lt;b&gt;&amp;") == 13


def test_two_sections_of_one_title_are_refused(tmp_path):
    with pytest.raises(ValueError, match="titles of sections must differ"):
        report(tmp_path / "r.html", section("A b"), section("A-b"))


def test_without_claims_the_verdict_says_so(tmp_path):
    assert "No claim was tested." in report(tmp_path / "r.html", section())


def test_an_empty_folder_gives_a_report_without_sections(tmp_path):
    audit_report(tmp_path, lead="l", facts={}, headline=pd.DataFrame({"group": ["original"]}))
    assert "<section" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("accuracy_mean", 0.92188, "92.19"),
        ("share_of_front", 0.5, "50.00"),
        ("novel_performant_low", 0.123456, "12.35"),
        ("max_similarity_mean", 0.97914, "0.979"),
        ("interpolation_mean", 1.0, "1.000"),
        ("z_held_back", -12.3456, "-12.346"),
        ("models", 2300, "2,300"),
        ("models", np.int64(5), "5"),
        ("nearest", 12345.6, "12,346"),
        ("nearest", 0.00012, "1.2e-04"),
        ("p_value", 0.00002, "< 0.001"),
        ("rank_median", float("nan"), "-"),
        ("rank_median", pd.NA, "-"),
        ("significant", True, "yes"),
        ("significant", np.bool_(False), "no"),
    ],
)
def test_numbers_are_made_for_readers(column, value, expected):
    assert number(column, value) == expected


def test_headings_are_words_with_their_unit():
    found = [heading(n) for n in ("accuracy_mean", "max_similarity_mean", "noised_0.15")]
    assert found == ["accuracy mean (%)", "max similarity mean", "noise 0.15"]


def test_a_group_has_its_colour_and_label_in_a_table():
    text = table_html(pd.DataFrame({"group": ["soup_8", "generated"], "c": [1, 2]}))
    assert 'style="background:#d1495b"></span>generated</th>' in text
    assert "soup of 8" in text


def test_every_group_has_a_row_in_the_table_of_groups(path):
    table = path.read_text().partition("All groups</h3>")[2].partition("</table>")[0]
    assert table.count("<tr>") == len(SIZES) + 1


def test_titles_of_the_analyses_differ():
    titles = [analysis.title for analysis in ANALYSES]
    assert len(set(titles)) == len(titles)


@pytest.mark.slow
@pytest.mark.skipif(CHROME is None, reason=f"no browser: none of {', '.join(CHROMES)} is on PATH")
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(path, tmp_path, width):
    """In a frame of that width, since a window of Chromium is 500 pixels wide at least."""
    check = (
        "<script>addEventListener('load', () => { const page = document.documentElement;"
        "parent.postMessage(`${innerWidth} wide, ${page.scrollWidth - page.clientWidth} more`, '*')"
        "})</script>"
    )
    (tmp_path / "report.html").write_text(path.read_text() + check)
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

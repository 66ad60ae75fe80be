"""The committed reports: made from the notebooks, complete without a network, small.

All pages are opened in headless Chromium, on a phone's screen.
"""

import functools
import os
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
REPORTS = Path(os.environ.get("MDR_REPORTS", ROOT / "reports"))  # another folder: for a trial
PAGES = sorted(REPORTS.rglob("*.html"))
EXECUTED = sorted(REPORTS.rglob("*.ipynb"))


def name(path):
    return str(path.relative_to(REPORTS))


@functools.cache
def read(path):
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_each_link_and_image_of_a_page_is_there(path):
    page = read(path)
    for source in re.findall(r"""(?:\ssrc=|\ssrcset=|url\()["']?([^"')\s>]{0,40})""", page):
        assert source.startswith(("data:", "#")) or (path.parent / source).exists(), source
    for link in re.findall(r'<a\b[^>]*\shref="(?!http)([^"]*)"', page):
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.is_file(), link
        assert not anchor or f'id="{anchor}"' in read(file), link
    assert "Warning" not in re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL)


@pytest.mark.parametrize("path", EXECUTED, ids=name)
def test_a_report_is_the_notebook_as_it_stands(path):
    executed = nbformat.read(path, 4)
    notebook = nbformat.read(ROOT / "notebooks" / path.name, 4)
    here, there = (
        [c.source for c in nb.cells if c.cell_type == "code"
         and "injected-parameters" not in c.metadata.get("tags", [])]
        for nb in (notebook, executed)
    )  # fmt: skip
    assert there == here, f"make reports PROFILE={path.parent.name} NOTEBOOK={path.stem}"
    if path.parent != REPORTS:
        assert executed.metadata.papermill.parameters.profile == path.parent.name
    assert not re.search(r"/home/|/root/|/tmp/|/work/|/Users/", nbformat.writes(executed))


PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def phone(browser):
    """One page for all, since a new one each takes twice as long; what it asks for and says."""
    page, asked, said = browser.new_page(viewport=PHONE), [], []
    page.on("request", lambda request: asked.append(request.url))
    for kind in ("console", "pageerror"):
        page.on(kind, lambda each: said.append(str(each)))
    yield page, asked, said
    page.close()


SMALLEST = """() => {
  // pixels of the smallest letter, in text and in drawings, whose letters are outlines of size 100
  const found = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.textContent.trim(), of = texts.currentNode.parentElement;
    if (!text || of.closest("title") || !of.checkVisibility()) continue;
    const scale = of.closest("svg")?.getScreenCTM().a ?? 1;
    found.push([parseFloat(getComputedStyle(of).fontSize) * scale, text]);
  }
  for (const letters of document.querySelectorAll("svg g[transform*='scale(']:has(use)")) {
    const { a, b } = letters.getScreenCTM();
    found.push([100 * Math.hypot(a, b), letters.closest("svg").ariaLabel]);
  }
  return found.reduce((least, each) => each[0] < least[0] ? each : least, [99, ""]);
}"""


# axe takes long for many elements: it sees a drawing as one image, and one cell of the code
LESS = """() => {
  document.querySelectorAll("svg[role=img]").forEach(drawing => drawing.replaceChildren());
  [...document.querySelectorAll("details.code")].slice(1).forEach(code => code.remove());
}"""


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_a_page_on_a_phone(path, phone):
    """It asks for nothing else, fits, can be read, and axe finds nothing."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page, asked, said = phone
    asked.clear()
    said.clear()
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    size, where = page.evaluate(SMALLEST)
    assert size >= 10.95, where
    page.evaluate(LESS)
    found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert not [(each["id"], each["nodes"][0]["html"][:200]) for each in found]
    own = REPORTS.as_uri()
    assert not [url for url in asked if not url.startswith((own, "data:", "blob:"))]
    assert not said


def words(text):
    """Return the words of a page's HTML, without scripts, styles, code, drawings and formulas."""
    text = re.sub(r"<(script|style|pre|svg|math)\b.*?</\1>", " ", text, flags=re.DOTALL)
    return re.sub(r"<[^>]+>", " ", text).split()


def test_the_pages_are_short():
    """Counted without the explorers, whose words are the names of classes."""
    pages = [read(path) for path in PAGES if not path.name.startswith("explore-")]
    # what is folded in what is folded first
    pages = [re.sub(r'<details class="code">.*?</details>', "", p, flags=re.DOTALL) for p in pages]
    visible = [re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL) for page in pages]
    assert sum(len(words(page)) for page in visible) <= 20_000
    assert sum(len(words(page)) for page in pages) <= 40_000
    assert sum(page.count("<table") for page in visible) <= 55


ENDINGS = {".html", ".ipynb", ".csv", ".json", ".safetensors"}
SCREENS = {"index": 2.5, "mechanism": 5}


def test_each_page_is_a_few_screens(browser):
    page, found = browser.new_page(viewport={"width": 1280, "height": 800}), {}
    for path in PAGES:
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280, path
        if not path.name.startswith("explore-"):
            found[path] = page.evaluate("document.documentElement.scrollHeight / 800")
    page.close()
    assert not {
        name(path): size for path, size in found.items() if size > SCREENS.get(path.stem, 4)
    }
    assert sum(found.values()) <= 100


def test_every_notebook_has_its_page_and_together_they_stay_small():
    pages = {path.stem for path in PAGES if path.parent.name in ("quick", REPORTS.name)}
    assert pages >= {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    sizes = {path: path.stat().st_size for path in REPORTS.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 22_000_000
    assert {path.name for path, size in sizes.items() if size >= 2_000_000} <= {"runs.csv"}
    assert {path.suffix for path in sizes if path.parent != REPORTS} <= ENDINGS
    for path in EXECUTED:
        address = path.with_suffix(".html").relative_to(REPORTS).as_posix()
        assert f'href="{address}"' in read(REPORTS / "index.html")

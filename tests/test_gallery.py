"""The page to explore, on known neighbors and by hand; stand-ins for images that are not here."""

import base64
import io
import json
import re

import nbformat
import pytest
import torch
from PIL import Image

from mdr_core.data.dataset import Split
from mdr_core.errors import StudyError
from mdr_core.evaluation import epoch
from mdr_core.files import REPOSITORY
from mdr_core.profiles import METHODS, Study
from mdr_core.report import explorer
from mdr_core.runs import committed

NASTY = "</script><script>window.hurt = 1</script><b>\"&amp;'"


NOISE = torch.Generator().manual_seed(0)  # which no format makes small
LABELS, NAMES = torch.arange(60) // 5, (NASTY, *(f"class {c}" for c in range(1, 12)))
PIXELS = torch.randint(0, 256, (60, 3, 64, 64), dtype=torch.uint8, generator=NOISE)
IMAGES = Split(PIXELS, LABELS, NAMES, ("",) * 60)
EMBEDDINGS = torch.randn(3, 60, 8, generator=NOISE) + LABELS[:, None] / 2  # nearly right
FOUND = {
    m: epoch.findings(epoch.RetrievalSet(e, LABELS))
    for m, e in zip(METHODS, EMBEDDINGS, strict=True)
}


def content(html: str) -> tuple[dict, list[str]]:
    """Return what the page's script reads, and its thumbnails."""
    found = (re.search(rf"const {name} = (.*);\n", html)[1] for name in ("data", "images"))
    return tuple(map(json.loads, found))


def test_the_page_holds_each_model_s_nearest_images_and_its_first_right_rank():
    queries = IMAGES.of_images(torch.arange(0, 60, 2))  # searched among all
    some = {m: {k: v[::2] for k, v in found.items()} for m, found in FOUND.items()}
    about, thumbnails = content(explorer.explorer("", some, queries, IMAGES, 12, 3))
    assert len(about["queries"]) == 12 and len(thumbnails) == len(about["classOf"])
    for query in about["queries"]:
        own = int(queries.labels[query["number"]])
        assert about["classOf"][query["image"]] == own
        for found, near, first in zip(some.values(), query["nearest"], query["first"], strict=True):
            classes = LABELS[found["nearest"][query["number"]].long()].tolist()
            assert [about["classOf"][image] for image in near] == classes[:3]
            assert first == (classes.index(own) + 1 if own in classes else 0)


def test_a_page_stays_small_whatever_the_images_are(monkeypatch):
    monkeypatch.setattr(explorer, "SIZES", ((64, 75), (64, 20), (32, 75)))
    monkeypatch.setattr(explorer, "MOST", 180_000)
    page = explorer.explorer("noise", FOUND, IMAGES, IMAGES, 36)
    sizes = {Image.open(io.BytesIO(base64.b64decode(each))).size for each in content(page)[1]}
    assert 100_000 < len(page.encode()) < 180_000 and sizes == {(64, 64)}
    monkeypatch.setattr(explorer, "MOST", 40_000)
    with pytest.raises(StudyError, match="show fewer queries"):
        explorer.explorer("noise", FOUND, IMAGES, IMAGES, 36)


@pytest.mark.parametrize("width", [390, 1280])
def test_a_reader_picks_images_by_mouse_and_keyboard(tmp_path, browser, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    html, path = explorer.explorer("noise <i>", FOUND, IMAGES, IMAGES, 36), tmp_path / "a.html"
    path.write_text(html, encoding="utf-8")
    about, page = content(html)[0], browser.new_page(viewport={"width": width, "height": 800})
    name = dict(enumerate(about["classes"][c] for c in about["classOf"]))

    def check(place):
        query = about["queries"][place]
        own = name[query["image"]]
        near = [name[image] for each in query["nearest"] for image in each]
        assert page.locator("#name").inner_text() == f"Query: {own}"
        found = page.locator(".model li").all_inner_texts()
        assert found == ["✗✓"[each == own] + f" {each}" for each in near]

    page.goto(path.as_uri())
    check(0)
    page.locator("#picker input").nth(4).check()
    page.keyboard.press("ArrowDown")  # among radio buttons
    check(5)
    page.click("#before")
    check(4)
    page.select_option("#group", label="class 7 (3)")
    assert page.locator("#picker input").count() == 3 and page.evaluate("window.hurt") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    last = page.locator(".model").last.locator("li").first.bounding_box()
    assert last["x"] + last["width"] <= width  # MDR's, too, without a swipe to the side
    found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert not [(each["id"], each["nodes"][0]["html"][:200]) for each in found]
    page.close()


def test_images_that_are_not_here_are_gray_tiles_with_their_classes(tmp_path, monkeypatch):
    path = committed.REPORTS / "photos" / "datasets.json"
    about, file = json.loads(path.read_text())["cub50"], next(path.parent.glob("findings/*"))
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path))
    record = {"config": {"dataset": "cub50"}, "provenance": {"data": about["fingerprint"]}}
    queries, searched, here = explorer.images_of(record | {"files": {"findings": str(file)}})
    assert not here and searched is queries and len(queries.images) == about["images"]["test"]
    assert queries.class_names == tuple(about["test_classes"])
    with pytest.raises(StudyError, match="cub50 .* not here"):
        explorer.images_of(record | {"files": {}})


def test_the_gallery_where_no_query_is_wrong(tmp_path):
    """Its cells run on neighbors that are given, and name no pair of classes."""
    found = epoch.findings(epoch.RetrievalSet(LABELS[:, None].float(), LABELS))
    shown, given = [], {"study": Study("quick"), "seed": 0, "runs": None}
    given |= {"findings": {"drawn": dict.fromkeys(METHODS, found)}, "here": {"drawn": True}}
    given |= {"images": {"drawn": [IMAGES, IMAGES]}, "answer": lambda *of: None}
    given |= {"table": lambda frame, *of: shown.append(frame), "figure": lambda *of, **how: None}
    notebook, own = nbformat.read(REPOSITORY / "notebooks" / "retrieval_gallery.ipynb", 4), {}
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    exec("\n".join(cells[:2]), own)
    own |= given | {"save_root": str(tmp_path)}
    exec("\n".join(cells[3:]), own)
    assert len(shown) == 1 and len(shown[0]) == 3 and (shown[0].errors == 0).all()
    assert len(own["panels"]) == 1 and (tmp_path / "explore-drawn.html").exists()

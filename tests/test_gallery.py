"""Ranks, confusions, the choice of queries, on known neighbors; the page to explore, by hand."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from mdr_core.data.dataset import Split
from mdr_core.errors import StudyError
from mdr_core.evaluation import epoch
from mdr_core.report.gallery import explorer, static

LINE = torch.tensor([[0.0], [1.0], [1.9], [10.0], [11.0], [12.1]])
LABELS = torch.tensor([0, 1, 0, 1, 1, 0])
FINDINGS = epoch.findings(epoch.RetrievalSet(LINE, LABELS))


def test_first_right_counts_ranks_from_one():
    # 0: 1 (wrong), 2 (right); 1: 2, 0 (wrong), 3; 2: 1, 0; 3: 4; 4: 3; 5: 4, 3 (wrong), 2
    assert static.first_right(FINDINGS, LABELS.numpy()).tolist() == [2, 3, 2, 1, 1, 3]
    older = {"nearest": FINDINGS["nearest"][:, :1], "labels": LABELS}  # no ranks, one neighbor
    assert static.first_right(older, LABELS.numpy()).tolist() == [2, 2, 2, 1, 1, 2]
    alone = FINDINGS | {"first_right": FINDINGS["first_right"] * 0}
    assert static.first_right(alone, LABELS.numpy()).tolist() == [6] * 6


def test_confusions_count_first_places_by_model():
    other = FINDINGS | {"nearest": torch.tensor([[2], [0], [0], [4], [3], [4]])}
    table = static.confusions({"a": FINDINGS, "b": other}, LABELS.numpy(), ("zero", "one"))
    assert table.values.tolist() == [["zero", 3, "one", 3, 1], ["one", 3, "zero", 1, 1]]
    assert list(table) == ["query class", "images", "taken for", "a", "b"]


def test_queries_are_chosen_by_how_much_the_models_disagree():
    ranks = {"a": np.array([1, 1, 1, 2, 3, 1]), "b": np.array([1, 2, 1, 1, 3, 1])}
    chosen = static.choose(ranks, 4).tolist()  # half of them on which the models disagree
    assert len(set(chosen)) == 4 and set(chosen[:2]) == {1, 3}
    assert static.hardest(ranks, 1).tolist() == [4]
    right = np.zeros((2, 3, 5), dtype=bool)  # of query 0 both models are wrong,
    right[0, 1, 0] = right[0, 2, 2] = True  # of 1 one is right at rank 1, of 2 at rank 3
    assert explorer.disagreement(right).tolist() == [0, 6, 1]
    score, labels = np.array([0, 5, 1, 3, 4, 2]), np.array([0, 0, 1, 1, 0, 1])
    assert explorer.choose(labels, score, 4).tolist() == [1, 4, 3, 5]  # two of each class
    assert explorer.choose(labels, score, 1).tolist() == [1]  # more classes than queries


NASTY = "</script><script>window.hurt = 1</script><b>\"&amp;'"


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)  # noise, which no format makes small
    pixels = torch.randint(0, 256, (60, 3, 64, 64), dtype=torch.uint8, generator=generator)
    names = (NASTY, *(f"class {c}" for c in range(1, 12)))
    return Split(pixels, torch.arange(60) // 5, names, ("",) * 60)


@pytest.fixture(scope="module")
def models(images):
    each = {}
    for seed, method in enumerate(("Triplet", "Triplet + L2", "Triplet + MDR")):
        noise = torch.randn(60, 8, generator=torch.Generator().manual_seed(seed))
        noise[:, 0] += images.labels  # nearly right
        each[method] = epoch.findings(epoch.RetrievalSet(noise, images.labels))
    return each


@pytest.fixture(scope="module")
def explored(images, models):
    return explorer.content(models, images, images, 5, 40)


def test_a_page_stays_small_whatever_the_images_are(explored, monkeypatch):
    about, shown = explored
    assert len(about["queries"]) == 36 and len(shown) == len(about["classOf"]) <= 60
    monkeypatch.setattr(explorer, "SIZES", ((64, 75), (64, 20), (32, 75)))  # all take seconds
    monkeypatch.setattr(explorer, "MOST", 180_000)
    page = explorer.page("noise", "quick", about, shown)
    assert 100_000 < len(page.encode()) < 180_000
    thumbnails = re.findall(r'"(UklGR[^"]+)"', page)
    found = [Image.open(io.BytesIO(base64.b64decode(each))) for each in thumbnails]
    assert len(found) == len(shown) and {image.size for image in found} == {(64, 64)}
    monkeypatch.setattr(explorer, "MOST", 40_000)
    with pytest.raises(StudyError, match="explore fewer queries"):
        explorer.page("noise", "quick", about, shown)


def test_a_gallery_of_its_own_is_told_from_the_queries(images, models):
    queries = images.of_images(torch.arange(0, 60, 2))
    findings = {m: {k: v[::2] for k, v in found.items()} for m, found in models.items()}
    about, shown = explorer.content(findings, queries, images, 3, 12)
    for query in about["queries"]:
        assert torch.equal(shown[query["image"]], queries.images[query["number"]])
        for model, found in zip(query["models"], findings.values(), strict=True):
            near = images.images[found["nearest"][query["number"], :3]]
            assert torch.equal(torch.stack([shown[i] for i in model["nearest"]]), near)


def test_a_reader_explores_by_mouse_and_keyboard(explored, tmp_path, browser):
    about, path = explored[0], tmp_path / "explore.html"
    path.write_text(explorer.page("noise <i>", "quick", *explored), encoding="utf-8")
    page = browser.new_page(java_script_enabled=False)
    page.goto(path.as_uri())
    assert "Exploring needs scripts" in page.locator("main").inner_text()
    assert page.locator("noscript a").get_attribute("href") == "retrieval_gallery.html"
    page.close()
    page = browser.new_page()
    page.goto(path.as_uri())
    picker, dialog = page.locator("#picker input"), page.locator("dialog")
    check_what_is_shown(page, about, 0)
    page.keyboard.press("ArrowRight")
    check_what_is_shown(page, about, 1)
    page.click("#before")
    page.click("#before")  # from the first to the last
    check_what_is_shown(page, about, 35)
    picker.nth(4).check()
    page.keyboard.press("ArrowDown")  # among radio buttons
    check_what_is_shown(page, about, 5)
    page.select_option("#class", str(7))
    assert picker.count() == 3
    page.select_option("#class", "")
    kinds = [query["kind"] for query in about["queries"]]
    page.select_option("#kind", str(kinds[0]))
    assert picker.count() == kinds.count(kinds[0])
    picker.first.check()
    page.locator(".model").nth(1).locator(".view").nth(1).focus()
    page.keyboard.press("Enter")
    assert "Triplet + L2, rank 2, distance" in dialog.inner_text()
    page.keyboard.press("ArrowRight")
    assert "rank 3" in dialog.inner_text()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    address = page.url  # of this query: another reader sees the same
    page.goto("about:blank")
    page.goto(address)
    assert page.locator("#name").inner_text() == NASTY and page.evaluate("window.hurt") is None
    page.close()


def check_what_is_shown(page, about, place):
    """Class, frames and names are those of the query at this place."""
    query, classes = about["queries"][place], about["classOf"]
    own = classes[query["image"]]
    assert page.locator("#name").inner_text() == " ".join(about["classes"][own].split())
    for number, model in enumerate(query["models"]):
        found = page.locator(".model").nth(number).locator("li")
        frames = found.evaluate_all("all => all.map(e => e.className.trim())")
        shown = zip(model["nearest"], frames, found.locator(".name").all_inner_texts(), strict=True)
        for image, frame, text in shown:
            right = classes[image] == own
            assert (frame == "near") == right and text.startswith("✓ " if right else "✗ ")
            assert about["classes"][classes[image]] in text

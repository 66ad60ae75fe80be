"""The committed reports: from the notebooks as they stand, complete without a network, small."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
REPORTS = ROOT / "reports"
PAGES = sorted(REPORTS.rglob("*.html"))
EXECUTED = sorted(REPORTS.rglob("*.ipynb"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPORTS)))
def test_a_page_loads_nothing_and_is_small(path):
    page = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 2_000_000
    assert not re.search(r"<script|<link|<iframe|@import", page)
    for source in re.findall(r"""(?:\ssrc=|\ssrcset=|url\()["']?([^"')\s>]{0,40})""", page):
        assert source.startswith("data:") or (path.parent / source).exists(), source
    for target in re.findall(r'<a href="([^"#]+)"', page):
        assert target.startswith("http") or (path.parent / target).exists(), target
    assert "Warning" not in re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL)


@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: str(path.relative_to(REPORTS)))
def test_a_report_is_the_notebook_as_it_stands(path):
    executed = nbformat.read(path, 4)
    notebook = nbformat.read(ROOT / "notebooks" / path.name, 4)
    code = [
        c
        for c in executed.cells
        if c.cell_type == "code" and "injected-parameters" not in c.metadata.get("tags", [])
    ]
    anew = f"make reports PROFILE={path.parent.name} NOTEBOOK={path.stem}"
    assert [c.source for c in code] == [
        c.source for c in notebook.cells if c.cell_type == "code"
    ], anew
    assert executed.metadata.papermill.parameters.profile == path.parent.name
    assert not re.search(r"/home/|/root/|/tmp/|/work/|/Users/", nbformat.writes(executed))


CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("name", ["index", "quick/mechanism", "quick/retrieval_gallery"])
def test_a_browser_asks_for_nothing_else(name, tmp_path):
    """Opened in headless Chromium, a page has its own address fetched and no other one."""
    page, log = REPORTS / f"{name}.html", tmp_path / "net.json"
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--log-net-log={log}",
        "--dump-dom",
    ]
    found = subprocess.run(
        [CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=120
    ).stdout
    assert "</html>" in found and "<h1" in found
    asked = set(re.findall(r'"(https?://[^"]+)"', log.read_text(errors="replace")))
    own = re.compile(
        r"https?://([\w-]+\.)?(google\.com|gvt1\.com|update\.googleapis\.com)"
    )  # the browser's
    assert not [url for url in asked if not own.match(url)]


def test_the_runs_behind_each_profile_are_there():
    for folder in {path.parent for path in EXECUTED}:
        assert (folder / "runs.csv").exists(), f"make archive PROFILE={folder.name}"


def test_all_of_them_together():
    quick = {path.stem for path in (REPORTS / "quick").glob("*.html")}
    assert quick == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert sum(path.stat().st_size for path in REPORTS.rglob("*") if path.is_file()) < 40_000_000
    full = {path.stem for path in (REPORTS / "full").glob("*.html")}
    headline = {"recall_at_k", "learning_curves", "class_centers", "mechanism", "claims"}
    assert headline | {"retrieval_gallery", "ablation_levels"} == full
    index = (REPORTS / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{path.parent.name}/{path.stem}.html"' in index for path in EXECUTED)


EVIDENCE = ROOT.parent / "shared" / "evidence"


@pytest.mark.skipif(not EVIDENCE.exists(), reason="the GPU runs' own records are not here")
def test_the_headline_is_the_evidence_to_the_digit():
    table = pd.read_csv(REPORTS / "full" / "recall_at_k-full.csv")
    found = table.set_index(["dataset", "method"])["R@1"]
    compared = 0
    for path in EVIDENCE.glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        config = record["config"]
        mdr, l2 = config["mdr_weight"], config["normalization"] == "l2"
        method = "Triplet + MDR" if mdr else "Triplet + L2" if l2 else "Triplet"
        if mdr in (0.0, {"cub200": 0.6, "cars196": 0.2}[config["dataset"]]):
            assert found[config["dataset"], method] == record["history"][-1]["test_recall@1"]
            compared += 1
    assert compared == 6

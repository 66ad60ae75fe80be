"""Names of classes and folders are people's: a page shows them as text, in every locale."""

import html
import locale
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_output

from mdr_core.report import notebook
from mdr_core.report.pages import index
from mdr_core.study import profiles
from tests import trees

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = (
    "<img src=x onerror=alert(1)>",
    r"`code` **bold** _word_ $\frac{1}$ | a | [x](javascript:alert(1)) ~~s~~",
    r"$x$ $$y$$ \begin{equation} \(z\) {dataset} %",
    "<script>alert(2)<!-- --> &lt; & \"q\" 'r' <b>",
    "two\nlines\n\n# head",
    "Ärger − ± “x”",
)
TINY = profiles.QUICK.replace(
    weights="random", backbone="small_resnet_narrow", batch_size=24, epochs=1, iterations=1
)
ALL_PLACES = """
import matplotlib.pyplot as plt

import pandas as pd

figure, axis = plt.subplots(figsize=(12, 8))
for name in names:
    axis.plot([0, 1], label=name)
axis.set(title=names[0], xlabel=names[1], ylabel=names[2])
axis.set_yticks(range(len(names)), names)
axis.legend(title=names[3])
report.figure(figure, "names", "; ".join(names))
table = pd.DataFrame({"class": names, **{name: 0.5 for name in names}})
report.finding("; ".join(names), "; ".join(names))
report.table(table, "names", "; ".join(names))
report.table(table.set_index(["class", names[0]]), "names", names[1])
for name in names:
    report.note("## {name}", name=name)
"""


@pytest.fixture
def ascii_locale():
    """A file opened without an encoding takes ASCII alone (unless Python is in UTF-8 mode)."""
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    yield
    locale.setlocale(locale.LC_CTYPE, before)


def executed(name: str, given: dict, monkeypatch) -> nbformat.NotebookNode:
    """Run a notebook's cells, and one that shows the names everywhere, in this process."""
    nb = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    nb.cells.append(new_code_cell(ALL_PLACES))
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    namespace: dict = {"In": ["", code[0].source], "names": NAMES}
    for cell in code:
        outputs = cell.outputs = []

        def show(data, raw, metadata=None, outputs=outputs):
            assert raw
            outputs.append(new_output("display_data", data, metadata=metadata or {}))

        monkeypatch.setattr(notebook, "display", show)
        exec(compile(cell.source, name, "exec"), namespace)
        if cell is code[0]:
            namespace |= given
    nb.metadata.papermill = {
        "parameters": {"profile": "quick"} | {k: str(v) for k, v in given.items()},
        "duration": 1.0, "end_time": "2026-01-01T00:00:00", "version": "2", "notebook": name,
    }  # fmt: skip
    nb.metadata.language_info = {"name": "python", "version": "3"}
    return nb


def test_a_page_shows_names_as_text_wherever_they_stand(tmp_path, monkeypatch, ascii_locale):
    small = replace(profiles.PROFILES["quick"], others=profiles.Setting(TINY), ablation_seeds=1)
    monkeypatch.setitem(profiles.PROFILES, "quick", small)
    for name, value in (("CACHE", tmp_path / "cache"), ("RUNS", tmp_path / "runs"), ("JOBS", 1)):
        monkeypatch.setenv(f"MDR_{name}", str(value))
    classes = (*(f"!{number}" for number in range(len(NAMES))), *NAMES)  # these are tested on
    images = [f"{name}/{number}.png" for name in classes for number in range(4)]
    folder = trees.tree(tmp_path / "my <i>$photos$", images)
    own = {"folder": str(folder), "index_root": str(tmp_path / "index"), "seeds": [0]}
    own |= {"new_image": str(folder / NAMES[0] / "0.png"), "method": "Triplet"}
    gallery = {"dataset": f"folder:{folder}", "queries": 1, "hardest": 1, "top": 2, "seeds": [0]}
    asked = {
        "retrieval_gallery": gallery | {"methods": ["Triplet"]},
        "your_images": own | {"save_root": str(tmp_path / "saved")},
    }
    reports = tmp_path / "reports"
    (reports / "quick").mkdir(parents=True)
    for name, given in asked.items():
        nb = executed(name, given, monkeypatch)
        nbformat.write(nb, reports / "quick" / f"{name}.ipynb")
    index.write_reports(reports)
    table = pd.read_csv(tmp_path / "saved" / "names-quick.csv", encoding="utf-8")
    assert table["class"].tolist() == [*NAMES]
    for name in (*asked, "../index"):
        page = (reports / "quick" / f"{name}.html").read_text(encoding="utf-8")
        soup = BeautifulSoup(page, "html.parser")
        for script in soup(["script", "style"]):
            assert "alert" not in script.extract().text
        assert not [tag for tag in soup(True) if any(at.startswith("on") for at in tag.attrs)]
        assert not soup.select("img[src=x], [href^=javascript], i, b, s, math, merror")
        shown = " ".join(soup.text.split())
        for one in NAMES if name in asked else [folder.name]:
            words = " ".join(one.split())
            assert shown.count(words) >= (6 if name in asked else 1), (name, one)
            twice = html.escape(words, quote=False)
            assert twice == words or twice not in shown

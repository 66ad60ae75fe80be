"""Names of classes and folders are people's: a page shows them as text, in every locale."""

import html
import locale
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mdr_core.report import notebook
from mdr_core.report.gallery import static
from mdr_core.report.pages import index

NAMES = (
    "<img src=x onerror=alert(1)>",
    r"`code` **bold** _word_ $\frac{1}$ | a | [x](javascript:alert(1)) ~~s~~",
    r"$x$ $$y$$ \begin{equation} \(z\) {dataset} %",
    "<script>alert(2)<!-- --> &lt; & \"q\" 'r' <b>",
    "two\nlines\n\n# head",
    "Ärger − ± “x”",
)


@pytest.fixture
def ascii_locale():  # a file opened without an encoding takes ASCII alone
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    yield
    locale.setlocale(locale.LC_CTYPE, before)


def show_everywhere(report: notebook.Report) -> None:
    figure, axis = plt.subplots(figsize=(12, 8))
    for name in NAMES:
        axis.plot([0, 1], label=name)
    axis.set(title=NAMES[0], xlabel=NAMES[1], ylabel=NAMES[2])
    axis.set_yticks(range(len(NAMES)), NAMES)
    axis.legend(title=NAMES[3])
    report.figure(figure, "names", "; ".join(NAMES))
    images = np.zeros((len(NAMES), 8, 8, 3), np.uint8)
    drawn = static.neighbors(images[0], NAMES[0], images, NAMES, range(len(NAMES)))
    report.figure(drawn, "photographs", "; ".join(NAMES), photographs=True)
    table = pd.DataFrame({"class": NAMES, **dict.fromkeys(NAMES, 0.5)})
    report.finding("; ".join(NAMES), "; ".join(NAMES))
    report.table(table, "names", "; ".join(NAMES))
    report.table(table.set_index(["class", NAMES[0]]), "names", NAMES[1])
    for name in NAMES:
        report.note("## {name}", name=name)
        report.note("{name}", name=name)


def test_a_page_shows_names_as_text_wherever_they_stand(tmp_path, monkeypatch, ascii_locale):
    outputs: list = []

    def show(data, raw, **more):
        outputs.append(new_output("display_data", data, **more))

    monkeypatch.setattr(notebook, "display", show)
    given = {"profile": "quick", "save_root": str(tmp_path / "saved"), "defaults": {}}
    show_everywhere(notebook.Report(SimpleNamespace(**given)))
    parameters = new_code_cell('profile = "quick"', metadata={"tags": ["parameters"]})
    nb = new_notebook(cells=[new_markdown_cell("# Title\n\n**Question.** Which?"), parameters])
    nb.cells += [new_markdown_cell("## Section"), new_code_cell("show()", outputs=outputs)]
    nb.metadata.papermill = {
        "parameters": {"profile": "quick", "folder": f"folder:{NAMES[0]}"}, "duration": 1.0,
        "end_time": "2026-01-01T00:00:00", "version": "2",
    }  # fmt: skip
    nb.metadata.language_info = {"name": "python", "version": "3"}
    (folder := tmp_path / "reports" / "quick").mkdir(parents=True)
    nbformat.write(nb, folder / "your_images.ipynb")
    index.write_reports(tmp_path / "reports")
    saved = pd.read_csv(tmp_path / "saved" / "names-quick.csv", encoding="utf-8")
    assert saved["class"].tolist() == [*NAMES]
    for page, least in (("quick/your_images.html", 8), ("index.html", 1)):
        text = (tmp_path / "reports" / page).read_text(encoding="utf-8")
        soup = BeautifulSoup(text, "html.parser")
        for script in soup(["script", "style"]):
            assert "alert" not in script.extract().text
        assert not [tag for tag in soup(True) if any(at.startswith("on") for at in tag.attrs)]
        assert not soup.select("img[src=x], [href^=javascript], i, b, s, math, merror")
        shown = " ".join(soup.text.split())
        for words in (" ".join(name.split()) for name in NAMES):
            assert shown.count(words) >= least, (page, words)
            twice = html.escape(words, quote=False)
            assert twice == words or twice not in shown

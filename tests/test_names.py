"""Names of classes and folders are people's: a page shows them as text, in every locale."""

import html
import io
import locale

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mdr_core.profiles import Study
from mdr_core.report import index, show
from tests.test_report import RUNS

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


def show_everywhere() -> None:
    runs = pd.DataFrame(RUNS).assign(dataset=NAMES[0], loss=NAMES[1], backbone=NAMES[3])
    show.answer(Study("quick", dataset=f"folder:{NAMES[0]}"), runs, {}, {})
    figure, axis = plt.subplots(figsize=(12, 8))
    for name in NAMES:
        axis.plot([0, 1], label=name)
    axis.set(title=NAMES[0], xlabel=NAMES[1], ylabel=NAMES[2])
    axis.legend(title=NAMES[3])
    show.figure(figure, "; ".join(NAMES))
    table = pd.DataFrame({"class": NAMES, **dict.fromkeys(NAMES, 0.5)})
    show.table(table, "; ".join(NAMES))
    show.table(table.set_index(["class", NAMES[0]]), NAMES[1])


def test_a_page_shows_names_as_text_wherever_they_stand(tmp_path, monkeypatch, ascii_locale):
    outputs: list = []
    monkeypatch.setattr(
        show, "show", lambda data: outputs.append(new_output("display_data", data=data))
    )
    show_everywhere()
    tags = {"tags": ["parameters"]}
    cells = [new_markdown_cell("# Title?"), new_code_cell('profile = "quick"', metadata=tags)]
    nb = new_notebook(cells=[*cells, new_code_cell("show()", outputs=outputs)])
    nb.metadata.papermill = {
        "parameters": {"profile": "quick", "folder": f"folder:{NAMES[0]}"}, "duration": 1.0,
        "end_time": "2026-01-01T00:00:00", "version": "2",
    }  # fmt: skip
    nb.metadata.language_info = {"name": "python", "version": "3"}
    (folder := tmp_path / "reports" / "quick").mkdir(parents=True)
    nbformat.write(nb, folder / "your_images.ipynb")
    index.write_reports(tmp_path / "reports")
    text = (folder / "your_images.html").read_text(encoding="utf-8")
    soup = BeautifulSoup(text, "html.parser")
    saved = [each.extract().text.replace("<\\/", "</") for each in soup("script", type="text/csv")]
    assert pd.read_csv(io.StringIO(saved[0]))["class"].tolist() == [*NAMES]
    for script in soup(["script", "style"]):
        assert "alert" not in script.extract().text
    assert not [tag for tag in soup(True) if any(at.startswith("on") for at in tag.attrs)]
    assert not soup.select("img[src=x], [href^=javascript], i, b, s, math, merror")
    shown = "".join(soup.text.split())
    for words in ("".join(name.split()) for name in NAMES):
        assert shown.count(words) >= 4, words
        twice = html.escape(words, quote=False)
        assert twice == words or twice not in shown

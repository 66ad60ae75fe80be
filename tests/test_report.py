"""What notebooks show, and the pages, commands and index that are made of executed notebooks."""

import contextlib
import html
import io
import re
from collections import namedtuple

import nbformat
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mdr_core.__main__ import main
from mdr_core.errors import NothingStored
from mdr_core.profiles import Study
from mdr_core.report import index, render, show
from mdr_core.report.forest import forest

MADE = {"device": "x86", "finished": "2026-01-01", "commit": "c", "code": "d", "versions": {"t": 1}}
RUNS = {
    "run": [0, 0], "key": "k", "stored": True, "data": "f", "dataset": "drawn", "seed": 0,
    "epoch": [0, 1], "epochs": 1, "iterations": 40, "crop": 32, "batch_size": 60, "lr": 1e-3,
    "backbone": "small_resnet", "mdr_weight": 0.2, "device": "cpu", "seconds": 1800.0,
    "provenance": [MADE, MADE],
    "test_recall@1": [20.0, 71.23456789012345], "method": "Triplet + MDR",
}  # fmt: skip
Gain = namedtuple("Gain", "value low")  # as a difference of mdr_core.statistics
TABLE = pd.DataFrame(
    {"MDR": [-0.123456789012345, 2.0, None], "gain": [Gain(1.25, -2.0)] * 3, "n": [1, 2, 3]},
    index=pd.Index(["a", "<b>", "c"], name="loss"),
)


@pytest.fixture
def shown(monkeypatch):
    """Return what is displayed, as it is."""
    found = []
    monkeypatch.setattr(show, "show", found.append)
    return found


HOLDS = {"quick": ("Yes, by 4.1 points.", {"gain": "holds"})}
ANSWERS = [
    ({}, HOLDS, "holds", "Yes, by 4.1 points."),
    ({}, HOLDS, "unclear", "gain is now unclear, not holds"),
    ({}, {}, "holds", "We draw no conclusion"),
    ({"lr": 1e-2}, HOLDS, "holds", "Run with other parameters"),
]


@pytest.mark.parametrize("changes, conclusions, verdict, text", ANSWERS)
def test_our_conclusion_is_shown_where_it_fits_alone(shown, changes, conclusions, verdict, text):
    runs = pd.DataFrame(RUNS)
    show.answer(Study("quick", changes=changes), runs, conclusions, {"gain": verdict})
    assert text in shown[0]["text/markdown"]
    assert ("Yes" in shown[0]["text/markdown"]) == text.startswith("Yes")
    carried = shown[0][show.ANSWER]
    assert carried["parameters"].get("changes") == ("{'lr': 0.01}" if changes else None)
    assert dict(carried["provenance"])["hours in all"] == "1.0"


def test_a_page_without_a_stored_run_has_no_answer():
    with pytest.raises(NothingStored):
        show.answer(Study("quick"), pd.DataFrame(RUNS).assign(stored=False), {}, {})


def test_without_a_notebook_a_table_is_printed(capsys):
    show.table(TABLE, "A & b.")
    assert "| a | −0.1 |" in capsys.readouterr().out


def test_a_table_is_rounded_its_csv_is_not(shown):
    show.table(TABLE, "A & b.", digits=2)
    for part in ("A &amp; b.", "<td>&lt;b&gt;</td>", "<td>a</td><td>−0.12</td>"):
        assert part in shown[0]["text/html"]
    csv = pd.read_csv(io.StringIO(shown[0]["text/csv"]))
    assert list(csv) == ["loss", "MDR", "gain, value", "gain, low", "n"]
    assert csv.MDR[0] == TABLE.MDR.iloc[0] and csv["gain, value"][1] == 1.25
    assert "| a | −0.12 | Gain(value=1.25, low=-2.0) | 1 |" in shown[0]["text/plain"]


def test_a_figure_is_the_same_text_and_several_share_a_page(shown):
    for caption in ("One.", "One.", "Other."):
        figure, axis = plt.subplots()
        axis.plot([0, 1], [0, 1], marker="o")
        axis.set_title("Recall $@1 of a_b")
        show.figure([figure, figure], caption)
    one, again, other = (each["text/html"] for each in shown)
    assert one == again and "<style" not in one and one.count('role="img"') == 2
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (one, other)]
    assert ids[0] and not ids[0] & ids[1]
    assert 'aria-label="Recall $@1 of a_b. One."' in one


def test_a_forest_plot_has_a_row_for_each_run_and_names_the_others():
    rows = [("a", 2.0, 1.0, 3.0, 5, "holds"), ("b", -1.0, -4.0, 2.0, 1, "one seed")]
    rows += [("c", *[float("nan")] * 3, 0, "not run")]
    columns = ["loss", "difference", "low", "high", "seeds", "verdict"]
    for first, names in ((0, ["a", "b"]), (2, [])):
        figure = forest(pd.DataFrame(rows, columns=columns)[first:], "loss")
        axis = figure.axes[0]
        assert [text.get_text() for text in axis.texts[::2]] == names
        assert figure.get_supxlabel() == "Not run: c"
        plt.close(figure)


FORMULA = r"$\mathcal{L} = \frac{1}{N} \sum_{i \neq j} \lvert d_{ij} - s \rvert$"
TINY = [
    "import sys, warnings\nimport pandas as pd\nfrom mdr_core.profiles import Study\n"
    "from mdr_core.report import show\nprint('stderr!', file=sys.stderr)",
    f"study, runs = Study(profile), pd.DataFrame({RUNS!r})\n"
    "show.answer(study, runs, {'quick': ('**Yes**, 0.8 to 7.6.', {})}, {'gain': 'holds'})",
    "from matplotlib import pyplot as plt\nfigure, axis = plt.subplots()\naxis.plot([1, 2])\n"
    "show.figure(figure, 'A figure.')",
    "wide = {f'column number {n}': [1.5, -10.25, None, 3.0] for n in range(9)}\n"
    "show.table(pd.DataFrame(wide, index=pd.Index(list('abcd'), name='loss')), 'A table.')",
]
OTHERS = {
    "fails": "import mdr_core.errors\nraise mdr_core.errors.StudyError('no such data')",
    "killed": "import os\nos.kill(os.getpid(), 9)",
    "nothing": "import mdr_core.errors\nraise mdr_core.errors.NothingStored('no run is stored')",
}


def build(path, *cells):
    parameters = new_code_cell('profile = "quick"\nlosses = []', metadata={"tags": ["parameters"]})
    title = new_markdown_cell(
        f"# A *tiny* page?\n\nIt is {FORMULA}. [This](tiny.ipynb), [no](no.ipynb)."
    )
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[title, parameters, *cells], metadata=kernel), path)


def run(folder, *arguments):
    places = ["--notebooks", str(folder / "notebooks"), "--output", str(folder / "reports")]
    return main(["reports", *places, *arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "notebooks").mkdir()
    details = new_markdown_cell("## Folded", metadata={"tags": ["details"]})
    cells = [new_code_cell(source) for source in TINY]
    build(folder / "notebooks" / "tiny.ipynb", details, *cells, new_markdown_cell("## Limits"))
    for name, source in OTHERS.items():
        build(folder / "notebooks" / f"{name}.ipynb", new_code_cell(source))
    (folder / "notebooks" / "broken.ipynb").write_text("{")
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert run(folder, "-p", "losses", "['a b']") == 1
    (folder / "said").write_text(said.getvalue())
    return folder


def test_whatever_becomes_of_a_notebook_the_others_are_rendered(folder):
    said = (folder / "said").read_text()
    assert "fails: no such data\n" in said and "nothing: no run is stored\n" in said
    for name in ("killed", "broken"):
        assert len(re.findall(rf"^{name}: .+\n", said, re.MULTILINE)) == 1
    assert "Traceback" not in said
    assert [path.name for path in (folder / "reports" / "quick").glob("*.html")] == ["tiny.html"]
    assert "quick/tiny.html" in (folder / "reports" / "index.html").read_text(encoding="utf-8")


def test_a_page_has_question_answer_figure_table_limits_then_details(folder):
    tiny = (folder / "reports" / "quick" / "tiny.html").read_text(encoding="utf-8")
    order = ["<h1", "<mfrac>", "<strong>Yes</strong>", "<svg", "<caption>A table.", "Limits"]
    order += ['<details class="more">', "Folded", "The runs of this page", "losses"]
    places = [tiny.rindex(each) for each in order]
    assert places == sorted(places)
    outside = re.sub(r"<details.*?</details>", "", tiny, flags=re.DOTALL)
    assert "DataFrame" in tiny and "DataFrame" not in outside
    assert "0.8\u00a0to\u00a07.6" in tiny and "<title>A tiny page?</title>" in tiny
    assert '<a href="tiny.html">This</a>, <a >no</a>.' in tiny and 'href="tiny.ipynb"' in tiny
    command = "mdr_core reports --profile quick --notebook tiny -p losses '['\"'\"'a b"
    assert command in html.unescape(tiny)
    executed = (folder / "reports" / "quick" / "tiny.ipynb").read_text(encoding="utf-8")
    assert str(render.REPOSITORY) not in tiny + executed
    assert "stderr!\n" not in tiny and not re.search(r'(src|href)="http', tiny)


@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_in_a_browser_fits_saves_and_sorts(folder, browser, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    opened = browser.new_page(viewport={"width": width, "height": 800})
    opened.goto((folder / "reports" / "quick" / "tiny.html").as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    assert opened.locator("table.cards").count() == (width == 390)
    for button, start in (("CSV", "loss,column number 0"), ("SVG", "<svg")):
        with opened.expect_download() as download:
            opened.get_by_role("button", name=button).click()
        content = download.value.path().read_text(encoding="utf-8")
        assert content.startswith(start) and download.value.suggested_filename.startswith("tiny-1")
    opened.locator("th button").nth(1).evaluate("button => button.click()")
    assert opened.locator("tbody td.name").all_inner_texts() == ["d", "a", "b", "c"]
    opened.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    found = axe.run(opened, options={"resultTypes": ["violations"]}).response["violations"]
    assert not [(each["id"], each["nodes"][0]["html"][:200]) for each in found]
    opened.close()


def test_what_does_not_exist_is_refused(folder, capsys):
    assert run(folder, "--notebook", "tiny", "-p", "sedes", "[0]") == 1
    assert run(folder, "--notebook", "huge") == 2
    said = capsys.readouterr().err.splitlines()
    wrong = ("tiny: unknown parameter 'sedes'", "unknown notebook 'huge'")
    assert all(line.startswith(start) for line, start in zip(said, wrong, strict=True))


def test_other_numbers_and_absent_images_are_no_committed_pages(monkeypatch):
    given = render.argparse.Namespace(profile="photos", output=None, parameters=[])
    elsewhere = render.REPOSITORY / "outputs" / "reports"
    monkeypatch.setenv("MDR_DATA_ROOT", "nowhere")
    assert render.root_of(given, "drop_in") == render.REPORTS
    assert render.root_of(given, "your_images") == elsewhere / "without-images"
    given.parameters = [["seeds", "[0, 1]"]]
    assert render.root_of(given, "drop_in") == elsewhere / "seeds=[0,1]"


def test_notebooks_lie_side_by_side_and_others_are_refused(folder, capsys):
    executed, copy = folder / "reports" / "quick" / "tiny.ipynb", folder / "copy.ipynb"
    copy.write_bytes(executed.read_bytes())
    assert main(["compare", str(executed), str(copy)]) == 0
    assert capsys.readouterr().out.count("| a | 1.5 | 1.5 |") == 2
    assert main(["compare", str(copy), str(folder / "notebooks" / "broken.ipynb")]) == 2
    assert "is no executed notebook of this study" in capsys.readouterr().err


def test_index_and_readme_say_what_the_claims_notebook_says(folder, shown, monkeypatch):
    show.table(TABLE, "Recall@1.")
    sentences = {"text/markdown": "MDR beats the triplet loss."}
    cells = [
        new_code_cell(metadata={"tags": [tag]}, outputs=[new_output("display_data", data=data)])
        for tag, data in (("sentences", sentences), ("recall", shown[0]))
    ]
    reports = folder / "reports"
    tiny = nbformat.read(reports / "quick" / "tiny.ipynb", 4)
    (reports / "full").mkdir()
    nbformat.write(tiny, reports / "full" / "learning_curves.ipynb")
    nbformat.write(new_notebook(cells=cells, metadata=tiny.metadata), reports / "claims.ipynb")
    index.write_reports(reports)
    text = (reports / "index.html").read_text(encoding="utf-8")
    assert text.index("MDR beats") < text.index("−0.1") < text.index("A tiny page?")
    readme = folder / "README.md"
    readme.write_text("Before.\n<!-- results -->\nold\n<!-- end of results -->\nAfter.\n")
    for name, value in (("README", readme), ("REPORTS", reports)):
        monkeypatch.setattr(index, name, value)
    assert main(["readme"]) == 0
    assert (reports / index.CURVES).exists()
    written = readme.read_text(encoding="utf-8")
    assert "MDR beats" in written and "| a | −0.1 |" in written and "old" not in written
    assert written.startswith("Before.\n") and written.endswith("After.\n")

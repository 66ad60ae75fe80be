"""A tiny notebook is executed and rendered; its page is complete and holds what readers need."""

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mdr_core.__main__ import main
from mdr_core.errors import StudyError
from mdr_core.report import absent, render
from mdr_core.report.pages import markdown

FORMULA = r"$\mathcal{L} = \frac{1}{N} \sum_{i \neq j} \lvert d_{ij} - s \rvert$"


def build(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    parameters = new_code_cell(
        'profile = "quick"  # which settings\nseeds = [0, 1]  # one run each',
        metadata={"tags": ["parameters"]},
    )
    title = new_markdown_cell(f"# A *tiny* report\n\nThe loss is {FORMULA}.")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[title, parameters, *cells], metadata=kernel), path)


CELLS = [
    """
import sys, warnings, pandas as pd
warnings.warn("not for readers")
print("stderr!", file=sys.stderr)""",
    """
table = pd.DataFrame({"Recall@1": [0.5, 0.25]}, index=["with", "without"])
table.style.format("{:.2f}")""",
    """
import matplotlib; matplotlib.use("svg"); import io, matplotlib.pyplot as plt
from IPython.display import SVG
figure, axes = plt.subplots(); axes.plot(seeds); file = io.StringIO()
figure.savefig(file, format="svg"); plt.close(figure); SVG(file.getvalue())""",
    """
import os
from IPython.display import display
print(sys.executable == os.environ["EXPECTED_PYTHON"])
found = {"finding": f"Seen with {len(seeds)} seeds.", "figure": "50 %"}
display({"application/vnd.mdr.finding+json": found}, raw=True)""",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one notebook, and the report rendered from it."""
    folder = tmp_path_factory.mktemp("study")
    cells = [new_code_cell(source.strip()) for source in CELLS]
    cells[2].metadata["tags"] = ["hide-input"]
    cells += [
        new_markdown_cell(
            "## A section\n\nOnly prose: [this](tiny.ipynb), [another one](other.ipynb)."
        ),
        new_markdown_cell("## A section\n\nNothing to see."),
        new_code_cell("if not seeds:\n    report.table(table)"),
        new_markdown_cell("## A section\n\nThe same name."),
    ]
    build(folder / "notebooks" / "tiny.ipynb", *cells)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPECTED_PYTHON", sys.executable)
        assert run(folder, "-p", "seeds", "[3, 4, 5]") == 0
    return folder


def run(folder, *arguments):
    return main(
        [
            "reports",
            "--notebooks",
            str(folder / "notebooks"),
            "--output",
            str(folder / "reports"),
            *arguments,
        ]
    )


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "reports" / "quick" / "tiny.html").read_text(encoding="utf-8")


def test_nothing_is_loaded(page):
    assert not re.search(r"<script[^>]+src|<link|@import", page)
    for source in re.findall(r"""(?:\ssrc=|url\()["']?([^"')\s>]{0,40})""", page):
        assert source.startswith("data:")


def test_formulas_are_mathml(page):
    assert "<math" in page and "<mfrac>" in page
    assert r"\mathcal" not in re.sub(r'alttext="[^"]*"', "", page)


def test_code_is_folded_and_results_are_not(page):
    outside = re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL)
    shown = 5  # parameters, injected parameters and three cells; none of an empty section
    assert page.count('<details class="code">') == shown
    assert "DataFrame" in page and "DataFrame" not in outside
    assert "savefig" not in page  # tagged hide-input
    assert "0.50" in outside and "image/svg+xml" in outside
    assert ">True<" in re.sub(r"\s", "", outside)  # the kernel is this interpreter


def test_the_finding_opens_the_report(page):
    assert "<title>A tiny report</title>" in page
    assert page.index("Seen with 3 seeds.") < page.index("DataFrame")
    assert page.count("Seen with 3 seeds.") == 1


def test_nothing_of_the_machine_or_the_terminal(folder, page):
    executed = (folder / "reports" / "quick" / "tiny.ipynb").read_text(encoding="utf-8")
    for text in (page, executed):
        assert str(folder) not in text
        assert str(render.REPOSITORY) not in text
        assert "stderr!\n" not in text and "UserWarning" not in text
    assert json.loads(executed)["metadata"]["papermill"]["parameters"] == {
        "profile": "quick",
        "seeds": [3, 4, 5],
    }
    assert not list(folder.rglob("*.tmp"))


def test_the_page_tells_its_contents_sources_and_command(page):
    assert 'href="tiny.ipynb"' in page and "runs.csv" not in page
    assert "python -m mdr_core reports --profile quick --notebook tiny -p seeds" in page
    assert re.findall(r'<h2 id="([^"]+)"', page) == ["a-section", "a-section-a-section"]
    assert page.count('href="#a-section"') == 2  # beside the text, and from the head on a phone


def test_a_section_that_shows_nothing_is_left_out(page):
    assert "Nothing to see" not in page and "Only prose" in page


def test_a_link_to_a_notebook_without_a_page_is_its_words(page):
    assert '<a href="tiny.html">this</a>' in page and "another one" in page
    assert "other.html" not in page and "other.ipynb" not in page


def test_the_index_lists_it(folder):
    index = (folder / "reports" / "index.html").read_text(encoding="utf-8")
    for text in ("quick/tiny.html", "A tiny report", "50 %"):
        assert text in index


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-p", "sedes", "[0]"], "unknown parameter of tiny 'sedes': choose one of profile, seeds"),
        (["--profile", "fast"], "unknown profile 'fast': choose one of full, paper, photos, quick"),
        (["--notebook", "huge"], "unknown notebook 'huge': choose one of tiny"),
    ],
)
def test_what_does_not_exist_is_refused(folder, capsys, arguments, line):
    assert run(folder, *arguments) == 2
    assert capsys.readouterr().err.strip() == line


def test_a_failure_is_told_and_the_others_still_run(tmp_path, capfd):
    build(
        tmp_path / "notebooks" / "a.ipynb",
        new_code_cell("from mdr_core.errors import StudyError\nraise StudyError('no such data')"),
    )
    build(tmp_path / "notebooks" / "b.ipynb")
    assert run(tmp_path) == 1
    errors = capfd.readouterr().err
    assert "a: no such data\n" in errors and "Traceback" not in errors
    assert not (tmp_path / "reports" / "quick" / "a.html").exists()
    assert (tmp_path / "reports" / "quick" / "b.html").exists()


@pytest.mark.parametrize("latex", [r"\nosuchcommand{x}", r"\left( x"])
def test_a_formula_that_cannot_be_shown_is_an_error(latex):
    with pytest.raises(StudyError, match="formula"):
        markdown.to_mathml(latex)


@pytest.mark.parametrize(
    "given, place",
    [
        ({}, "reports/quick"),
        ({"mdr_weight": 0.4}, "outputs/reports/quick-mdr_weight=0.4"),
        ({"seeds": [0, 1], "train": False}, "outputs/reports/quick-seeds=[0,1]-train=False"),
    ],
)
def test_pages_under_changed_parameters_go_to_a_place_of_their_own(given, place):
    arguments = render.argparse.Namespace(profile="quick", output=render.REPORTS)
    assert render.place_of(arguments, {"profile": "quick"} | given) == render.REPOSITORY / place
    arguments.output = Path("/elsewhere")
    assert render.place_of(arguments, {"profile": "quick"} | given) == Path("/elsewhere/quick")


def test_without_the_images_their_pages_are_no_committed_ones(monkeypatch, tmp_path):
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path))
    assert render.images_absent("photos") and not render.images_absent("quick")
    (tmp_path / "cub50").mkdir()
    assert not render.images_absent("photos")


def test_an_absent_image_is_a_gray_tile():
    about = {"test_classes": ["a", "b"], "test_families": None, "fingerprint": "f"}
    found = absent.dataset("cub50", about, {"labels": torch.tensor([0, 0, 1])})
    assert found.test.images.shape == (3, 3, 128, 128) and found.test.labels.tolist() == [0, 0, 1]
    assert 2 < found.test.images[0].float().std() < 60

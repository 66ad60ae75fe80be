"""Two tiny notebooks are rendered, one of which fails: the page of the other is right."""

import contextlib
import io
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
CELLS = [
    """
import sys, warnings, pandas as pd
warnings.warn("not for readers")
print("stderr!", file=sys.stderr)
table = pd.DataFrame({"Recall@1": [0.5, 0.25]}, index=["with", "without"])
table.style.format("{:.2f}")""",
    """
from IPython.display import SVG, display
SVG("<svg xmlns='http://www.w3.org/2000/svg'></svg>")  # hidden""",
    """
import os
print(sys.executable == os.environ["EXPECTED_PYTHON"])
found = {"finding": f"Seen with {len(seeds)} seeds.", "figure": "50 %"}
display({"application/vnd.mdr.finding+json": found}, raw=True)""",
]


def build(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    parameters = new_code_cell(
        'profile = "quick"  # which settings\nseeds = [0, 1]  # one run each',
        metadata={"tags": ["parameters"]},
    )
    title = new_markdown_cell(f"# A *tiny* report\n\nThe loss is {FORMULA}.")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[title, parameters, *cells], metadata=kernel), path)


def run(folder, *arguments):
    places = ["--notebooks", str(folder / "notebooks"), "--output", str(folder / "reports")]
    return main(["reports", *places, *arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    cells = [new_code_cell(source.strip()) for source in CELLS]
    cells[1].metadata["tags"] = ["hide-input"]
    cells += [
        new_markdown_cell("## A section\n\nOnly prose: [this](tiny.ipynb), [fails](fails.ipynb)."),
        new_markdown_cell("## A section\n\nNothing to see."),
        new_code_cell("if not seeds:\n    report.table(table)"),
        new_markdown_cell("## A section\n\nThe same name."),
    ]
    fails = "import mdr_core.errors\nraise mdr_core.errors.StudyError('no such data')"
    build(folder / "notebooks" / "fails.ipynb", new_code_cell(fails))
    build(folder / "notebooks" / "tiny.ipynb", *cells)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as said:
        patch.setenv("EXPECTED_PYTHON", sys.executable)
        assert run(folder, "-p", "seeds", "[3, 4, 5]") == 1
    assert "fails: no such data\n" in said.getvalue() and "Traceback" not in said.getvalue()
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "reports" / "quick" / "tiny.html").read_text(encoding="utf-8")


def test_a_failure_is_told_and_the_others_still_run(folder):
    assert not (folder / "reports" / "quick" / "fails.html").exists()
    index = (folder / "reports" / "index.html").read_text(encoding="utf-8")
    assert "quick/tiny.html" in index and "50 %" in index and "fails.html" not in index


def test_code_is_folded_and_results_are_not(page):
    outside = re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL)
    # parameters, injected parameters and two cells; neither a hidden one nor an empty section's
    assert page.count('<details class="code">') == 4 and "# hidden" not in page
    assert "DataFrame" in page and "DataFrame" not in outside
    assert "0.50" in outside and "image/svg+xml" in outside
    assert ">True<" in re.sub(r"\s", "", outside)  # the kernel is this interpreter
    assert "<mfrac>" in page and r"\mathcal" not in re.sub(r'alttext="[^"]*"', "", page)


def test_the_finding_opens_the_report_and_its_sections_and_command_are_told(page):
    assert "<title>A tiny report</title>" in page
    assert page.index("Seen with 3 seeds.") < page.index("DataFrame")
    assert page.count("Seen with 3 seeds.") == 1
    assert 'href="tiny.ipynb"' in page and "runs.csv" not in page
    assert "python -m mdr_core reports --profile quick --notebook tiny -p seeds" in page
    assert re.findall(r'<h2 id="([^"]+)"', page) == ["a-section", "a-section-a-section"]
    assert page.count('href="#a-section"') == 2  # beside the text, and from the head on a phone
    assert "Nothing to see" not in page and "Only prose" in page  # of sections without a result
    assert '<a href="tiny.html">this</a>' in page and ", fails." in page


def test_nothing_of_the_machine_or_the_terminal(folder, page):
    executed = (folder / "reports" / "quick" / "tiny.ipynb").read_text(encoding="utf-8")
    for text in (page, executed):
        assert str(folder) not in text and str(render.REPOSITORY) not in text
        assert "stderr!\n" not in text and "UserWarning" not in text
    given = json.loads(executed)["metadata"]["papermill"]["parameters"]
    assert given == {"profile": "quick", "seeds": [3, 4, 5]}


REFUSED = {
    "-p sedes [0]": "unknown parameter of fails 'sedes'",
    "--profile fast": "unknown profile 'fast'",
    "--notebook huge": "unknown notebook 'huge'",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_does_not_exist_is_refused(folder, capsys, arguments):
    assert run(folder, *arguments.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith(REFUSED[arguments]) and said.count("\n") == 1


def test_a_formula_that_cannot_be_shown_is_an_error():
    for latex in (r"\nosuchcommand{x}", r"\left( x"):
        with pytest.raises(StudyError, match="formula"):
            markdown.to_mathml(latex)


def test_pages_under_changed_parameters_go_to_a_place_of_their_own():
    arguments = render.argparse.Namespace(profile="quick", output=render.REPORTS)
    changed, place = {"seeds": [0, 1], "train": False}, "quick-seeds=[0,1]-train=False"
    assert render.place_of(arguments, {"profile": "quick"}) == render.REPORTS / "quick"
    assert render.place_of(arguments, changed) == render.REPOSITORY / "outputs/reports" / place
    arguments.output = Path("/elsewhere")
    assert render.place_of(arguments, changed) == Path("/elsewhere/quick")


def test_without_the_images_their_pages_are_no_committed_ones(monkeypatch, tmp_path):
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path))
    monkeypatch.setattr(render, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(render, "REPOSITORY", tmp_path)
    build(tmp_path / "notebooks" / "retrieval_gallery.ipynb")
    (tmp_path / "reports" / "photos").mkdir(parents=True)
    assert run(tmp_path, "--profile", "photos") == 0
    [page] = (tmp_path / "outputs").rglob("retrieval_gallery.html")
    assert page.parent.name == "photos-without-images"
    (tmp_path / "cub50").mkdir()
    assert not (render.images_absent("photos") or render.images_absent("quick"))


def test_an_absent_image_is_a_gray_tile_with_words():
    about = {"test_classes": ["a", "b"], "test_families": None, "fingerprint": "f"}
    test = absent.dataset("cub50", about, {"labels": torch.tensor([0, 0, 1])}).test
    assert test.images.shape == (3, 3, 128, 128) and test.labels.tolist() == [0, 0, 1]
    assert 2 < test.images[0].float().std() < 60

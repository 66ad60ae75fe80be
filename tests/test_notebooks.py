"""Every notebook runs under papermill from another directory, documents its parameters, and refuses wrong ones."""

import ast
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from mdr_core import notebook, reports
from mdr_core.errors import StudyError
from tests.test_data import cub_tree

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = {  # less of what there would be more of; the claims need everything and come last, on the runs of the others
    "ablation_backbones": {"backbones": "['small_resnet']"},
    "ablation_losses": {"losses": "['triplet', 'margin']"},
    "ablation_levels": {"settings": "['3 levels (−3, 0, 3)', '1 level (0)']", "lambdas": "[0.6]"},
    "embedding_dimension": {"dimensions": "[8, 16]"},
    "retrieval_gallery": {"queries": "2", "hardest": "1", "top": "2"},
}
ORDER = sorted(NOTEBOOKS, key=lambda path: path.stem == "claims")


def papermill(source: Path, folder: Path, **parameters) -> subprocess.CompletedProcess:
    arguments = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", str(source), str(folder / source.name), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("elsewhere")


@pytest.mark.parametrize("path", ORDER, ids=lambda path: path.stem)
def test_runs_from_another_directory_and_says_what_it_found(path, folder):
    more = {"ablation_seeds": "[0]"} if path.stem == "claims" else {}
    done = papermill(path, folder, seeds="[0]", epochs=1, output_root=folder / "runs", save_root=folder / "saved",
                     **SMALL.get(path.stem, {}), **more)
    assert done.returncode == 0, done.stderr[-3000:]
    executed = nbformat.read(folder / path.name, 4)
    outputs = [o for cell in executed.cells for o in cell.get("outputs", [])]
    assert any(notebook.FINDING in o.get("data", {}) for o in outputs)
    quiet = [o for o in outputs if o.get("name") == "stderr" and "Warning" in o["text"]]
    assert not quiet, quiet
    assert list((folder / "saved").glob("*.csv"))


def test_two_at_the_same_time_train_a_run_once_and_both_end(folder):
    command = [sys.executable, "-m", "mdr_core.reports", "--notebook", "learning_curves", "--output", str(folder / "reports"),
               "-p", "seeds", "[0]", "-p", "epochs", "2", "-p", "methods", "['Triplet']", "-p", "output_root", str(folder / "runs")]
    before = set((folder / "runs").glob("*/run.json"))
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    new = set((folder / "runs").glob("*/run.json")) - before
    assert 1 <= len(new) <= 2  # the run and, where this test runs alone, the pretraining
    assert not list((folder / "runs").glob("*.lock")) and not list((folder / "reports").rglob(".*"))
    assert "Recall@1" in (folder / "reports" / "quick" / "learning_curves.html").read_text()


def test_another_dataset_becomes_a_report_from_its_files_in_the_official_layout(tmp_path, monkeypatch):
    """ResNet-18 under the paper profile's settings, on the CPU, from JPEG files to the page."""
    monkeypatch.setenv("MDR_CACHE", str(tmp_path / "cache"))
    cub_tree(tmp_path / "data", each=4)
    given = {"dataset": "cub_mini", "backbone": "resnet18", "weights": "random", "device": "cpu", "epochs": 2, "iterations": 1,
             "seeds": "[0]", "data_root": tmp_path / "data", "output_root": tmp_path / "runs"}
    parameters = [word for name, value in given.items() for word in ("-p", name, str(value))]
    assert reports.main(["--profile", "paper", "--notebook", "recall_at_k", "--output", str(tmp_path / "reports"), *parameters]) == 0
    page = (tmp_path / "reports" / "paper" / "recall_at_k.html").read_text()
    assert "Points of Recall@1 after the last epoch (n = 1): cub_mini" in page and "256×256 images; Recall@K" in page


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_structure(path):
    """The parameters come first and each is explained; as much prose as code; no function over ten lines."""
    cells = nbformat.read(path, 4).cells
    code = [c for c in cells if c.cell_type == "code"]
    assert code[0].metadata.tags == ["parameters"] and code[0].source.startswith(notebook.MARK)
    lines = code[0].source.splitlines()[1:]
    assert all("  # " in line for line in lines), [line for line in lines if "  # " not in line]
    assert "profile" in notebook.assigned(code[0].source)
    assert code[1].source.count("Report(In, globals())") == 1
    words = lambda kind: sum(len(c.source.split()) for c in cells if c.cell_type == kind)  # noqa: E731
    assert words("markdown") > 0.35 * words("code"), (words("markdown"), words("code"))
    prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    assert all(part in prose for part in ("# ", "**Question.**", "**The paper's claim", "## Provenance"))
    for cell in code:
        source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 10, node.name


@pytest.mark.parametrize("parameter, message", [
    ({"sedes": "[0]"}, "unknown parameter 'sedes': choose one of"),
    ({"epochs": "many"}, "epochs must be of type int"),
    ({"seeds": "5"}, "seeds must be a list"),
    ({"dataset": "birds"}, "unknown dataset 'birds': choose one of"),
    ({"methods": "['Tripled']"}, "unknown method 'Tripled'"),
    ({"methods": "[]"}, "methods is empty: give at least one"),
    ({"seeds": "[0, 0]"}, "seeds names something twice"),
])
def test_wrong_parameters_end_in_one_line(parameter, message, folder):
    done = papermill(ROOT / "notebooks" / "recall_at_k.ipynb", folder, **parameter)
    assert done.returncode != 0 and message in done.stderr


def test_types_are_those_of_the_defaults():
    cells = ["", notebook.MARK + "\nseeds = [0]  # runs\nlr = -1.0  # rate\nname = ''  # a word", "# Parameters\nlr = 1\n", ""]
    found = notebook.checked_parameters(cells, {"seeds": "[1, 2]", "lr": 1, "name": "x"})
    assert found == {"seeds": [1, 2], "lr": 1.0, "name": "x"}
    for wrong in ({"seeds": [0.5]}, {"lr": "fast"}, {"name": 3}):
        with pytest.raises(StudyError, match="must be of type"):
            notebook.checked_parameters(cells, {"seeds": [0], "lr": 1.0, "name": ""} | wrong)
    with pytest.raises(StudyError, match="parameters cell first"):
        notebook.checked_parameters(["x = 1"], {})

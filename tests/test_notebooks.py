"""Every notebook runs under papermill from another directory and refuses wrong parameters.

The quick profile has few images and few steps here (tests/short.py). All notebooks read one run
store, so a run is trained once.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient

from mdr_core.errors import StudyError
from mdr_core.report import notebook, parameters, render
from tests import trees

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = {  # less of what there would be more of; the ablations' runs are all that the claims need
    "ablation_levels": {"lambdas": [0.6]},
    "retrieval_gallery": {"queries": 2, "hardest": 1, "top": 2, "explored": 40},
    "your_images": {"all_classes": True},
}
ORDER = sorted(NOTEBOOKS, key=lambda path: path.stem == "claims")


class Short(render.Kernel):
    """A kernel that knows the short profile."""

    @property
    def kernel_spec(self) -> KernelSpec:
        spec = super().kernel_spec
        spec.argv.append("--IPKernelApp.exec_lines=import tests.short")
        return spec


@pytest.fixture(scope="session")
def kernel(tmp_path_factory) -> Iterator[Short]:
    """One for all notebooks of a process: to start another takes as long as a notebook."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    kernel = Short.begin(cwd=elsewhere, env=os.environ | {"PYTHONPATH": str(ROOT), "MDR_JOBS": "1"})
    yield kernel
    kernel.end()


def emptied(kernel: Short, folder: Path) -> Short:
    """The kernel as if it had just started in this folder."""
    cell = nbformat.v4.new_code_cell(f"%cd -q {folder}\n%reset -f")
    NotebookClient(nbformat.v4.new_notebook(cells=[cell]), km=kernel).execute()
    return kernel


@pytest.mark.parametrize("path", ORDER, ids=lambda path: path.stem)
def test_runs_from_another_directory_and_says_what_it_found(path, kernel, tmp_path, capsys):
    given = {"seeds": [0], "epochs": 1, "save_root": str(tmp_path / "saved")}
    given |= SMALL.get(path.stem, {})
    if path.stem == "your_images":
        given["index_root"] = str(tmp_path / "index")
    executed = render.execute(path, given, emptied(kernel, tmp_path))
    assert "Warning" not in capsys.readouterr().err  # a kernel's stderr goes there
    check(executed)
    assert list((tmp_path / "saved").glob("*.csv"))
    assert {p.name for p in tmp_path.iterdir()} <= {"saved", "index"}  # nothing else where it ran


def check(executed: nbformat.NotebookNode) -> None:
    """It has a finding, was executed to its end, and shows no warning."""
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    outputs = [o for cell in code for o in cell.outputs]
    assert any(notebook.FINDING in o.get("data", {}) for o in outputs)
    assert all(cell.execution_count for cell in code)
    quiet = [o for o in outputs if o.get("name") == "stderr" and "Warning" in o["text"]]
    assert not quiet, quiet


def words(parameters: dict) -> list[str]:
    """Parameters as papermill's command line and ours take them."""
    return [word for name, value in parameters.items() for word in ("-p", name, str(value))]


def begun(*command: object, cwd: Path, **environment: str) -> subprocess.Popen:
    """``python -m`` with these words, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_at_the_same_time_train_a_run_once_from_files_in_the_official_layout(tmp_path):
    """papermill's command line from another directory and a report, in processes of their own.

    A network of timm under the paper profile, on the CPU, from JPEG files to a page.
    """
    trees.cub(tmp_path / "data", each=2)
    given = {
        "dataset": "cub_mini",
        "train": True,  # which the paper profile does not without being asked
        "backbone": "mobilenetv3_small_050",
        "weights": "random",
        "device": "cpu",
        "epochs": 1,
        "iterations": 1,
        "seeds": "[0]",
        "methods": "['Triplet', 'Triplet + MDR']",
        "held_out_seeds": 0,
    }
    source, executed = ROOT / "notebooks" / "recall_at_k.ipynb", tmp_path / "executed.ipynb"
    alone = {"profile": "paper", "save_root": tmp_path / "saved"}
    own = {"MDR_CACHE": "cache", "MDR_DATA_ROOT": "data", "MDR_RUNS": "runs"}
    own = {name: str(tmp_path / folder) for name, folder in own.items()} | {"MDR_JOBS": "1"}
    report = ("mdr_core", "reports", "--profile", "paper", "--notebook", "recall_at_k")
    started = [
        begun("papermill", source, executed, *words(given | alone), cwd=tmp_path, **own),
        begun(*report, "--output", tmp_path / "reports", *words(given), cwd=ROOT, **own),
    ]
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    stored = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/run.json")]
    assert sorted(run["config"]["crop"] for run in stored) == [224, 224, 256, 256]
    assert not list((tmp_path / "runs").glob("*.lock"))
    assert not list((tmp_path / "reports").rglob(".*"))
    page = (tmp_path / "reports" / "paper" / "recall_at_k.html").read_text()
    assert " on cub_mini, " in page and "256×256 images; Recall@K" in page
    check(nbformat.read(executed, 4))
    assert list((tmp_path / "saved").glob("*.csv"))


@pytest.mark.long
def test_from_an_empty_store_handwriting_is_trained(tmp_path):
    """As a reader begins: the command line, the quick profile, and a store that holds nothing."""
    report = ("mdr_core", "reports", "--notebook", "learning_curves", "--output", tmp_path)
    given = words({"seeds": "[0]", "epochs": 2})
    process = begun(*report, *given, cwd=ROOT, MDR_RUNS=str(tmp_path / "runs"))
    said = process.communicate()[0]
    assert process.returncode == 0, said
    stored = (tmp_path / "runs").glob("*/run.json")
    trained = [json.loads(path.read_text())["config"]["dataset"] for path in stored]
    assert sorted(trained) == ["omniglot"] * 3
    assert "Recall@1" in (tmp_path / "quick" / "learning_curves.html").read_text()


MACHINE = "# The machine; its folders are environment variables (docs/runs.md)."


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_structure(path):
    """The parameters come first and each is explained; enough prose; short lines and functions."""
    cells = nbformat.read(path, 4).cells
    code = [c for c in cells if c.cell_type == "code"]
    assert code[0].metadata.tags == ["parameters"] and code[0].source.startswith(parameters.MARK)
    of_study, _, of_machine = code[0].source.partition(MACHINE)
    lines = (of_study + of_machine.lstrip()).splitlines()[1:]
    assert not [line for line in lines if "  # " not in line]
    assert "profile" in parameters.assigned(of_study)
    assert tuple(parameters.assigned(of_machine)) == ("device", "save_root", "train")
    own = code[1].source
    assert own.count("given = checked_parameters(globals())\nreport = Report(given)\n") == 1
    length = dict.fromkeys(("markdown", "code"), 0)
    for cell in cells:
        length[cell.cell_type] += len(cell.source.split())
    assert length["markdown"] > 0.35 * length["code"], length
    prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    for part in ("# ", "**Question.**", "**The paper's claim", "## Provenance"):
        assert part in prose
    for cell in code:
        assert max(map(len, cell.source.splitlines())) <= 100
        source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 10, node.name


WRONG = [
    ({"sedes": "[0]"}, "unknown parameter 'sedes'"),
    ({"lr": float("nan")}, "lr must be finite"),
    ({"seeds": "5"}, "seeds must be a list"),
    ({"dataset": "birds"}, "unknown dataset 'birds'"),
    ({"profile": "fast"}, "unknown profile 'fast'"),
    ({"methods": "['Tripled']"}, "unknown method 'Tripled'"),
    ({"methods": "[]"}, "methods is empty: give at least one"),
    ({"seeds": "[0, 0]"}, "seeds names something twice"),
]


@pytest.mark.parametrize("parameter, message", WRONG)
def test_wrong_parameters_end_in_one_line(parameter, message, kernel):
    with pytest.raises(StudyError, match=message) as said:
        render.execute(ROOT / "notebooks" / "recall_at_k.ipynb", parameter, kernel)
    assert "\n" not in str(said.value)


def test_types_are_those_of_the_defaults():
    cells = [
        "",
        parameters.MARK + "\nseeds = [0]  # runs\nlr: float = -1  # rate\nname = ''  # a word",
        "# Parameters\nlr = 1\n",
        "",
    ]
    namespace = {"In": cells, "seeds": "[1, 2]", "lr": 1, "name": "x"}
    found = parameters.checked_parameters(namespace)
    defaults = {"seeds": [0], "lr": -1.0, "name": ""}
    assert vars(found) == {"seeds": [1, 2], "lr": 1.0, "name": "x", "defaults": defaults}
    assert namespace["seeds"] == "[1, 2]" and type(found.lr) is float
    for wrong in ({"seeds": [0.5]}, {"lr": "fast"}, {"name": 3}):
        with pytest.raises(StudyError, match="must be of type"):
            parameters.checked_parameters(namespace | wrong)
    for name, value, line in (
        ("top", 0, "top must be at least 1, got 0"),
        ("epochs", 0, "epochs is 0: give at least 1"),
        ("save_root", str(Path(__file__) / "saved"), "cannot be written to .*: set save_root to"),
    ):
        default = 5 if isinstance(value, int) else ""
        cell = f"{parameters.MARK}\n{name} = {default!r}  # a parameter"
        with pytest.raises(StudyError, match=line):
            parameters.checked_parameters({"In": [cell], name: value})
    cells[2] = "# Parameters\nepochs: int = 1\n"
    with pytest.raises(StudyError, match="unknown parameter 'epochs': choose one of lr, name"):
        parameters.checked_parameters(namespace)
    with pytest.raises(StudyError, match="parameters cell first"):
        parameters.checked_parameters({"In": ["x = 1"]})

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

from mdr_core.__main__ import main
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
LONG_FIRST = (
    "ablation_losses",
    "ablation_levels",
    "embedding_dimension",
    "recall_at_k",
    "ablation_backbones",
)
ORDER = sorted(
    NOTEBOOKS, key=lambda path: (path.stem == "claims", path.stem not in LONG_FIRST, path.stem)
)


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


def test_two_at_the_same_time_train_a_run_once_and_both_end(tmp_path):
    """papermill's command line from another directory and a report, in processes of their own."""
    given = {
        "seeds": "[0]",
        "epochs": 2,
        "iterations": 6,
        "methods": "['Triplet']",
        "backbone": "small_resnet_narrow",
        "weights": "random",
        "held_out_seeds": 0,
    }
    source, executed = ROOT / "notebooks" / "recall_at_k.ipynb", tmp_path / "executed.ipynb"
    papermill = [
        sys.executable,
        "-m",
        "papermill",
        str(source),
        str(executed),
        *words(given),
        "-p",
        "save_root",
        str(tmp_path / "saved"),
    ]
    report = [
        sys.executable,
        "-m",
        "mdr_core",
        "reports",
        "--notebook",
        "recall_at_k",
        "--output",
        str(tmp_path / "reports"),
        *words(given),
    ]
    commands = [(papermill, tmp_path), (report, ROOT)]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    quiet["env"] = os.environ | {"MDR_RUNS": str(tmp_path / "runs")}
    started = [subprocess.Popen(command, cwd=folder, **quiet) for command, folder in commands]
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    [stored] = (tmp_path / "runs").glob("*/run.json")
    assert json.loads(stored.read_text())["content"]
    assert not list((tmp_path / "runs").glob("*.lock")) and not list(
        (tmp_path / "reports").rglob(".*")
    )
    assert "Recall@1" in (tmp_path / "reports" / "quick" / "recall_at_k.html").read_text()
    check(nbformat.read(executed, 4))
    assert list((tmp_path / "saved").glob("*.csv"))


def words(parameters: dict) -> list[str]:
    """Parameters as papermill's command line and ours take them."""
    return [word for name, value in parameters.items() for word in ("-p", name, str(value))]


@pytest.mark.long
def test_from_an_empty_store_the_whole_pretraining_is_trained(tmp_path):
    """As a reader begins: the command line, the quick profile, and a store that holds nothing."""
    command = [
        sys.executable,
        "-m",
        "mdr_core",
        "reports",
        "--notebook",
        "learning_curves",
        "--output",
        str(tmp_path / "reports"),
        *words({"seeds": "[0]", "epochs": 2}),
    ]
    where = os.environ | {"MDR_RUNS": str(tmp_path / "runs")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=where)
    assert done.returncode == 0, done.stderr
    stored = (tmp_path / "runs").glob("*/run.json")
    trained = [json.loads(path.read_text())["config"] for path in stored]
    assert sorted(config["dataset"] for config in trained) == [
        "drawn",
        "drawn",
        "drawn",
        "drawn_pretraining",
    ]
    assert "Recall@1" in (tmp_path / "reports" / "quick" / "learning_curves.html").read_text()


def test_another_dataset_becomes_a_report_from_its_files_in_the_official_layout(
    tmp_path, monkeypatch
):
    """A network of timm under the paper profile, on the CPU, from JPEG files to a page."""
    for name, folder in (("CACHE", "cache"), ("DATA_ROOT", "data"), ("RUNS", "runs")):
        monkeypatch.setenv(f"MDR_{name}", str(tmp_path / folder))
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
    }
    assert (
        main(
            [
                "reports",
                "--profile",
                "paper",
                "--notebook",
                "recall_at_k",
                "--output",
                str(tmp_path / "reports"),
                *words(given),
            ]
        )
        == 0
    )
    page = (tmp_path / "reports" / "paper" / "recall_at_k.html").read_text()
    assert " on cub_mini, " in page and "256×256 images; Recall@K" in page


MACHINE = "# The machine; its folders are environment variables (docs/runs.md)."
MACHINE_PARAMETERS = ("device", "save_root", "train")


def test_the_parameters_of_the_machine_are_the_same_everywhere():
    groups = set()
    for path in NOTEBOOKS:
        cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        groups.add(cells[0].source.partition(MACHINE)[2])
    [group] = groups
    assert tuple(parameters.assigned(group)) == MACHINE_PARAMETERS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_structure(path):
    """The parameters come first and each is explained; enough prose; short lines and functions."""
    cells = nbformat.read(path, 4).cells
    code = [c for c in cells if c.cell_type == "code"]
    assert code[0].metadata.tags == ["parameters"] and code[0].source.startswith(parameters.MARK)
    lines = code[0].source.splitlines()[1:]
    lines.remove(MACHINE)
    assert all("  # " in line for line in lines), [line for line in lines if "  # " not in line]
    assert {"profile", *MACHINE_PARAMETERS} <= parameters.assigned(code[0].source).keys()
    own = code[1].source
    assert own.count("given = checked_parameters(globals())\nreport = Report(given)\n") == 1
    length = dict.fromkeys(("markdown", "code"), 0)
    for cell in cells:
        length[cell.cell_type] += len(cell.source.split())
    assert length["markdown"] > 0.35 * length["code"], length
    prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    assert all(
        part in prose for part in ("# ", "**Question.**", "**The paper's claim", "## Provenance")
    )
    for cell in code:
        assert max(map(len, cell.source.splitlines())) <= 100
        source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 10, node.name


WRONG = [
    ({"sedes": "[0]"}, "unknown parameter 'sedes': choose one of"),
    ({"epochs": "many"}, "epochs must be of type int"),
    ({"lr": float("nan")}, "lr must be finite"),
    ({"seeds": "5"}, "seeds must be a list"),
    ({"dataset": "birds"}, "unknown dataset 'birds': choose one of"),
    ({"methods": "['Tripled']"}, "unknown method 'Tripled'"),
    ({"methods": "[]"}, "methods is empty: give at least one"),
    ({"seeds": "[0, 0]"}, "seeds names something twice"),
]


@pytest.mark.parametrize("parameter, message", WRONG)
def test_wrong_parameters_end_in_one_line(parameter, message, kernel):
    with pytest.raises(StudyError, match=message) as said:
        render.execute(ROOT / "notebooks" / "recall_at_k.ipynb", parameter, kernel)
    assert "\n" not in str(said.value)


def test_papermill_s_command_line_tells_a_wrong_parameter(tmp_path):
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(ROOT / "notebooks" / "recall_at_k.ipynb"),
        str(tmp_path / "executed.ipynb"),
    ]
    done = subprocess.run(
        [*command, "-p", "sedes", "[0]"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0 and WRONG[0][1] in done.stderr


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
            parameters.checked_parameters(
                {"In": cells, "seeds": [0], "lr": 1.0, "name": ""} | wrong
            )
    for name, value, line in (
        ("top", 0, "top must be at least 1, got 0"),
        ("hardest", -1, "hardest must be at least 1, got -1"),
        ("epochs", 0, "epochs is 0: give at least 1"),
        ("save_root", str(Path(__file__) / "saved"), "cannot be written to .*: set save_root to"),
        ("index_root", str(Path(__file__) / "index"), "cannot be written to .*: set index_root"),
    ):
        default = 5 if isinstance(value, int) else ""
        cell = f"{parameters.MARK}\n{name} = {default!r}  # a parameter"
        with pytest.raises(StudyError, match=line):
            parameters.checked_parameters({"In": [cell], name: value})
    cells[2] = "# Parameters\nepochs: int = 1\n"
    with pytest.raises(StudyError, match="unknown parameter 'epochs': choose one of lr, name"):
        parameters.checked_parameters({"In": cells, "seeds": [0], "lr": 1.0, "name": ""})
    with pytest.raises(StudyError, match="parameters cell first"):
        parameters.checked_parameters({"In": ["x = 1"]})

"""Every notebook runs wherever it is started, takes its reader's parameters, refuses wrong ones.

The quick profile has few images and few steps here (tests/short.py). All notebooks read one run
store, so a run is trained once.
"""

import ast
import io
import json
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill
import pytest
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbconvert.exporters import ScriptExporter
from papermill.exceptions import PapermillExecutionError

from mdr_core.profiles import Study
from mdr_core.report import show
from tests import trees

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALLEST, LOSSES = ROOT / "notebooks" / "learning_curves.ipynb", "ablation_losses"
TINY = {"seeds": "[0]", "changes": "{'epochs': 1, 'lr': '1e-3'}"}  # as papermill -r passes them
SMALL = {  # less of what there would be more of
    "ablation_levels": {"levels": "[[0]]", "fixed": "[[0]]", "weights": "[0.2]"},
    "retrieval_gallery": {"queries": 2, "top": 2, "explored": 40},
    "your_images": {"all_classes": True},
}
HOME = """
import pathlib, sys, mdr_core.data.dataset, mdr_core.report.index
for name, module in [*sys.modules.items()]:
    if name.startswith("mdr_core.") and hasattr(module, "REPOSITORY"):
        module.REPOSITORY = pathlib.Path.cwd()
"""


class Short(AsyncKernelManager):
    """A kernel of this interpreter that knows the short profile."""

    @property
    def kernel_spec(self) -> KernelSpec:
        options = ["--log-level=50", "--HistoryManager.hist_file=:memory:"]
        return KernelSpec(
            **get_kernel_dict([*options, "--IPKernelApp.exec_lines=import tests.short"])
        )


@pytest.fixture(scope="session")
def started(tmp_path_factory) -> Iterator[Short]:
    """One for all notebooks of a process: to start another takes as long as a notebook."""
    kernel, elsewhere = Short(), tmp_path_factory.mktemp("elsewhere")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MDR_JOBS": "1"}
    run_sync(kernel.start_kernel)(cwd=elsewhere, env=environment)
    yield kernel
    run_sync(kernel.shutdown_kernel)(now=True)


@pytest.fixture
def kernel(started, tmp_path) -> Short:
    """The kernel as if it had just started in ``tmp_path``, which the study's files go to, too."""
    executed(started, f"%cd -q {tmp_path}\n{HOME}\n%reset -f")
    return started


def executed(kernel: Short, *sources: str) -> nbformat.NotebookNode:
    """Return a notebook of these cells, executed."""
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in sources])
    return NotebookClient(nb, km=kernel).execute()


def run(path: Path, parameters: dict, kernel: Short) -> nbformat.NotebookNode:
    """Return a notebook, executed by papermill; what it says on stderr is said here."""
    options = {"kernel_name": "python3", "km": kernel, "progress_bar": False, "cwd": ROOT}
    return papermill.execute_notebook(path, None, parameters, stderr_file=sys.stderr, **options)


def outputs(nb: nbformat.NotebookNode, kind: str) -> list:
    """Return what the cells show of a kind, as ``text/markdown``."""
    shown = [each for cell in nb.cells if cell.cell_type == "code" for each in cell.outputs]
    return [each["data"][kind] for each in shown if kind in each.get("data", {})]


def edited(folder: Path, **values: str) -> Path:
    """Return a notebook whose parameters cell was edited by hand: NAME=expression."""
    nb = nbformat.read(SMALLEST, 4)
    cell = next(cell for cell in nb.cells if cell.cell_type == "code")
    for name, value in values.items():
        cell.source, found = re.subn(rf"(?m)^{name} = \S+", f"{name} = {value}", cell.source)
        assert found == 1
    nbformat.write(nb, path := folder / SMALLEST.name)
    return path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_another_directory_and_has_an_answer(path, kernel, tmp_path, capsys):
    given = SMALL.get(path.stem, {}) | (TINY if path.stem != "claims" else {})
    nb = run(path, given, kernel)
    assert all(cell.execution_count for cell in nb.cells if cell.cell_type == "code")
    sentences = [each.splitlines() for each in outputs(nb, "text/markdown")]
    assert outputs(nb, show.ANSWER) or max(map(len, sentences)) >= 5
    assert "Warning" not in capsys.readouterr().err  # a kernel's stderr goes there
    assert {each.name for each in tmp_path.iterdir()} <= {"outputs"}  # nothing else where it ran


def test_the_paper_s_profile_trains_from_files_in_the_official_layout(kernel, tmp_path):
    """A network of timm on the CPU, from JPEG files."""
    trees.cub(tmp_path / "data", each=4)
    folders = {"MDR_DATA_ROOT": tmp_path / "data", "MDR_RUNS": tmp_path / "runs"}
    executed(kernel, *(f"%env {name}={folder}" for name, folder in folders.items()))
    small = {"backbone": "mobilenetv3_small_050", "weights": "random", "device": "cpu"}
    changes = small | {"epochs": 1, "iterations": 1, "batch_size": 12}
    given = {"profile": "paper", "dataset": "cub_mini", "seeds": [0], "changes": changes}
    try:
        nb = run(SMALLEST, given | {"train": True}, kernel)
    finally:
        executed(kernel, *(f"%env {name}={os.environ.get(name, '')}" for name in folders))
    stored = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/run.json")]
    assert [run["config"]["crop"] for run in stored] == [224] * 3
    assert outputs(nb, show.ANSWER)[0]["provenance"][0][0] == "cub_mini"


WRONG = [
    ({"dataset": "birds"}, "unknown dataset 'birds': choose one of"),
    ({"profile": "fast"}, "unknown profile 'fast': choose one of full, paper, photos, quick"),
    ({"seeds": "5"}, "seeds must be a list, got 5"),
    ({"changes": {"learning_rate": 1}}, "unknown parameter 'learning_rate': choose one of"),
    ({"changes": {"lr": "fast"}}, "lr: .*, got 'fast'"),
    ({"train": "perhaps"}, "train None, True or False"),
    ({"losses": "['tripled']"}, "unknown loss 'tripled'"),
    ({"losses": "['nowhere:Loss']"}, "loss 'nowhere:Loss' cannot be used"),
]


@pytest.mark.parametrize("parameter, message", WRONG)
def test_wrong_parameters_end_in_one_line(parameter, message, kernel):
    name = LOSSES if "losses" in parameter else SMALLEST.stem
    with pytest.raises(PapermillExecutionError) as said:
        run(ROOT / "notebooks" / f"{name}.ipynb", parameter, kernel)
    assert said.value.ename == "StudyError" and re.search(message, said.value.evalue)
    assert "\n" not in said.value.evalue


def test_a_name_removed_from_the_parameters_cell_is_missed(kernel, tmp_path):
    """The kernel keeps none of another notebook's parameters."""
    path = edited(tmp_path, seeds="[]\ndel seeds")
    with pytest.raises(PapermillExecutionError, match="name 'seeds' is not defined"):
        run(path, {}, kernel)


@pytest.mark.parametrize("given", [{"seeds": "[0, 1]"}, {"seeds": [0, 1]}, {"seeds": (0, 1)}])
def test_a_value_is_taken_as_it_is_or_as_its_text(given):
    study = Study("quick", changes="{'lr': '1e-3', 'levels': [0]}", train="False", **given)
    assert [*study.seeds] == [0, 1] and study.choice["missing_too"] is False
    config = study.config("Triplet", seed=1)
    assert (config.lr, config.levels, config.seed) == (1e-3, (0.0,), 1)
    assert study.take("rate", "1e-3", 0.1) == 1e-3
    assert study.take("loss", "my_module:MyLoss", "triplet") == "my_module:MyLoss"
    assert study.take("top", "", 7) == 7 and study.changed.keys() == {
        "seeds",
        "changes",
        "rate",
        "loss",
    }


def test_a_folder_named_as_a_number_is_a_folder(kernel, tmp_path):
    trees.tree(
        tmp_path / "2024", [f"{name}/{number}.png" for name in "abcd" for number in range(3)]
    )
    small = {"backbone": "small_resnet_narrow", "weights": "random", "image_size": 32}
    changes = small | {"crop": 32, "resize": 32, "batch_size": 6, "images_per_class": 3}
    given = {"folder": "2024", "top": "2", "changes": changes | {"epochs": 1, "iterations": 1}}
    nb = run(ROOT / "notebooks" / "your_images.ipynb", given, kernel)
    assert outputs(nb, show.ANSWER)[0]["provenance"][0][0] == "folder:2024"


def test_what_is_edited_by_hand_is_said_on_top(kernel, tmp_path):
    path = edited(tmp_path, **TINY)
    nb = run(path, {}, kernel)
    first, answer = outputs(nb, "text/markdown")[:2]
    assert "**Run with other parameters:** `seeds = [0]`, `changes = " in first
    assert "our conclusion does not apply" in answer
    plain = run(path, {"seeds": [], "changes": {"epochs": 0}}, kernel)
    assert "seeds" not in outputs(plain, "text/markdown")[0]  # what is given goes before


def test_an_exported_script_and_run_do_what_the_notebook_does(kernel, tmp_path):
    path = edited(tmp_path, **TINY)
    text, about = ScriptExporter().from_filename(path)
    (script := path.with_suffix(".py")).write_text(text)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MDR_JOBS": "1", "MPLBACKEND": "agg"}
    begin = f"import runpy, tests.short; runpy.run_path({str(script)!r}, run_name='__main__')"
    options = {"env": environment, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", begin], cwd=tmp_path, **options)
    answer = "Run with other parameters: our conclusion does not apply."
    assert answer in done.stdout, done.stderr
    for each in (script, path):
        assert answer in outputs(executed(kernel, f"%run {each}"), "text/markdown")
    assert about["output_extension"] == ".py"  # by the notebook's metadata


OWN = """
class MyLoss:
    def __call__(self, embeddings, labels):
        return embeddings.square().mean()
"""


def test_a_loss_of_the_reader_s_from_the_working_directory(kernel, tmp_path):
    (tmp_path / "my_module.py").write_text(OWN)
    given = TINY | {"losses": "['triplet', 'my_module:MyLoss']"}
    nb = run(ROOT / "notebooks" / f"{LOSSES}.ipynb", given, kernel)
    assert any("my_module:MyLoss" in each for each in outputs(nb, "text/csv"))


@pytest.mark.long
def test_from_an_empty_store_handwriting_is_trained(tmp_path):
    """As a reader begins: the command line, the quick profile, and a store that holds nothing."""
    command = ["-m", "mdr_core", "reports", "--notebook", SMALLEST.stem, "--output", str(tmp_path)]
    command += ["-p", "seeds", "[0]", "-p", "changes", "{'epochs': 2}"]
    environment = os.environ | {"MDR_RUNS": str(tmp_path / "runs")}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment)
    stored = (tmp_path / "runs").glob("*/run.json")
    trained = [json.loads(path.read_text())["config"]["dataset"] for path in stored]
    assert done.returncode == 0 and trained == ["omniglot"] * 3
    assert "Recall@1" in (tmp_path / "quick" / f"{SMALLEST.stem}.html").read_text()


def prose_and_code(cells: list[nbformat.NotebookNode]) -> tuple[int, int]:
    """Return the words of markdown, comments and sentences that cells show, and those of code."""
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    texts = [len(t.string.split()) for t in tokens if t.type in (tokenize.COMMENT, tokenize.STRING)]
    read = sum(words for words in texts if words > 3)
    markdown = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    return markdown + read, len(code.split()) - read


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_structure(path):
    """A question, the parameters, enough prose, short lines, few names of ours."""
    cells = nbformat.read(path, 4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    title = cells[0].source.splitlines()[0]
    assert cells[0].cell_type == "markdown" and title.startswith("# ") and title.endswith("?")
    assert code[0].metadata.get("tags") == ["parameters"] or path.stem == "claims"
    prose, words = prose_and_code(cells)
    assert prose > 0.6 * words
    assert max(len(line) for cell in code for line in cell.source.splitlines()) <= 100
    nodes = [node for cell in code for node in ast.walk(ast.parse(cell.source))]
    imports = [
        n for n in nodes if isinstance(n, ast.ImportFrom) and n.module.startswith("mdr_core")
    ]
    assert not [n for n in nodes if isinstance(n, ast.Import) and "mdr_core" in ast.unparse(n)]
    names, modules = set(), set()
    for node in imports:
        names |= {each.name for each in node.names}
        folder = ROOT / node.module.replace(".", "/")
        modules |= {each.name for each in node.names if (folder / f"{each.name}.py").exists()}
    attributes = [
        n for n in nodes if isinstance(n, ast.Attribute) and ast.unparse(n.value) in modules
    ]
    assert len(names | {ast.unparse(node) for node in attributes}) <= 12


def test_all_notebooks_together_stay_short():
    cells = [cell for path in NOTEBOOKS for cell in nbformat.read(path, 4).cells]
    code = [cell.source.splitlines() for cell in cells if cell.cell_type == "code"]
    assert sum(map(len, code)) <= 2100

"""Run the notebooks and render them as reports: ``python -m mdr_core reports --profile quick``.

papermill runs each notebook of ``notebooks/``. ``reports/<profile>/`` gets the executed notebook
and one HTML file that opens with no network: formulas are MathML, figures are embedded, code is
folded.
At the end :mod:`mdr_core.report.pages` writes every page anew: they link to each other.
"""

import argparse
import ast
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # the kernel's debugger warns else

import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from jupyter_core.utils import run_sync
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from mdr_core.data import catalog
from mdr_core.errors import NothingStored, StudyError, unknown
from mdr_core.files import REPOSITORY, check_writable, runs_root, write
from mdr_core.report.pages.index import write_reports
from mdr_core.report.pages.page import place, reports_of, write_pages
from mdr_core.report.reruns import MACHINE
from mdr_core.study.profiles import PROFILES, datasets

REPORTS = REPOSITORY / "reports"
OF_IMAGES = ("retrieval_gallery", "your_images")  # without the images, they are no committed page
WIDGET = "application/vnd.jupyter.widget-view+json"


class Kernel(AsyncKernelManager):
    """A kernel of the running interpreter, whichever others are registered on the machine."""

    connected: AsyncKernelClient | None = None

    @property
    def kernel_spec(self) -> KernelSpec:
        options = ["--log-level=50", "--HistoryManager.hist_file=:memory:"]
        imported = "--IPKernelApp.exec_lines=import mdr_core.report.notebook"
        return KernelSpec(**get_kernel_dict([*options, imported]))

    def client(self, **options):
        self.connected = super().client(**options)
        return self.connected

    @classmethod
    def begin(cls, **options) -> "Kernel":
        """Start one; options are those of ``start_kernel``."""
        kernel = cls()
        run_sync(kernel.start_kernel)(**{"cwd": REPOSITORY} | options)
        return kernel

    def end(self) -> None:
        if self.connected:
            self.connected.stop_channels()
        run_sync(self.shutdown_kernel)(now=True)


def kernels(count: int) -> Iterator[Kernel]:
    """Yield kernels, each started while the one before works: its imports take seconds."""
    started = [Kernel.begin()]
    try:
        for left in reversed(range(count)):
            if left:
                started.append(Kernel.begin())
            yield started[0]
            started.pop(0).end()
    finally:  # after Ctrl-C, say
        for kernel in started:
            kernel.end()


def execute(notebook: Path, parameters: dict, kernel: Kernel) -> NotebookNode:
    """Return the notebook, executed and tidied. Its progress bars and warnings go to stderr."""
    try:
        executed = papermill.execute_notebook(
            notebook,
            None,
            parameters,
            kernel_name="python3",
            km=kernel,
            start_timeout=600,
            cwd=REPOSITORY,
            stderr_file=sys.stderr,
            progress_bar=False,
        )
    except PapermillExecutionError as error:
        for kind in (StudyError, NothingStored):
            if error.ename == kind.__name__:
                raise kind(error.evalue) from None
        raise
    return tidied(executed, notebook.name)


def tidied(nb: NotebookNode, name: str) -> NotebookNode:
    """Drop what holds for one machine or moment: paths, times of cells, widgets, random ids."""
    kept = ("parameters", "version", "duration", "end_time")
    nb.metadata.papermill = {k: nb.metadata.papermill[k] for k in kept} | {"notebook": name}
    nb.metadata.pop("widgets", None)
    for cell in nb.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"
        if cell.cell_type == "code":
            shown = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = [output for output in shown if WIDGET not in output.get("data", {})]
    return nb


def value_of(text: str) -> object:
    """Return a parameter's value: a Python literal, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def report(arguments: argparse.Namespace) -> int:
    """Run and render the notebooks; return 1 if one failed. All names are checked before."""
    if arguments.profile not in PROFILES:
        raise unknown("profile", arguments.profile, PROFILES)
    notebooks = {path.stem: path for path in arguments.notebooks.glob("*.ipynb")}
    for name in arguments.notebook:
        if name not in notebooks:
            raise unknown("notebook", name, notebooks)
    # the claims come last: they read every run that the others train
    names = arguments.notebook or sorted(notebooks, key=lambda n: (n == "claims", place(n)))
    parameters = {name: value_of(text) for name, text in arguments.parameters}
    parameters = {"profile": arguments.profile} | parameters
    known = {name: papermill.inspect_notebook(notebooks[name]) for name in names}
    for name, own in known.items():
        for parameter in sorted(parameters.keys() - own.keys()):
            raise unknown(f"parameter of {name}", parameter, own)
    folder, failed = place_of(arguments, parameters), 0
    check_writable(folder, "--output")
    without = folder
    if images_absent(arguments.profile) and folder.parent == REPORTS:
        without = REPOSITORY / "outputs" / "reports" / f"{arguments.profile}-without-images"
    for kernel, (name, own) in zip(kernels(len(known)), known.items(), strict=True):
        where = without if name in OF_IMAGES else folder
        shown = where.relative_to(REPOSITORY) if where.is_relative_to(REPOSITORY) else where
        saving = {"save_root": shown.as_posix()} if "save_root" in own else {}
        try:
            executed = execute(notebooks[name], saving | parameters, kernel)
        except NothingStored as error:
            tqdm.write(f"{name} is not rendered: {error}", file=sys.stderr)
            continue
        except (StudyError, PapermillExecutionError) as error:  # the others can still run
            tqdm.write(f"{name}: {error}", file=sys.stderr)
            failed += 1
            continue
        where.mkdir(parents=True, exist_ok=True)
        write(where / f"{name}.ipynb", nbformat.writes(executed) + "\n")
        tqdm.write(f"{shown}/{name}.html")
    for where in {without, folder}:
        if not where.exists():  # no notebook had anything to show
            continue
        if where.parent == arguments.output.resolve():  # links among all pages: all written anew
            write_reports(where.parent)
        else:
            write_pages(where, reports_of(where), {})
    return 1 if failed or not folder.exists() else 0


def images_absent(profile: str) -> bool:
    """Return whether the images of a profile's datasets are not all on this machine."""
    try:
        for name in {*datasets(profile)} & {*catalog.KNOWN}:
            catalog.find(name)
    except StudyError:
        return True
    return False


def place_of(arguments: argparse.Namespace, parameters: dict) -> Path:
    """Return where the pages go: ``reports/PROFILE``.

    Under changed parameters that is a folder in ``outputs`` that is named after them, unless
    ``--output`` names one: a committed page is never overwritten with other numbers.
    """
    changed = [f"{name}={value}" for name, value in parameters.items() if name not in MACHINE]
    if not changed or arguments.output != REPORTS:
        return arguments.output.resolve() / arguments.profile
    name = re.sub(r"[^\w.=,\[\]-]+", "", "-".join([arguments.profile, *changed]))
    return REPOSITORY / "outputs" / "reports" / name


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mdr_core reports", description=__doc__)
    option = parser.add_argument
    option("--profile", default="quick", help=f"one of {', '.join(PROFILES)}")
    option("--notebook", action="append", default=[], help="a name, repeatable (default: all)")
    option("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    option("--output", type=Path, default=REPORTS, help="where reports go")
    option("--notebooks", type=Path, default=REPOSITORY / "notebooks", help="where notebooks are")
    try:
        return report(parser.parse_args(argv))
    except KeyboardInterrupt:
        logging.getLogger("asyncio").disabled = True  # it would tell that the kernel was ended
        count = len([*runs_root().glob("*/run.json")])
        line = f"interrupted: {count} runs are stored here; the same command goes on"
        raise KeyboardInterrupt(line) from None

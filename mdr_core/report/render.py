"""Run notebooks and render them as reports, or only train: ``make reports``, ``make train``.

papermill runs each notebook of ``notebooks/``. ``reports/PROFILE/`` gets the executed notebook and
its page; a notebook without a ``profile`` is of the whole study, its page is in ``reports/``.
"""

import argparse
import contextlib
import logging
import math
import os
import re
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # the kernel's debugger warns else

import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from jupyter_core.utils import run_sync
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from mdr_core.data import catalog
from mdr_core.errors import NothingStored, StudyError, unknown
from mdr_core.files import REPOSITORY, check_writable, runs_root, write
from mdr_core.profiles import PROFILES, value_of
from mdr_core.report import index
from mdr_core.report.page import pages_of, place, write_page

REPORTS = REPOSITORY / "reports"
OF_IMAGES = ("retrieval_gallery", "your_images")  # without the images, they are no committed page


class Kernel(AsyncKernelManager):
    """A kernel of the running interpreter, whichever others are registered on the machine."""

    connected: Any = None

    @property
    def kernel_spec(self) -> KernelSpec:
        options = ["--log-level=50", "--HistoryManager.hist_file=:memory:"]
        imported = "--IPKernelApp.exec_lines=import mdr_core.report.forest, mdr_core.report.show"
        return KernelSpec(**get_kernel_dict([*options, imported]))

    def client(self, **options):
        self.connected = super().client(**options)
        return self.connected

    def end(self) -> None:
        """End it, and the processes that it started to train."""
        if self.connected:
            self.connected.stop_channels()
        group = getattr(self.provisioner, "pgid", None)
        if group and run_sync(self.is_alive)():
            os.killpg(group, signal.SIGKILL)
        run_sync(self.shutdown_kernel)(now=True)


def kernels(count: int) -> Generator[Kernel, None, None]:
    """Yield kernels, each started while the one before works: its imports take seconds."""
    started: list[Kernel] = []
    try:
        for left in reversed(range(count)):
            while len(started) < min(2, left + 1):
                started.append(Kernel())
                run_sync(started[-1].start_kernel)(cwd=REPOSITORY)
            yield started[0]
            started.pop(0).end()
    finally:  # after Ctrl-C, say
        for kernel in started:
            kernel.end()


def execute(notebook: Path, parameters: dict[str, Any], kernel: Kernel) -> NotebookNode:
    """Return the notebook, executed, without what holds for one machine or moment.

    Its progress bars and warnings go to stderr.
    """
    options = {"kernel_name": "python3", "km": kernel, "start_timeout": 600, "cwd": REPOSITORY}
    try:
        nb = papermill.execute_notebook(
            notebook, None, parameters, stderr_file=sys.stderr, progress_bar=False, **options
        )
    except PapermillExecutionError as error:
        for kind in (StudyError, NothingStored):
            if error.ename == kind.__name__:
                raise kind(error.evalue) from None
        raise
    kept = ("parameters", "version", "duration", "end_time")
    nb.metadata.papermill = {name: nb.metadata.papermill[name] for name in kept}
    for cell in nb.cells:
        cell.metadata = {"tags": cell.metadata.get("tags", [])}
        cell.id = "injected" if "injected-parameters" in cell.metadata["tags"] else cell.id
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    return nb


def run_all(given: argparse.Namespace, parameters: dict[str, Any], pages: bool) -> int:
    """Run the notebooks asked for, the one most worth the wait first; return 1 if one failed.

    Whatever becomes of one, the others run. All names are checked before.
    """
    if given.profile not in PROFILES:
        raise unknown("profile", given.profile, PROFILES)
    notebooks = {path.stem: path for path in given.notebooks.glob("*.ipynb")}
    names = given.notebook or sorted(notebooks, key=place)
    known: dict[str, dict] = {}
    for name in names:
        if name not in notebooks:
            raise unknown("notebook", name, notebooks)
        with contextlib.suppress(Exception):  # what cannot be read is told when it is run
            known[name] = papermill.inspect_notebook(notebooks[name])
        for parameter in parameters.keys() - known.setdefault(name, parameters).keys():
            raise unknown(f"parameter of {name}", parameter, known[name])
    parameters |= {"profile": given.profile} | ({} if pages else {"train": True})
    failed, roots = 0, set()
    with contextlib.closing(kernels(len(names))) as started:
        for kernel, name in zip(started, names, strict=True):
            passed = {key: value for key, value in parameters.items() if key in known[name]}
            try:
                nb = execute(notebooks[name], passed, kernel)
                if pages:
                    roots.add(stored(nb, name, *place_of(given, passed, name)))
            except NothingStored as error:
                tqdm.write(f"{name} is not rendered: {error}", file=sys.stderr)
            except Exception as error:  # noqa: BLE001 - a foreign notebook may fail in any way
                tqdm.write(f"{name}: {error}", file=sys.stderr)
                failed = 1
    for root in roots:
        index.write_reports(root)  # all anew, since they link to each other
    return failed


def stored(nb: NotebookNode, name: str, root: Path, folder: str) -> Path:
    """Write an executed notebook and its page, and tell where; return ``root``."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    write(root / folder / f"{name}.ipynb", nbformat.writes(nb) + "\n")
    write_page(root, folder, name, pages_of(root))
    tqdm.write(os.path.relpath(root / folder / f"{name}.html"))
    return root


def place_of(given: argparse.Namespace, parameters: dict[str, Any], name: str) -> tuple[Path, str]:
    """Return where a notebook's page goes, and its folder there: ``reports`` and the profile.

    Under changed parameters that is a folder in ``outputs`` that is named after them, unless
    ``--output`` names one: a committed page is never overwritten with other numbers. A page of
    images without the images is no committed one, either.
    """
    folder = parameters.get("profile", "")
    if given.output != REPORTS:
        return given.output.resolve(), folder
    words = [f"{key}={value}" for key, value in parameters.items() if key != "profile"]
    if name in OF_IMAGES and images_absent(given.profile):
        words.append("without-images")
    if not words:
        return REPORTS, folder
    own = re.sub(r"[^\w.=,\[\]-]+", "", "-".join([folder, *words]))
    return REPOSITORY / "outputs" / "reports" / own[:200], ""


def images_absent(profile: str) -> bool:
    """Return whether the images of a profile's datasets are not all on this machine."""
    try:
        for name in {*PROFILES[profile].settings} & {*catalog.KNOWN}:
            catalog.find(name)
    except StudyError:
        return True
    return False


def main(argv: list[str], pages: bool = True) -> int:
    parser = argparse.ArgumentParser(prog="python -m mdr_core reports", description=__doc__)
    option = parser.add_argument
    option("--profile", default="quick", help=f"one of {', '.join(PROFILES)}")
    option("--notebook", action="append", default=[], help="a name, repeatable (default: all)")
    option("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    option("--minutes", type=float, help="stop then; the same command goes on later")
    option("--output", type=Path, default=REPORTS, help="where reports go")
    option("--notebooks", type=Path, default=REPOSITORY / "notebooks", help="where notebooks are")
    given = parser.parse_args(argv)
    check_writable(given.output, "--output")
    if given.minutes is not None:
        if not 0 < given.minutes < math.inf:
            raise StudyError(f"minutes must be positive, got {given.minutes:g}")
        signal.signal(signal.SIGALRM, time_is_up)
        signal.setitimer(signal.ITIMER_REAL, 60 * given.minutes)
    try:
        return run_all(given, {name: value_of(text) for name, text in given.parameters}, pages)
    except KeyboardInterrupt:
        count = len([*runs_root().glob("*/run.json")])
        line = f"interrupted: {count} runs are stored here; the same command goes on"
        raise KeyboardInterrupt(line) from None
    finally:
        logging.getLogger("asyncio").disabled = True  # it would tell that a kernel was ended
        signal.setitimer(signal.ITIMER_REAL, 0)


def time_is_up(*signal_and_frame: object) -> None:
    tqdm.write("the minutes are over: the same command goes on", file=sys.stderr)
    sys.exit(0)


def train(argv: list[str]) -> int:
    """Run the notebooks with ``train=True``, and write no page."""
    return main(argv, pages=False)

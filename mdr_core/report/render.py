"""Run notebooks and render them as reports, or only train: ``make reports``, ``make train``.

``reports/PROFILE/`` gets the executed notebook and its page; a notebook without a ``profile`` is of
the whole study, its page is in ``reports/``.
"""

import argparse
import logging
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from mdr_core.data import catalog
from mdr_core.errors import NothingStored, StudyError, unknown
from mdr_core.files import REPOSITORY, write
from mdr_core.profiles import PROFILES, value_of
from mdr_core.report import index
from mdr_core.report.page import pages_of, place, write_page

REPORTS = REPOSITORY / "reports"
OF_IMAGES = ("retrieval_gallery", "your_images")  # without the images, they are no committed page


def execute(notebook: Path, parameters: dict[str, Any]) -> NotebookNode:
    """Return the notebook, executed, without what holds for one machine or moment.

    Its progress bars and warnings go to stderr. A kernel that is ended ends its processes.
    """
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # python3 is this one, whatever a user registered
    options = {"kernel_name": "python3", "start_timeout": 600, "cwd": REPOSITORY}
    options |= {"extra_arguments": ["--log-level=50"], "stderr_file": sys.stderr}
    try:
        nb = papermill.execute_notebook(notebook, None, parameters, progress_bar=False, **options)
    except PapermillExecutionError as error:
        kinds = {kind.__name__: kind for kind in (StudyError, NothingStored)}
        raise kinds[error.ename](error.evalue) if error.ename in kinds else error from None
    kept = ("parameters", "version", "duration", "end_time")
    nb.metadata.papermill = {name: nb.metadata.papermill[name] for name in kept}
    for cell in nb.cells:
        cell.metadata = {"tags": cell.metadata.get("tags", [])}
        cell.id = "injected" if "injected-parameters" in cell.metadata["tags"] else cell.id
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    return nb


def root_of(given: argparse.Namespace, name: str) -> Path:
    """Return where a page goes: to ``--output``, or ``reports``, or a folder in ``outputs``.

    Changed parameters name that folder: a committed page is never overwritten with other numbers.
    A page of images without the images is no committed one, either.
    """
    words = [f"{key}={value}" for key, value in given.parameters]
    own = {*PROFILES[given.profile].settings} & {*catalog.KNOWN}
    try:
        _ = [catalog.find(each) for each in own if name in OF_IMAGES]
    except StudyError:
        words.append("without-images")
    if given.output or not words:
        return given.output or REPORTS
    folder = re.sub(r"[^\w.=,\[\]-]+", "", "-".join(words))
    return REPOSITORY / "outputs" / "reports" / folder[:200]


def render(notebook: Path, given: argparse.Namespace, pages: bool) -> set[Path]:
    """Run a notebook; return the folder that got it, if it is to be a page."""
    known = papermill.inspect_notebook(notebook)
    parameters = {parameter: value_of(text) for parameter, text in given.parameters}
    for parameter in parameters.keys() - known.keys():
        raise unknown("parameter", parameter, known)
    root = root_of(given, notebook.stem)
    path = root / (given.profile if "profile" in known else "") / notebook.name
    parameters |= {"profile": given.profile, "save_root": os.path.relpath(path.parent, REPOSITORY)}
    parameters |= {} if pages else {"train": True, "save_root": ""}
    nb = execute(notebook, {key: value for key, value in parameters.items() if key in known})
    if not pages:
        return set()
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, nbformat.writes(nb) + "\n")
    write_page(root, os.path.relpath(path.parent, root).strip("."), path.stem, pages_of(root))
    tqdm.write(os.path.relpath(path.with_suffix(".html")))
    return {root}


def main(argv: list[str], pages: bool = True) -> int:
    """Run the notebooks asked for, the one most worth the wait first; return 1 if one failed.

    Whatever becomes of one, the others run.
    """
    parser = argparse.ArgumentParser(prog="python -m mdr_core reports", description=__doc__)
    option = parser.add_argument
    option("--profile", default="quick", choices=PROFILES)
    option("--notebook", action="append", help="a name, repeatable (default: all)")
    option("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    option("--minutes", type=float, default=0, help="stop then; the same command goes on later")
    option("--output", type=Path, help="where reports go (default: reports)")
    option("--notebooks", type=Path, default=REPOSITORY / "notebooks", help="where notebooks are")
    given = parser.parse_args(argv)
    notebooks = {path.stem: path for path in given.notebooks.glob("*.ipynb")}
    for name in set(given.notebook or []) - notebooks.keys():
        raise unknown("notebook", name, notebooks)
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(0))
    signal.setitimer(signal.ITIMER_REAL, 60 * given.minutes)
    failed, roots = 0, set[Path]()
    try:
        for name in given.notebook or sorted(notebooks, key=place):
            try:
                roots |= render(notebooks[name], given, pages)
            except Exception as error:  # noqa: BLE001 - a foreign notebook may fail in any way
                tqdm.write(f"{name}: {error}", file=sys.stderr)
                failed |= not isinstance(error, NothingStored)
    finally:  # the time may be up, or Ctrl-C
        logging.getLogger("asyncio").disabled = True  # it would tell that a kernel was ended
        for root in roots:
            index.write_reports(root)
    return failed


def train(argv: list[str]) -> int:
    """Run the notebooks with ``train=True``, and write no page."""
    return main(argv, pages=False)

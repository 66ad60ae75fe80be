"""Run the notebooks and render them as reports: ``python -m mdr_core reports --profile quick``.

Each notebook of ``notebooks/`` is executed by papermill and written to ``reports/<profile>/``, as the executed notebook
and as one HTML file that opens complete with no network: formulas become MathML, figures are embedded, code is folded.
A notebook tells its finding to the index by displaying data of the type `FINDING`,
``{"finding": "one sentence", "figure": "the headline figure"}``; the report shows it below its first cell.
"""

import argparse
import ast
import html
import itertools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault(
    "PYDEVD_DISABLE_FILE_VALIDATION", "1"
)  # else the kernel's debugger warns of frozen modules

import jinja2
import nbformat
import pandas as pd
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from jupyter_core.utils import run_sync
from latex2mathml.converter import convert
from markupsafe import Markup
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from mdr_core.errors import StudyError, unknown
from mdr_core.files import REPOSITORY, write
from mdr_core.report.notebook import FINDING
from mdr_core.report.progress import MACHINE, Progress
from mdr_core.study.profiles import PROFILES

REPORTS = REPOSITORY / "reports"
TEMPLATES = Path(__file__).parent / "templates"
ORDER = (
    "claims",
    "recall_at_k",
    "learning_curves",
    "ablation_backbones",
    "ablation_losses",
    "ablation_levels",
    "embedding_dimension",
    "mechanism",
    "class_centers",
    "retrieval_gallery",
    "your_images",
)


class Kernel(AsyncKernelManager):
    """The kernel of the running interpreter, whichever others are registered on the machine under its name."""

    talk: AsyncKernelClient | None = None  # who talks with it, once a notebook runs in it

    @property
    def kernel_spec(self) -> KernelSpec:
        own = [
            "--log-level=50",
            "--HistoryManager.hist_file=:memory:",
        ]  # its own messages only; a cell's errors come another way
        return KernelSpec(
            **get_kernel_dict([*own, "--IPKernelApp.exec_lines=import mdr_core.report.notebook"])
        )

    def client(self, **options) -> AsyncKernelClient:
        self.talk = super().client(**options)
        return self.talk


def kernels(count: int) -> Iterator[Kernel]:
    """Kernels, each started while the one before is at work: what a notebook imports takes it two seconds."""

    def started() -> Kernel:
        kernel = Kernel()
        run_sync(kernel.start_kernel)(cwd=REPOSITORY)
        return kernel

    def ended(kernel: Kernel) -> None:
        if kernel.talk:
            kernel.talk.stop_channels()
        run_sync(kernel.shutdown_kernel)(now=True)

    following = started()
    for left in reversed(range(count)):
        kernel, following = following, started() if left else None
        yield kernel
        ended(kernel)


def execute(notebook: Path, parameters: dict, kernel: Kernel) -> nbformat.NotebookNode:
    """The notebook executed under these parameters. Its progress bars and warnings go to the terminal, not into it."""
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
        if error.ename == "StudyError":
            raise StudyError(error.evalue) from None
        raise
    return tidied(executed, notebook.name)


def tidied(nb: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """Without what holds for one machine or moment only: paths, cell times, progress bars, widgets, random ids of cells and tables."""
    record, tables = nb.metadata.papermill, itertools.count(1)
    nb.metadata.papermill = {
        key: record[key] for key in ("parameters", "version", "duration", "end_time")
    } | {"notebook": name}
    nb.metadata.pop("widgets", None)
    for cell in nb.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict(
            {k: v for k, v in cell.metadata.items() if k not in ("papermill", "execution")}
        )
        cell.id = "injected-parameters" if "injected-parameters" in tags else cell.id
        if cell.cell_type == "code":
            widget = "application/vnd.jupyter.widget-view+json"
            cell.outputs = [
                o
                for o in cell.outputs
                if o.get("name") != "stderr" and widget not in o.get("data", {})
            ]
            for data in (o.data for o in cell.outputs if "text/html" in o.get("data", {})):
                for random in set(
                    re.findall(r'<table id="(T_[0-9a-f]{5})"', data["text/html"])
                ):  # pandas' Styler draws them
                    data["text/html"] = data["text/html"].replace(random, f"T_{next(tables)}")
    return nb


def to_mathml(latex: str, display: str = "inline") -> str:
    """A formula as MathML, which browsers draw by themselves. A command that has no translation is an error."""
    try:
        mathml = convert(
            re.sub(r"\\operatorname\*?(?=\{)", r"\\mathrm", latex.strip()), display=display
        )
    except Exception as error:  # the library raises many kinds, all for malformed formulas
        raise StudyError(f"formula ${latex}$ is malformed ({type(error).__name__})") from None
    if "\\" in mathml:
        raise StudyError(f"formula ${latex}$ has a command that cannot be shown as MathML")
    return mathml.replace("<math ", f'<math alttext="{html.escape(latex.strip())}" ', 1)


class Renderer(IPythonRenderer):
    """nbconvert's Markdown with formulas as MathML instead of a script that is loaded to draw them."""

    def inline_math(self, body: str) -> str:
        return to_mathml(body)

    def block_math(self, body: str) -> str:
        return to_mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return to_mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


def markdown_to_html(text: str) -> str:
    return MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True)).render(text)


def to_html(nb: nbformat.NotebookNode) -> str:
    """The report of an executed notebook, one self-contained page."""
    exporter = HTMLExporter(template_name="study", extra_template_basedirs=[str(TEMPLATES)])
    exporter.register_filter("markdown2html", markdown_to_html)
    return exporter.from_notebook_node(with_finding_first(nb), {"study": summary(nb)})[0]


def with_finding_first(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy whose first finding, computed last, is shown right below the notebook's first cell."""
    nb = nbformat.from_dict(nb)
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if FINDING in output.get("data", {}):
                cell.outputs.remove(output)
                output.data["text/markdown"] = output.data[FINDING]["finding"]
                shown = nbformat.v4.new_code_cell(outputs=[output], id="finding")
                nb.cells.insert(1 if nb.cells[0].cell_type == "markdown" else 0, shown)
                return nb
    return nb


def summary(nb: nbformat.NotebookNode) -> dict[str, str]:
    """What the index and a report's head and foot say of an executed notebook, all of it read from the notebook."""
    record = nb.metadata.papermill
    heading = re.search(
        r"^# +(.+)$",
        "\n".join(c.source for c in nb.cells if c.cell_type == "markdown"),
        re.MULTILINE,
    )
    findings = [
        o.data[FINDING]
        for c in nb.cells
        for o in c.get("outputs", [])
        if FINDING in o.get("data", {})
    ]
    return {
        "title": re.sub(r"[*`$]", "", heading[1]) if heading else record.notebook,
        "profile": record.parameters.get("profile", ""),
        "made": f"Made {record.end_time[:10]} from {record.notebook} in {record.duration:.0f} s, "
        f"Python {nb.metadata.language_info.version}, papermill {record.version}",
        **(findings[0] if findings else {}),
    }


def claims_of(folder: Path) -> list[dict[str, str]]:
    """The rows of the profile's claims table, as the claims notebook saved them; none where it has not run."""
    path = folder / f"claims-{folder.name}.csv"
    return (
        pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
        if path.exists()
        else []
    )


def write_index(reports: Path) -> None:
    """``index.html``: the claims, then the reports of each profile with their findings, in the paper's order."""
    profiles = {}
    for profile in PROFILES:
        folder = reports / profile
        found = {
            path.stem: {"name": path.stem} | summary(nbformat.read(path, 4))
            for path in sorted(folder.glob("*.ipynb"))
        }
        order = [name for name in ORDER if name in found] + [
            name for name in found if name not in ORDER
        ]
        profiles[profile] = {
            "claims": claims_of(folder),
            "reports": [found[name] for name in order],
        }
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
    environment.filters["markdown2html"] = lambda text: Markup(markdown_to_html(text))
    write(
        reports / "index.html",
        environment.get_template("reports.html.j2").render(profiles=profiles),
    )


def value_of(text: str) -> object:
    """A parameter's value from the command line: a Python literal, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def report(arguments: argparse.Namespace) -> int:
    if arguments.profile not in PROFILES:
        raise unknown("profile", arguments.profile, PROFILES)
    found = {path.stem: path for path in sorted(arguments.notebooks.glob("*.ipynb"))}
    last = [
        name for name in ("claims",) if name in found
    ]  # it reads every run that the others train
    notebooks = {
        name: found[name]
        for name in [n for n in ORDER if n in found and n not in last]
        + sorted(found.keys() - set(ORDER))
        + last
    }
    for name in arguments.notebook:
        if name not in notebooks:
            raise unknown("notebook", name, notebooks)
    parameters = {"profile": arguments.profile} | {
        name: value_of(text) for name, text in arguments.parameters
    }
    known = {
        name: papermill.inspect_notebook(notebooks[name])
        for name in arguments.notebook or notebooks
    }
    for name, own in known.items():  # all of them before the first one runs
        for parameter in sorted(parameters.keys() - own.keys()):
            raise unknown(f"parameter of {name}", parameter, own)
    folder, failed = place_of(arguments, parameters), 0
    place = folder.relative_to(REPOSITORY) if folder.is_relative_to(REPOSITORY) else folder
    with Progress(list(known), parameters) as progress:
        progress.train()
        for kernel, (name, own) in zip(kernels(len(known)), known.items(), strict=True):
            try:
                saving = {"save_root": place.as_posix()} if "save_root" in own else {}
                executed = execute(notebooks[name], saving | parameters, kernel)
                page = to_html(executed)
            except (
                StudyError,
                PapermillExecutionError,
            ) as error:  # the other notebooks can still run
                tqdm.write(f"{name}: {error}", file=sys.stderr)
                failed += 1
                continue
            finally:
                progress.rendered()
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / f"{name}.ipynb", nbformat.writes(executed) + "\n")
            write(folder / f"{name}.html", page)
            tqdm.write(f"{place}/{name}.html")
    if folder.parent == arguments.output.resolve():
        write_index(arguments.output)
    return 1 if failed else 0


def place_of(arguments: argparse.Namespace, parameters: dict) -> Path:
    """Where the pages go: ``reports/PROFILE``. Under changed parameters a folder of their own in ``outputs``, named after them, unless
    ``--output`` names one: a committed page is never written over with other numbers."""
    changed = [f"{name}={value}" for name, value in parameters.items() if name not in MACHINE]
    if not changed or arguments.output != REPORTS:
        return arguments.output.resolve() / arguments.profile
    return (
        REPOSITORY
        / "outputs"
        / "reports"
        / re.sub(r"[^\w.=,\[\]-]+", "", "-".join([arguments.profile, *changed]))
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mdr_core reports",
        description="Run the notebooks and render them as reports.",
    )
    parser.add_argument("--profile", default="quick", help=f"one of {', '.join(PROFILES)}")
    parser.add_argument(
        "--notebook",
        action="append",
        default=[],
        help="a notebook's name, repeatable (default: all)",
    )
    parser.add_argument(
        "-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE")
    )
    parser.add_argument("--output", type=Path, default=REPORTS, help="where reports go")
    parser.add_argument(
        "--notebooks", type=Path, default=REPOSITORY / "notebooks", help="where notebooks are"
    )
    try:
        return report(parser.parse_args(argv))
    except (StudyError, OSError) as error:  # the latter where a report cannot be written
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

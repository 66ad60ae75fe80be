"""Run the notebooks and render them as reports: ``python -m mdr_core reports --profile quick``.

papermill runs each notebook of ``notebooks/``. ``reports/<profile>/`` gets the executed notebook
and one HTML file that opens with no network: formulas are MathML, figures are embedded, code is
folded.
A notebook tells its finding by displaying data of the type FINDING; the page opens with it.
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

os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # the kernel's debugger warns else

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
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from mdr_core.errors import NothingStored, StudyError, unknown
from mdr_core.files import REPOSITORY, write
from mdr_core.report.notebook import FINDING
from mdr_core.report.progress import MACHINE, Progress
from mdr_core.study.profiles import PROFILES

REPORTS = REPOSITORY / "reports"
WIDGET = "application/vnd.jupyter.widget-view+json"
TEMPLATES = Path(__file__).parent / "templates"
SHOWN = ("full", "photos", "quick", "paper")  # the headline first
THUMBNAILS = {  # notebook -> how the file of its main figure begins
    "claims": "claims",
    "recall_at_k": "learning_curves",
    "learning_curves": "learning_curves",
    "ablation_backbones": "backbones",
    "ablation_losses": "losses",
    "ablation_levels": "weights",
    "embedding_dimension": "dimensions",
    "mechanism": "gradient",
    "class_centers": "class_centers",
    "your_images": "your_images_curves",
}
ORDER = (
    "claims", "recall_at_k", "learning_curves", "ablation_backbones", "ablation_losses",
    "ablation_levels", "embedding_dimension", "mechanism", "class_centers", "retrieval_gallery",
    "your_images",
)  # fmt: skip


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
    following = Kernel.begin()
    for left in reversed(range(count)):
        kernel = following
        if left:
            following = Kernel.begin()
        yield kernel
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
    numbers = itertools.count(1)
    for cell in nb.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"
        if cell.cell_type == "code":
            shown = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = [output for output in shown if WIDGET not in output.get("data", {})]
        for data in datas(cell, "text/html"):
            for table in dict.fromkeys(re.findall(r'<table id="(T_\w{5})"', data["text/html"])):
                data["text/html"] = data["text/html"].replace(table, f"T_{next(numbers)}")
    return nb


def datas(cell: NotebookNode, kind: str) -> list[NotebookNode]:
    """Return the data of a cell's outputs that have this MIME type."""
    return [o.data for o in cell.get("outputs", []) if kind in o.get("data", {})]


def to_mathml(latex: str, display: str = "inline") -> str:
    """Return a formula as MathML, which browsers draw by themselves.

    Raises:
        StudyError: the formula is malformed, or a command has no translation.
    """
    try:
        known = re.sub(r"\\operatorname\*?(?=\{)", r"\\mathrm", latex.strip())
        mathml = convert(known, display=display)
    except Exception as error:  # noqa: BLE001 - the library raises many kinds for malformed ones
        raise StudyError(f"formula ${latex}$ is malformed ({type(error).__name__})") from None
    if "\\" in mathml:
        raise StudyError(f"formula ${latex}$ has a command that cannot be shown as MathML")
    return mathml.replace("<math ", f'<math alttext="{html.escape(latex.strip())}" ', 1)


class Renderer(IPythonRenderer):
    """nbconvert's Markdown with formulas as MathML instead of a script that draws them."""

    def inline_math(self, body: str) -> str:
        return to_mathml(body)

    def block_math(self, body: str) -> str:
        return to_mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return to_mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


def markdown_to_html(text: str) -> str:
    return MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True)).render(text)


def to_html(nb: NotebookNode) -> str:
    """Return an executed notebook's report, one self-contained page; its finding comes first."""
    study, nb = summary(nb), nbformat.from_dict(nb)
    for cell in nb.cells:
        for output in [o for o in cell.get("outputs", []) if FINDING in o.get("data", {})]:
            cell.outputs.remove(output)
            output.data["text/markdown"] = output.data[FINDING]["finding"]
            first = nbformat.v4.new_code_cell(outputs=[output], id="finding")
    if "finding" in study:
        nb.cells.insert(1 if nb.cells[0].cell_type == "markdown" else 0, first)
    exporter = HTMLExporter(template_name="study", extra_template_basedirs=[str(TEMPLATES)])
    exporter.register_filter("markdown2html", markdown_to_html)
    return exporter.from_notebook_node(nb, {"study": study})[0]


def summary(nb: NotebookNode) -> dict[str, str]:
    """Return what the index and a page's head and foot say of an executed notebook."""
    record = nb.metadata.papermill
    prose = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+)$", prose, re.MULTILINE)
    findings = [data[FINDING] for cell in nb.cells for data in datas(cell, FINDING)]
    about = {
        "title": re.sub(r"[*`$]", "", heading[1]) if heading else record.notebook,
        "profile": record.parameters.get("profile", ""),
        "made": f"Made {record.end_time[:10]} from {record.notebook} in {record.duration:.0f} s, "
        f"Python {nb.metadata.language_info.version}, papermill {record.version}",
    }
    return about | (findings[0] if findings else {})


def write_index(reports: Path) -> None:
    """Write ``index.html``: the claims by profile, then each profile's reports."""
    found: list[dict] = []
    rows: dict[str, str] = {}  # claim -> the report with its evidence
    for profile in SHOWN:
        pages = {path.stem: path for path in (reports / profile).glob("*.ipynb")}
        table = reports / profile / f"claims-{profile}.csv"
        claims = claims_of(pd.read_csv(table, keep_default_na=False)) if table.exists() else {}
        rows |= {claim: about["report"] for claim, about in claims.items() if claim not in rows}
        shown = [
            {"name": n} | summary(nbformat.read(pages[n], 4)) for n in sorted(pages, key=place)
        ]
        for page in shown:
            images = sorted((reports / profile).glob(f"{THUMBNAILS.get(page['name'], '-')}*.svg"))
            page["thumbnail"] = images[0].name if images else ""
        headline = [page["finding"] for page in shown if page["name"] == "recall_at_k"]
        found.append(
            {
                "name": profile,
                "purpose": PROFILES[profile].purpose,
                "headline": headline[0] if headline and profile == SHOWN[0] else "",
                "claims": claims,
                "pages": pages,
                "reports": shown,
            }
        )
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
    environment.filters["markdown2html"] = lambda text: Markup(markdown_to_html(text))
    template = environment.get_template("reports.html.j2")
    write(reports / "index.html", template.render(profiles=found, rows=rows.items()))


def claims_of(table: pd.DataFrame) -> dict[str, dict]:
    """Return claim -> verdict, its words, lines for its cells and report, from a claims CSV."""
    found = {}
    for claim, cells in table.groupby("claim", sort=False):
        first, lines = cells.iloc[0], []
        for cell in cells.itertuples() if len(cells) < 3 else ():
            if not cell.seeds:
                continue
            by_class = cell.classes_low != ""
            ends = (cell.classes_low, cell.classes_high) if by_class else seeds_interval(cell)
            interval = f" ({float(ends[0]):.1f} to {float(ends[1]):.1f})" if ends else ""
            lines.append(f"{cell.cell} {float(cell.difference):+.1f}{interval}".replace("-", "−"))
        about = {"verdict": first.claim_verdict, "told": first.told, "report": first.report}
        found[str(claim)] = about | {"lines": lines}
    return found


def seeds_interval(cell) -> tuple[float, float] | None:
    """Return the ends of a cell's interval over seeds, where it has one."""
    if cell.half == "":
        return None
    return float(cell.difference) - float(cell.half), float(cell.difference) + float(cell.half)


def place(name: str) -> tuple[int, str]:
    """Return a notebook's place in the paper's order; others follow by name."""
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


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
    shown = folder.relative_to(REPOSITORY) if folder.is_relative_to(REPOSITORY) else folder
    with Progress(list(known), parameters) as progress:
        progress.train()
        for kernel, (name, own) in zip(kernels(len(known)), known.items(), strict=True):
            saving = {"save_root": shown.as_posix()} if "save_root" in own else {}
            try:
                executed = execute(notebooks[name], saving | parameters, kernel)
                page = to_html(executed)
            except NothingStored as error:
                tqdm.write(f"{name} is not rendered: {error}", file=sys.stderr)
                continue
            except (StudyError, PapermillExecutionError) as error:  # the others can still run
                tqdm.write(f"{name}: {error}", file=sys.stderr)
                failed += 1
                continue
            finally:
                progress.rendered()
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / f"{name}.ipynb", nbformat.writes(executed) + "\n")
            write(folder / f"{name}.html", page)
            tqdm.write(f"{shown}/{name}.html")
    if not folder.exists():  # no notebook had anything to show
        return 1
    if folder.parent == arguments.output.resolve():
        write_index(arguments.output)
    return 1 if failed else 0


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
    except (StudyError, OSError) as error:  # the latter where a report cannot be written
        print(error, file=sys.stderr)
        return 2

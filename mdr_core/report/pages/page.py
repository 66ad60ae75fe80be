"""An executed notebook as one self-contained page, and the index of all pages.

Formulas become MathML, figures are embedded, code is folded: nothing comes from the network. A
notebook tells its finding by displaying data of the type FINDING; it opens the page.
"""

import html
import re
from pathlib import Path

import jinja2
import nbformat
import pandas as pd
from latex2mathml.converter import convert
from markupsafe import Markup
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from mdr_core.errors import StudyError
from mdr_core.files import write
from mdr_core.report.notebook import FINDING
from mdr_core.study.profiles import PROFILES

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
        claims = claims_of(pd.read_csv(table)) if table.exists() else {}
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
        for cell in cells[cells.seeds > 0].itertuples() if len(cells) < 3 else ():
            low, high = cell.classes_low, cell.classes_high
            if low != low:  # no counts by class: the interval over the seeds, NaN for one
                low, high = cell.difference - cell.half, cell.difference + cell.half
            interval = f" ({low:.1f} to {high:.1f})" if low == low else ""
            lines.append(f"{cell.cell} {cell.difference:+.1f}{interval}".replace("-", "−"))
        about = {"verdict": first.claim_verdict, "told": first.told, "report": first.report}
        found[str(claim)] = about | {"lines": lines}
    return found


def place(name: str) -> tuple[int, str]:
    """Return a notebook's place in the paper's order; others follow by name."""
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def datas(cell: NotebookNode, kind: str) -> list[NotebookNode]:
    """Return the data of a cell's outputs that have this MIME type."""
    return [o.data for o in cell.get("outputs", []) if kind in o.get("data", {})]

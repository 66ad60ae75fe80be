"""An executed notebook as one self-contained page: nothing comes from the network.

It opens with the question, its answer and the facts, displayed as data of types FINDING and FACTS.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from markupsafe import Markup
from nbconvert.exporters import HTMLExporter, TemplateExporter
from nbconvert.filters import Highlight2HTML
from nbformat import NotebookNode

from mdr_core.files import write
from mdr_core.report.notebook import FACTS, FINDING
from mdr_core.report.pages import markdown
from mdr_core.report.reruns import MACHINE

TEMPLATES = Path(__file__).parent / "templates"
PROFILES = ("full", "photos", "quick", "paper")  # the headline first
ORDER = (
    "claims", "recall_at_k", "learning_curves", "ablation_backbones", "ablation_losses",
    "ablation_levels", "embedding_dimension", "drop_in", "mechanism", "class_centers",
    "retrieval_gallery", "your_images",
)  # fmt: skip
SHOWS = re.compile(r"\breport\.(table|figure|note|show)\(|\bdisplay\(")


@dataclass(frozen=True)
class Report:
    """An executed notebook and what it says of itself; finding, figure, verdicts may be empty."""

    nb: NotebookNode
    name: str
    profile: str
    title: str  # its question
    short: str  # its name in lists
    finding: str
    figure: str
    verdicts: list
    facts: list
    command: str  # that renders it
    made: str  # when and by what it was run


def read(path: Path) -> Report:
    """Return the report of an executed notebook."""
    nb = nbformat.read(path, 4)
    record, parameters = nb.metadata.papermill, nb.metadata.papermill.parameters
    prose = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+)$", prose, re.MULTILINE)
    finding = {"finding": "", "figure": "", "verdicts": []} | next(data_of(nb, FINDING), {})
    short = path.stem.replace("_at_k", "@K").replace("_", " ")
    return Report(
        nb,
        name=path.stem,
        profile=parameters.get("profile", ""),
        title=re.sub(r"[*`$]", "", heading[1]) if heading else path.stem,
        short=short[:1].upper() + short[1:],
        facts=next(data_of(nb, FACTS), []),
        command=command(path, parameters),
        made=f"Made {record.end_time[:10]} in {record.duration:.0f} s by "
        f"Python {nb.metadata.language_info.version}, papermill {record.version}",
        **finding,
    )


def command(path: Path, parameters: dict[str, Any]) -> str:
    """Return the command that renders a page, from the committed runs beside it, if any are."""
    profile = parameters.get("profile", "quick")
    changed = [f"-p {name} '{v}'" for name, v in parameters.items() if name not in MACHINE]
    if changed:
        own = f"reports --profile {profile} --notebook {path.stem}"
        return " ".join([".venv/bin/python -m mdr_core", own, *changed])
    own = "STORED=0 " if path.stem == "your_images" else "STORED=1 "  # the former trains
    stored = own * (path.parent / "runs.csv").exists()
    return f"{stored}make reports PROFILE={profile} NOTEBOOK={path.stem}"


def reports_of(folder: Path) -> list[Report]:
    """Return the reports of a folder's executed notebooks, in the paper's order."""
    return [read(path) for path in sorted(folder.glob("*.ipynb"), key=lambda p: place(p.stem))]


def write_pages(folder: Path, reports: Sequence[Report], profiles: dict[str, list[str]]) -> None:
    """Write the page of each report.

    Args:
        profiles: profile -> names of its reports; empty for a folder without an index beside it.
    """
    template = environment().get_template("page.html.j2")
    for before, report, after in zip([None, *reports], reports, [*reports[1:], None], strict=False):
        body, contents = body_of(report.nb, folder, [each.name for each in reports])
        text = template.render(
            report=report,
            reports=reports,
            before=before,
            after=after,
            elsewhere=[p for p, names in profiles.items() if report.name in names],
            index=bool(profiles),
            runs=(folder / "runs.csv").exists(),
            body=Markup(body),
            contents=contents,
        )
        write(folder / f"{report.name}.html", text)


def body_of(
    nb: NotebookNode, folder: Path, pages: list[str]
) -> tuple[str, list[tuple[str, Markup]]]:
    """Return a page's prose, results and code, and its contents: (anchor, heading)."""
    nb = nbformat.from_dict(nb)
    if nb.cells and nb.cells[0].cell_type == "markdown":
        nb.cells[0].source = re.sub(r"^# .*\n*", "", nb.cells[0].source)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if FINDING not in each.get("data", {})]
    nb.cells = [cell for section in sections(nb) if not empty(section) for cell in section]
    exporter = HTMLExporter(template_name="study", extra_template_basedirs=[str(TEMPLATES)])
    exporter.register_filter("markdown2html", lambda text: markdown.to_html(text, pages))
    exporter.register_filter("there", lambda names: [n for n in names if (folder / n).exists()])
    exporter.register_filter("highlight_code", Highlight2HTML(pygments_lexer="ipython3"))
    # not HTMLExporter's own way, which parses the page once more and may change a cell's HTML
    return anchored(TemplateExporter.from_notebook_node(exporter, nb)[0])


def sections(nb: NotebookNode) -> list[list[NotebookNode]]:
    """Return a notebook's cells, from each heading of the second level to the next."""
    found: list[list[NotebookNode]] = [[]]
    for cell in nb.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            found.append([])
        found[-1].append(cell)
    return found


def empty(section: list[NotebookNode]) -> bool:
    """Return whether a section would show results and has none."""
    code = [cell for cell in section if cell.cell_type == "code"]
    would = any(SHOWS.search(cell.source) for cell in code)
    return would and not any(cell.outputs for cell in code)


def anchored(body: str) -> tuple[str, list[tuple[str, Markup]]]:
    """Return a page's body with an anchor for each heading, and (anchor, heading) of the h2."""
    contents: list[tuple[str, Markup]] = []
    seen = {"answer"}

    def heading(match: re.Match) -> str:
        level, words = match.groups()
        text = re.sub(r"<[^>]+>", "", words)
        anchor = slug = re.sub(r"\W+", "-", text.lower()).strip("-")
        while anchor in seen:
            anchor += f"-{slug}"
        seen.add(anchor)
        if level == "2":
            contents.append((anchor, Markup(text)))
        return f'<h{level} id="{anchor}">{words}</h{level}>'

    return re.sub(r"<h([23])>(.*?)</h\1>", heading, body, flags=re.DOTALL), contents


@functools.cache
def environment() -> jinja2.Environment:
    """Return the templates of whole pages."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["markdown"] = lambda text: Markup(markdown.to_html(text))
    return found


def place(name: str) -> tuple[int, str]:
    """Return a notebook's place in the paper's order; others follow by name."""
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def data_of(nb: NotebookNode, kind: str) -> Iterator[Any]:
    """Yield the data of this MIME type in a notebook's outputs."""
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if kind in output.get("data", {}):
                yield output.data[kind]

"""An executed notebook as one self-contained page: nothing comes from the network.

Its cells stay in order, their code folded; cells tagged ``details`` are folded at the end. Other
notebooks of the folder are linked as their pages.
"""

import html
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter, TemplateExporter
from nbconvert.filters import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from mdr_core.errors import StudyError
from mdr_core.files import write
from mdr_core.report.show import ANSWER

TEMPLATES = Path(__file__).parent / "templates"
FOLDERS = ("", "full", "photos", "quick", "paper")  # of pages; the headline's before the others
ORDER = (
    "recall_at_k", "claims", "learning_curves", "ablation_losses", "ablation_levels",
    "ablation_backbones", "embedding_dimension", "drop_in", "mechanism", "class_centers",
    "retrieval_gallery", "your_images",
)  # fmt: skip
UNBROKEN = re.compile(  # spaces as in "3.0 ± 1.5", "95 %" and "0.8 to 7.6"
    r" (?=± )|(?<=±) |(?<=\d) (?=%|to [−+]?\d)|(?<=\d[ \u00a0]to) (?=[−+]?\d)"
)


def place(name: str) -> tuple[int, str]:
    """Return a notebook's place in what is worth the wait first; others follow by name."""
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def pages_of(root: Path) -> dict[str, list[str]]:
    """Return the names of the executed notebooks in ``root`` and in its folders, in order."""
    found = {each: [path.stem for path in (root / each).glob("*.ipynb")] for each in FOLDERS}
    return {folder: sorted(names, key=place) for folder, names in found.items() if names}


def title(nb: NotebookNode) -> str:
    """Return a notebook's question."""
    prose = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+)$", prose, re.MULTILINE)
    return re.sub(r"[*`$]", "", heading[1]) if heading else "MDR"


def data_of(nb: NotebookNode, kind: str, tag: str = "") -> list[NotebookNode]:
    """Return the data of the outputs that have this MIME type, of cells with a tag."""
    cells = (cell for cell in nb.cells if not tag or tag in cell.metadata.get("tags", []))
    data = (output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    return [each for each in data if kind in each]


def write_pages(root: Path) -> None:
    """Write the page of each executed notebook below ``root`` anew: they link to each other."""
    pages = pages_of(root)
    for folder, names in pages.items():
        for name in names:
            write_page(root, folder, name, pages)


def write_page(root: Path, folder: str, name: str, pages: dict[str, list[str]]) -> None:
    """Write one page; ``pages``: as of :func:`pages_of`."""
    path = root / folder / f"{name}.ipynb"
    nb = nbformat.read(path, 4)
    links = {  # to each notebook: its page of the same profile, else the first that there is
        each: os.path.relpath(f"{other}/{each}.html".lstrip("/"), folder or ".")
        for other in [*reversed(pages), folder]
        for each in pages.get(other, [])
    }
    about = {
        "title": title(nb),
        "home": os.path.relpath("index.html", folder or ".") if pages.keys() - {""} else "",
        "profiles": [(f"../{each}/{name}.html", each, each == folder)
                     for each in pages if each and folder and name in pages[each]],
        "pages": [(links[each], each.replace("_", " ").capitalize(), each == name)
                  for each in sorted(links, key=place)],
        "notebook": path.name,
        "command": command(path, nb.metadata.papermill.parameters),
        "made": nb.metadata.papermill,
        "provenance": [row for each in data_of(nb, ANSWER) for row in each[ANSWER]["provenance"]],
    }  # fmt: skip
    nb.cells, about["details"] = arranged(nb.cells)
    # not HTMLExporter's own way, which parses the page once more and may change a cell's HTML
    body, _ = TemplateExporter.from_notebook_node(exporter(links), nb, {"page": about})
    write(path.with_suffix(".html"), body)


def command(path: Path, parameters: dict[str, Any]) -> str:
    """Return the command that renders a page, from the committed runs beside it, if any are."""
    profile = parameters.get("profile", "")
    changed = [word for name, value in parameters.items() if name != "profile"
               for word in ("-p", name, str(value))]  # fmt: skip
    if changed:
        own = ["--profile", profile, "--notebook", path.stem, *changed]
        return f".venv/bin/python -m mdr_core reports {shlex.join(own)}"
    stored = "STORED=1 " * (profile == "quick" and (path.parent / "runs.csv").exists())
    return f"{stored}make reports {f'PROFILE={profile} ' * bool(profile)}NOTEBOOK={path.stem}"


def arranged(cells: list[NotebookNode]) -> tuple[list[NotebookNode], int]:
    """Return the cells, details last, and the place of the first of these.

    Code that shows nothing joins the next that does.
    """
    found: list[NotebookNode] = []
    for folded in (False, True):
        waiting, first = [], len(found)
        for cell in cells:
            if ("details" in cell.metadata.get("tags", [])) != folded:
                continue
            if cell.cell_type == "code":
                waiting.append(cell.source)
                if not cell.outputs:
                    continue
                cell.source, waiting = "\n\n".join(waiting), []
            found.append(cell)
        if waiting:
            found.append(nbformat.v4.new_code_cell("\n\n".join(waiting)))
    return found, first


def exporter(links: Mapping[str, str]) -> HTMLExporter:
    """Return nbconvert's exporter with our template and filters; links: notebook -> its page."""
    found = HTMLExporter(template_name="study", extra_template_basedirs=[str(TEMPLATES)])
    found.register_filter("markdown2html", lambda text: to_html(text, links))
    found.register_filter("highlight_code", Highlight2HTML(pygments_lexer="ipython3"))
    return found


def to_mathml(latex: str, display: str = "inline") -> str:
    """Return a formula as MathML, which browsers draw; what cannot be shown is a StudyError."""
    try:
        known = re.sub(r"\\operatorname\*?(?=\{)", r"\\mathrm", latex.strip())
        mathml = convert(known, display=display)
    except Exception as error:  # noqa: BLE001 - the library raises many kinds for malformed ones
        raise StudyError(f"formula ${latex}$ is malformed ({type(error).__name__})") from None
    if "\\" in mathml:
        raise StudyError(f"formula ${latex}$ has a command that cannot be shown as MathML")
    mathml = mathml.replace("<math ", f'<math alttext="{html.escape(latex.strip())}" ', 1)
    return f'<div class="scroll">{mathml}</div>' if display == "block" else mathml


class Renderer(IPythonRenderer):
    """nbconvert's, without scripts; a link to another notebook leads to its page."""

    def __init__(self, links: Mapping[str, str]):
        super().__init__(escape=False, exclude_anchor_links=True)
        self.links = links

    def text(self, text: str) -> str:
        return super().text(UNBROKEN.sub("\u00a0", text))

    def link(self, text: str, url: str, title: str | None = None) -> str:
        if not url.endswith(".ipynb"):
            return super().link(text, url, title)
        page = self.links.get(Path(url).stem)
        return super().link(text, page, title) if page else text

    def inline_math(self, body: str) -> str:
        return to_mathml(body)

    def block_math(self, body: str) -> str:
        return to_mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return to_mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


def to_html(text: str, links: Mapping[str, str]) -> str:
    """Return Markdown as HTML."""
    return MarkdownWithMath(renderer=Renderer(links)).render(text)

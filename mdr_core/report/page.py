"""An executed notebook as one self-contained page; cells tagged ``details`` are folded last."""

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import jinja2
import nbformat
from latex2mathml.converter import convert
from markupsafe import Markup
from nbconvert.filters import Highlight2HTML, ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from mdr_core.files import write
from mdr_core.report.show import ANSWER

FOLDERS = ("", "full", "photos", "quick", "paper")  # of pages; the headline's before the others
ORDER = (
    "claims", "recall_at_k", "learning_curves", "ablation_losses", "ablation_levels",
    "ablation_backbones", "embedding_dimension", "drop_in", "mechanism", "class_centers",
    "retrieval_gallery", "your_images",
)  # fmt: skip


class Renderer(IPythonRenderer):
    """nbconvert's, with formulas as MathML, which browsers draw without a script."""

    def inline_math(self, body: str) -> str:
        return convert(body)

    def block_math(self, body: str) -> str:
        return f'<div class="scroll">{convert(body, display="block")}</div>'


def to_html(text: str, links: Mapping[str, str]) -> Markup:
    """Return Markdown as HTML; a link to another notebook leads to its page, if there is one."""
    renderer = Renderer(escape=False, exclude_anchor_links=True)
    found = MarkdownWithMath(renderer=renderer).render(text)
    known = {f'href="{name}.ipynb"': f'href="{link}"' for name, link in links.items()}
    found = re.sub(r'href="\w+\.ipynb"', lambda match: known.get(match[0], ""), found)
    # no line ends within "95 %", "0.8 to 7.6" and "MDR − L2"
    found = found.replace(" − ", "\u00a0−\u00a0")
    return Markup(re.sub(r"(?<=\d) (?=%|to [−+]?\d)|(?<=\d to) (?=[−+]?\d)", "\u00a0", found))


FILES = jinja2.PackageLoader("mdr_core.report")
TEMPLATES = jinja2.Environment(loader=FILES, autoescape=True, trim_blocks=True, lstrip_blocks=True)
code = Highlight2HTML(pygments_lexer="ipython3")
TEMPLATES.filters |= {"markdown": to_html, "code": code, "ansi": ansi2html}


def place(name: str) -> tuple[int, str]:
    """Return a notebook's place in what is worth the wait first; others follow by name."""
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def pages_of(root: Path) -> dict[str, list[str]]:
    """Return the names of the executed notebooks in ``root`` and in its folders, in order."""
    found = {each: [path.stem for path in (root / each).glob("*.ipynb")] for each in FOLDERS}
    return {folder: sorted(names, key=place) for folder, names in found.items() if names}


def data_of(nb: NotebookNode, kind: str, tag: str = "") -> list[NotebookNode]:
    """Return the data of the outputs that have this MIME type, of cells with a tag."""
    cells = (cell for cell in nb.cells if not tag or tag in cell.metadata.get("tags", []))
    data = (output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    return [each for each in data if kind in each]


def write_page(root: Path, folder: str, name: str, pages: dict[str, list[str]]) -> str:
    """Write one page and return its title; ``pages``: as of :func:`pages_of`."""
    path = root / folder / f"{name}.ipynb"
    nb = nbformat.read(path, 4)
    title = re.sub(r"[#*`$]", "", nb.cells[0].source.partition("\n")[0]).strip()  # the question
    links = {  # to each notebook: its page of the same profile, else the first that there is
        each: os.path.relpath(f"{other}/{each}.html".lstrip("/"), folder or ".")
        for other in [*reversed(pages), folder]
        for each in pages[other]
    }
    given = {k: v for k, v in nb.metadata.papermill.parameters.items() if k != "save_root"}
    words = ["--profile", given.pop("profile", "quick"), "--notebook", name]
    words += [str(word) for item in given.items() for word in ("-p", *item)]
    about = {
        "name": name,
        "title": title,
        "links": {each: links[each] for each in sorted(links, key=place)},
        "home": os.path.relpath("index.html", folder or "."),
        "folder": folder,
        "profiles": [each for each in pages if each and folder and name in pages[each]],
        "command": f"python -m mdr_core reports {shlex.join(words)}",
        "made": nb.metadata,
        "provenance": [row for each in data_of(nb, ANSWER) for row in each[ANSWER]["provenance"]],
        "parts": [joined(nb.cells, folded) for folded in (False, True)],
    }
    write(path.with_suffix(".html"), TEMPLATES.get_template("page.html.j2").render(about))
    return title


def joined(cells: list[NotebookNode], folded: bool) -> list[NotebookNode]:
    """Return the cells that are details or not; code that shows nothing joins the code below."""
    found: list[NotebookNode] = []
    for cell in cells:
        if ("details" in cell.metadata.get("tags", [])) == folded:
            if found and cell.cell_type == found[-1].cell_type == "code" and not found[-1].outputs:
                cell.source = f"{found.pop().source}\n\n{cell.source}"
            found.append(cell)
    return found

"""The index of all pages, and the README's results: both show what the claims notebook says.

Of ``reports/claims.ipynb``, cells tagged ``sentences``, ``recall`` and ``ledger`` are taken.
"""

import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY, write
from mdr_core.profiles import PROFILES
from mdr_core.report import page

REPORTS, README = REPOSITORY / "reports", REPOSITORY / "README.md"
CURVES = "learning_curves.svg"  # the README's figure: of CUB-200-2011, the first of that page


def write_reports(root: Path) -> None:
    """Write all pages below ``root``, and ``index.html`` where it has pages of profiles."""
    page.write_pages(root)
    pages = page.pages_of(root)
    if not pages.keys() - {""}:
        return
    titles = {name: page.title(nbformat.read(root / folder / f"{name}.ipynb", 4))
              for folder, names in pages.items() for name in names}  # fmt: skip
    claims = root / "claims.ipynb"
    nb = nbformat.read(claims, 4) if claims.exists() else nbformat.v4.new_notebook()
    links = {name: f"{folder}/{name}.html".lstrip("/")
             for folder in reversed(pages) for name in pages[folder]}  # fmt: skip
    explorers = sorted(path.relative_to(root).as_posix() for path in root.glob("*/explore-*.html"))
    text = page.exporter(links).environment.get_template("pages.html.j2").render(
        parts={tag: shown(nb, tag) for tag in ("sentences", "recall", "ledger")},
        profiles={name: PROFILES[name].purpose for name in pages if name},
        explorers=explorers,
        questions=[(titles[name], [f"{each}/{name}.html" if name in pages[each] else ""
                    for each in pages if each], links[name])
                   for name in sorted(titles, key=page.place)],
    )  # fmt: skip
    write(root / "index.html", text)


def shown(nb: NotebookNode, tag: str) -> list[NotebookNode]:
    """Return the outputs of the cells with a tag."""
    found = [output for cell in page.tagged(nb, tag) for output in cell.outputs]
    return [output for output in found if "data" in output]


def results(root: Path) -> str:
    """Return the README's results: the sentences, the table of Recall@1, a figure."""
    nb = nbformat.read(root / "claims.ipynb", 4)
    sentences = [each.data["text/markdown"] for each in shown(nb, "sentences")]
    tables = [each.data["text/plain"] for each in shown(nb, "recall") if "text/csv" in each.data]
    if not (sentences and tables):
        raise StudyError("reports/claims.ipynb has no sentences or no table: make reports first")
    figures = page.data_of(
        nbformat.read(root / "full" / "learning_curves.ipynb", 4).cells, "text/html"
    )
    drawing = next(
        found for text in figures if (found := re.search("<svg.*?</svg>", text, re.DOTALL))
    )
    write(root / CURVES, drawing[0])
    picture = f"![Recall@1 by epoch on CUB-200-2011](reports/{CURVES})"
    return "\n\n".join([*sentences, *tables, picture])


def main(argv: list[str]) -> int:
    text = README.read_text(encoding="utf-8")
    block = rf"\1{results(REPORTS)}\n\2".replace("\\1", "\\g<1>").replace("\\2", "\\g<2>")
    README.write_text(
        re.sub(r"(<!-- results -->\n).*(<!-- end of results -->)", block, text, flags=re.DOTALL)
    )
    return 0

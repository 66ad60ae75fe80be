"""The index of all pages, and the README's results: the outputs of tagged cells of claims.ipynb."""

import os
import re
from pathlib import Path

import nbformat

from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY, write
from mdr_core.profiles import PROFILES, title
from mdr_core.report import page

REPORTS, README = REPOSITORY / "reports", REPOSITORY / "README.md"
CURVES = "learning_curves.svg"  # the README's figure: of CUB-200-2011, the first of that page
START, END = "<!-- results -->\n", "<!-- end of results -->"


def write_reports(root: Path) -> None:
    """Write ``index.html`` and all pages below ``root`` anew: they link to each other."""
    pages = page.pages_of(root)
    titles, links = {}, {}  # of each notebook, in the first folder that has it
    for folder in reversed(pages):
        for name in pages[folder]:
            titles[name] = page.write_page(root, folder, name, pages)
            links[name] = f"{folder}/{name}.html".lstrip("/")
    claims = root / "claims.ipynb"
    nb = nbformat.read(claims, 4) if claims.exists() else nbformat.v4.new_notebook()
    explorers = {path.stem.removeprefix("explore-"): path for path in root.glob("*/explore-*.html")}
    about = {
        "sentences": page.data_of(nb, "text/markdown", "sentences"),
        "explorers": {title(n): os.path.relpath(explorers[n], root) for n in sorted(explorers)},
        "tables": [t for tag in ("recall", "ledger") for t in page.data_of(nb, "text/html", tag)],
        "profiles": {name: PROFILES[name].purpose for name in pages if name},
        "titles": {name: titles[name] for name in sorted(titles, key=page.place)},
        "links": links,
        "pages": pages,
    }
    write(root / "index.html", page.TEMPLATES.get_template("index.html.j2").render(about))


def main(argv: list[str]) -> int:
    """Write the README's results anew: the sentences, the table of Recall@1, a figure."""
    nb = nbformat.read(REPORTS / "claims.ipynb", 4)
    sentences = [each["text/markdown"] for each in page.data_of(nb, "text/markdown", "sentences")]
    tables = [each["text/plain"] for each in page.data_of(nb, "text/csv", "recall")]
    curves = nbformat.read(REPORTS / "full" / "learning_curves.ipynb", 4)
    shown = "".join(each["text/html"] for each in page.data_of(curves, "text/html"))
    drawings = re.findall("<svg.*?</svg>", shown, re.DOTALL)
    if not (sentences and tables and drawings):
        raise StudyError("reports/ has no claims or learning curves to show: make reports first")
    write(REPORTS / CURVES, drawings[0])
    picture = f"![Recall@1 by epoch on CUB-200-2011](reports/{CURVES})"
    results = "\n\n".join([*sentences, *tables, picture])
    before, _, rest = README.read_text(encoding="utf-8").partition(START)
    write(README, f"{before}{START}{results}\n{rest[rest.index(END) :]}")
    return 0

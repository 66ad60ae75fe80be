"""The index of all pages, and the README's results: both show what the claims notebook says.

Of ``reports/claims.ipynb``, cells tagged ``sentences``, ``recall`` and ``ledger`` are taken.
"""

import re
from pathlib import Path

import nbformat

from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY, write
from mdr_core.profiles import PROFILES
from mdr_core.report import page

REPORTS, README = REPOSITORY / "reports", REPOSITORY / "README.md"
CURVES = "learning_curves.svg"  # the README's figure: of CUB-200-2011, the first of that page
START, END = "<!-- results -->\n", "<!-- end of results -->"


def write_reports(root: Path) -> None:
    """Write all pages below ``root``, and ``index.html`` where it has pages of profiles."""
    page.write_pages(root)
    pages = page.pages_of(root)
    if not pages.keys() - {""}:
        return
    titles, links = {}, {}  # of each notebook, in the first folder that has it
    for folder in reversed(pages):
        for name in pages[folder]:
            links[name] = f"{folder}/{name}.html".lstrip("/")
            titles[name] = page.title(nbformat.read(root / folder / f"{name}.ipynb", 4))
    claims = root / "claims.ipynb"
    nb = nbformat.read(claims, 4) if claims.exists() else nbformat.v4.new_notebook()
    explorers = sorted(path.relative_to(root).as_posix() for path in root.glob("*/explore-*.html"))
    folders = [folder for folder in pages if folder]
    questions = [
        (
            titles[name],
            links[name],
            [f"{each}/{name}.html" * (name in pages[each]) for each in folders],
        )
        for name in sorted(titles, key=page.place)
    ]
    template = page.exporter(links).environment.get_template("pages.html.j2")
    text = template.render(
        sentences=page.data_of(nb, "text/markdown", "sentences"),
        tables=[
            each for tag in ("recall", "ledger") for each in page.data_of(nb, "text/html", tag)
        ],
        profiles={name: PROFILES[name].purpose for name in folders},
        explorers=explorers,
        questions=questions,
    )
    write(root / "index.html", text)


def results(root: Path) -> str:
    """Return the README's results: the sentences, the table of Recall@1, a figure."""
    nb = nbformat.read(root / "claims.ipynb", 4)
    sentences = [each["text/markdown"] for each in page.data_of(nb, "text/markdown", "sentences")]
    tables = [each["text/plain"] for each in page.data_of(nb, "text/csv", "recall")]
    curves = nbformat.read(root / "full" / "learning_curves.ipynb", 4)
    shown = "".join(each["text/html"] for each in page.data_of(curves, "text/html"))
    drawings = re.findall("<svg.*?</svg>", shown, re.DOTALL)
    if not (sentences and tables and drawings):
        raise StudyError("reports/ has no claims or learning curves to show: make reports first")
    write(root / CURVES, drawings[0])
    picture = f"![Recall@1 by epoch on CUB-200-2011](reports/{CURVES})"
    return "\n\n".join([*sentences, *tables, picture])


def main(argv: list[str]) -> int:
    before, _, rest = README.read_text(encoding="utf-8").partition(START)
    after = rest[rest.index(END) :]
    write(README, f"{before}{START}{results(REPORTS)}\n{after}")
    return 0

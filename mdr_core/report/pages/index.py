"""The index of all pages: the claims by profile, then a card for each report."""

import base64
import io
import re
from pathlib import Path

import pandas as pd
import PIL.Image

from mdr_core.files import write
from mdr_core.report.pages import page
from mdr_core.report.pages.html_table import unbroken
from mdr_core.study import profiles
from mdr_core.study.statistics import number

THUMBNAILS = {  # notebook -> how the file of its main figure begins
    "claims": "claims",
    "recall_at_k": "learning_curves",
    "learning_curves": "learning_curves",
    "ablation_backbones": "backbones",
    "ablation_losses": "losses",
    "ablation_levels": "weights",
    "embedding_dimension": "dimensions",
    "drop_in": "drop_in_curves",
    "mechanism": "gradient",
    "class_centers": "class_centers",
    "your_images": "your_images_curves",
}
WIDTH = 400  # pixels of a thumbnail made from photographs


def write_reports(root: Path) -> None:
    """Write all pages of the profiles below ``root``, and ``index.html``."""
    found = {name: page.reports_of(root / name) for name in page.PROFILES}
    names = {
        name: [report.name for report in reports] for name, reports in found.items() if reports
    }
    first: dict[str, page.Report] = {}  # of each notebook
    claims: dict[str, dict] = {}
    rows: dict[str, dict] = {}  # group -> claim of any profile -> its unit
    for profile in names:
        page.write_pages(root / profile, found[profile], names)
        first = {report.name: report for report in found[profile]} | first
        table = root / profile / f"claims-{profile}.csv"
        if table.exists():
            claims[profile] = claims_of(pd.read_csv(table), names[profile])
            for claim, about in claims[profile].items():
                rows.setdefault(about["group"], {})[claim] = about["unit"]
    cards = sorted(first.values(), key=lambda report: page.place(report.name))
    template = page.environment().get_template("index.html.j2")
    text = template.render(
        profiles={name: profiles.named(name) for name in names},
        names=names,
        claims=claims,
        rows=rows,
        headline=first.get("recall_at_k"),
        cards=[(report, thumbnail(root / report.profile, report)) for report in cards],
    )
    write(root / "index.html", text)


def claims_of(table: pd.DataFrame, pages: list[str]) -> dict[str, dict]:
    """Return claim -> group, verdict, words, lines for its cells, and page, from a claims CSV."""
    found = {}
    for claim, cells in table.groupby("claim", sort=False):
        first, ran, lines = cells.iloc[0], cells[cells.seeds > 0], []
        for cell in ran.itertuples() if len(ran) < 3 else ():
            low = pd.Series([cell.difference - cell.half, cell.classes_low]).min()
            high = pd.Series([cell.difference + cell.half, cell.classes_high]).max()
            interval = f" ({number(low)} to {number(high)})" if low == low else ""
            lines.append(f"{cell.cell} {number(cell.difference, '+.1f')}{interval}")
        if len(ran) > 2:  # the range alone
            ends = ran.difference.min(), ran.difference.max()
            lines.append("from " + " to ".join(number(end, "+.1f") for end in ends))
        report = first.report if first.report in pages else "claims"
        about = {"group": first.group, "verdict": first.claim_verdict, "told": first.told}
        about["unit"] = first.unit * (first.unit != "points")
        found[str(claim)] = about | {"lines": [*map(unbroken, lines)], "report": report}
    return found


def thumbnail(folder: Path, report: page.Report) -> str:
    """Return the source of a report's small image: its main figure, or its first photographs."""
    images = sorted(folder.glob(f"{THUMBNAILS.get(report.name, '-')}*.svg"))
    if images:  # the first dataset's
        first = min(images, key=lambda path: profiles.named(folder.name).ablation not in path.name)
        return f"{folder.name}/{first.name}"
    for text in page.data_of(report.nb, "text/html"):
        if found := re.search(r"data:image/jpeg;base64,([\w+/=]+)", text):
            image = PIL.Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB")
            image.thumbnail((WIDTH, WIDTH))
            small = io.BytesIO()
            image.save(small, "webp", quality=75)
            return f"data:image/webp;base64,{base64.b64encode(small.getvalue()).decode()}"
    return ""

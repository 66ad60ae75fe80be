"""A table as HTML: its caption, its rows in groups, its intervals unbroken.

A page's script lets readers sort the rows of each group. JupyterLab shows the same table: what
its own style sheet would do otherwise is said beside the cells.
"""

import html
import re
from collections.abc import Iterable, Sequence

import pandas as pd
from IPython.display import HTML

from mdr_core.study.statistics import NOT_RUN, NOT_SIGNIFICANT, ONE_SEED, Interval, number

SENTENCES = ("claim", "why not", "source", "value")  # columns that wrap
LEFT = ' style="text-align: left"'
GREY = "color: #646b76"
UNBROKEN = tuple(
    re.compile(pattern)
    for pattern in (r" (?=± )", r"(?<=±) ", r"(?<=\d) (?=%|to [−+]?\d)", r"(?<=\d\u00a0to) ")
)


def plain(words: str) -> str:
    """Return text that Markdown shows unchanged, also where a name looks like HTML or a formula."""
    marks = r"[\\`*{}\[\]<>&$|~#\r\n]|(?<!\w)_|_(?!\w)"
    return re.sub(marks, lambda mark: f"&#{ord(mark[0])};", words)


def unbroken(text: str) -> str:
    """Return the text with no line break inside an interval or before a %."""
    for space in UNBROKEN:
        text = space.sub("\u00a0", text)
    return text


def styled(
    table: pd.DataFrame,
    caption: str,
    best: pd.DataFrame | None = None,
    spec: str = ".1f",
    formats: dict[str, str] | None = None,
    absent: str = "",
) -> HTML:
    """Return a table for display: text to the left, numbers to the right, n beside a difference.

    All levels of the index but the last, or a first column ``dataset``, become the title of a group
    of rows. Rows that are not significant or not run are grey. ``evidence`` links to pages;
    ``verdict`` gets its sign from the style sheet.

    Args:
        best: True in cells that are bold; an interval of one seed never is. ``attrs["bold"]`` says
            what bold means, and ends the caption where a cell is bold.
        spec: the format of numbers and intervals; ``formats``: of the columns that differ.
        absent: is shown in an empty cell.
    """
    bold = pd.DataFrame(False, table.index, table.columns)
    if best is not None:
        several = table.map(lambda cell: not isinstance(cell, Interval) or cell.n > 1)
        bold = best.reindex(columns=table.columns, fill_value=False) & several
        if bold.to_numpy().any() and best.attrs.get("bold"):
            caption = f"{caption} {best.attrs['bold']}"
    numbers = [last_n(cells) for cells in table.itertuples(index=False)]
    if isinstance(table.index, pd.RangeIndex):
        names = list(table.columns[: 1 + (table.columns[0] == "dataset")])
        table, bold = table.set_index(names), bold.drop(columns=names)
    table, bold = table.copy(), bold.copy()
    if "difference" in table:
        place = list(table).index("difference") + 1
        table.insert(place, "n", pd.Series(numbers, table.index, dtype="Int64"))
        bold.insert(place, "n", False)
    given = {"difference": f"+{spec}"} | (formats or {})
    written = [any(isinstance(cell, str) for cell in table[name]) for name in table]
    bodies: list[str] = []
    opened = None
    for key, row, marked in zip(table.index, table.to_numpy(), bold.to_numpy(), strict=True):
        *group, name = key if isinstance(key, tuple) else (key,)
        if bodies and group != opened:
            bodies.append("</tbody>")
        if group and group != opened:
            title = html.escape(" · ".join(text(level, "g", absent) for level in group))
            span = f'colspan="{1 + len(row)}" scope="rowgroup"{LEFT}'
            bodies.append(f'<tbody><tr class="group"><th {span}><span>{title}</span></th></tr>')
        elif not bodies:
            bodies.append("<tbody>")
        opened = group
        cells = [
            td(column, cell, given.get(str(column), spec), absent, left, strong)
            for column, cell, left, strong in zip(table, row, written, marked, strict=True)
        ]
        bodies.append(tr(text(name, "g", absent), cells, grey=row))
    heads = [th(table.index.names[-1], left=True), *map(th, table, written)]
    return HTML(
        f'<figure class="table" style="margin: 0"><figcaption{LEFT}>{escaped(caption)}</figcaption>'
        f'<div class="scroll" tabindex="0" role="group" aria-label="{label(caption)}">'
        f'<table style="margin-left: 0"><thead><tr>{"".join(heads)}</tr></thead>\n'
        + "\n".join(bodies)
        + "</tbody></table></div></figure>"
    )


def th(name: object, left: bool = False) -> str:
    """Return a column's head; one without a name is no heading."""
    words = [str(part) for part in (name if isinstance(name, tuple) else (name,)) if part]
    if not words or name is None:
        return "<td></td>"
    return f'<th scope="col"{LEFT * left}>{"<br>".join(map(escaped, words))}</th>'


def tr(name: str, cells: list[str], grey: Sequence[object]) -> str:
    """Return a row; one that is not significant or not run is grey."""
    idle = any(str(cell) in (NOT_SIGNIFICANT, ONE_SEED, NOT_RUN) for cell in grey)
    style = f' style="{GREY}"' if idle else ""
    return f'<tr{style}><th scope="row"{LEFT}>{escaped(name)}</th>{"".join(cells)}</tr>'


def td(column: object, cell: object, spec: str, absent: str, left: bool, strong: bool) -> str:
    """Return a cell."""
    shown = link(cell) if column == "evidence" else escaped(text(cell, spec, absent))
    names = ["wrap"] * (column in SENTENCES)
    names += [str(cell).replace(" ", "-")] * (column == "verdict")
    kind = f' class="{html.escape(" ".join(names))}"' if names else ""
    return f"<td{kind}{LEFT * left}>{f'<strong>{shown}</strong>' if strong else shown}</td>"


def escaped(words: str) -> str:
    return unbroken(html.escape(words, quote=False))


def label(caption: str) -> str:
    """Return the caption's first sentence, for readers who hear the page."""
    return html.escape(caption.split(". ")[0].split(";")[0])


def link(page: object) -> str:
    """Return a link to ``name.html``; another name as it is."""
    name = str(page).removesuffix(".html")
    return html.escape(name) if name == page else f'<a href="{html.escape(str(page))}">{name}</a>'


def text(cell: object, spec: str, absent: str) -> str:
    """Return a cell's text, with a true minus."""
    if cell is None or cell is pd.NA or cell != cell:
        return absent
    return number(cell, spec) if isinstance(cell, (float, Interval)) else str(cell)


def last_n(cells: Iterable[object]) -> int | None:
    """Return n of a row's last interval."""
    return next((cell.n for cell in reversed([*cells]) if isinstance(cell, Interval)), None)

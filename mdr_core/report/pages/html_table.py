"""A table as HTML: its caption, its rows in groups, its intervals unbroken.

A page's script lets readers sort the rows of each group. JupyterLab shows the same table: what
its own style sheet would do otherwise is said beside the cells.
"""

import html
import itertools
import re

import pandas as pd
from IPython.display import HTML

from mdr_core.study.statistics import NOT_RUN, NOT_SIGNIFICANT, ONE_SEED, Interval, number

SENTENCES = ("claim", "why not", "source", "value")  # columns that wrap
LEFT = ' style="text-align: left"'
GREY = ' style="color: #646b76"'
UNBROKEN = re.compile(  # spaces as in "3.0 ± 1.5", "95 %" and "0.8 to 7.6"
    r" (?=± )|(?<=±) |(?<=\d) (?=%|to [−+]?\d)|(?<=\d[ \u00a0]to) (?=[−+]?\d)"
)


def plain(words: str) -> str:
    """Return text that Markdown shows unchanged, also where a name looks like HTML or a formula."""
    marks = r"[\\`*{}\[\]<>&$|~#\r\n]|(?<!\w)_|_(?!\w)"
    return re.sub(marks, lambda mark: f"&#{ord(mark[0])};", words)


def unbroken(text: str) -> str:
    """Return the text with no line break inside an interval or before a %."""
    return UNBROKEN.sub("\u00a0", text)


def escaped(words: str) -> str:
    """Return text as HTML."""
    return unbroken(html.escape(words, quote=False))


def label(caption: str) -> str:
    """Return the caption's first sentence, for readers who hear the page."""
    return html.escape(caption.split(". ")[0].split(";")[0])


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
    of rows. Rows that are not significant or not run are grey.

    Args:
        best: True in cells that are bold; an interval of one seed never is. ``attrs["bold"]`` ends
            the caption where a cell is bold.
        spec: the format of numbers; ``formats``: of some columns. absent: text of an empty cell.
    """
    bold = pd.DataFrame(False, table.index, table.columns)
    if best is not None:
        several = table.map(lambda cell: not isinstance(cell, Interval) or cell.n > 1)
        bold = best.reindex(columns=table.columns, fill_value=False) & several
        if bold.to_numpy().any() and best.attrs.get("bold"):
            caption = f"{caption} {best.attrs['bold']}"
    if "difference" in table:
        counts = [last_n(cells) for cells in table.itertuples(index=False)]
        place = list(table).index("difference") + 1
        table, bold = table.copy(), bold.copy()
        table.insert(place, "n", pd.Series(counts, table.index, dtype="Int64"))
        bold.insert(place, "n", False)
    if isinstance(table.index, pd.RangeIndex):
        names = list(table.columns[: 1 + (table.columns[0] == "dataset")])
        table, bold = table.set_index(names), bold.drop(columns=names)
    specs = dict.fromkeys(table, spec) | {"difference": f"+{spec}"} | (formats or {})
    left = [any(isinstance(cell, str) for cell in table[name]) for name in table]
    keys = [key if isinstance(key, tuple) else (key,) for key in table.index]
    rows = zip(keys, table.to_numpy(), bold.to_numpy(), strict=True)
    bodies = []
    for group, members in itertools.groupby(rows, lambda row: row[0][:-1]):
        title = escaped(" · ".join(text(level, "g", absent) for level in group))
        span = f'colspan="{1 + len(table.columns)}" scope="rowgroup"{LEFT}'
        head = f'<tr class="group"><th {span}><span>{title}</span></th></tr>' if group else ""
        lines = [f"<tbody>{head}"]
        for key, cells, marked in members:
            idle = any(str(cell) in (NOT_SIGNIFICANT, ONE_SEED, NOT_RUN) for cell in cells)
            name = escaped(text(key[-1], "g", absent))
            shown = [
                td(column, text(cell, specs[column], absent), at_left, strong)
                for column, cell, at_left, strong in zip(table, cells, left, marked, strict=True)
            ]
            lines.append(f'<tr{GREY * idle}><th scope="row"{LEFT}>{name}</th>{"".join(shown)}</tr>')
        bodies.append("\n".join(lines))
    heads = [th(table.index.names[-1], True), *map(th, table, left)]
    return HTML(
        f'<figure class="table" style="margin: 0"><figcaption{LEFT}>{escaped(caption)}</figcaption>'
        f'<div class="scroll" tabindex="0" role="group" aria-label="{label(caption)}">'
        f'<table style="margin-left: 0"><thead><tr>{"".join(heads)}</tr></thead>\n'
        + "\n</tbody>\n".join(bodies)
        + "</tbody></table></div></figure>"
    )


def last_n(cells: tuple) -> int | None:
    """Return n of a row's last interval."""
    return next((cell.n for cell in reversed(cells) if isinstance(cell, Interval)), None)


def th(name: object, left: bool) -> str:
    words = [str(part) for part in (name if isinstance(name, tuple) else (name,)) if part]
    if not words:
        return "<td></td>"
    return f'<th scope="col"{LEFT * left}>{"<br>".join(map(escaped, words))}</th>'


def td(column: object, words: str, left: bool, strong: bool) -> str:
    shown = escaped(words)
    if column == "evidence" and words.endswith(".html"):
        shown = f'<a href="{html.escape(words)}">{shown.removesuffix(".html")}</a>'
    verdict = words.partition(" (")[0].replace(" ", "-")  # of "holds (one seed)" too
    names = "wrap" * (column in SENTENCES) + verdict * (column == "verdict")
    kind = f' class="{html.escape(names)}"' if names else ""
    return f"<td{kind}{LEFT * left}>{f'<strong>{shown}</strong>' if strong else shown}</td>"


def text(cell: object, spec: str, absent: str) -> str:
    """Return a cell's text, with a true minus."""
    if cell is None or cell is pd.NA or cell != cell:
        return absent
    return number(cell, spec) if isinstance(cell, (float, Interval)) else str(cell)

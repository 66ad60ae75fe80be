"""What a notebook shows: its answer, its tables and its figures. Each is displayed at once."""

import io
from collections.abc import Mapping, Sequence

import pandas as pd
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mdr_core.profiles import Study


def answer(
    study: Study,
    runs: pd.DataFrame,
    conclusions: Mapping[str, tuple[str, Mapping[str, str]]],
    verdicts: Mapping[str, str],
) -> None:
    """Show our conclusion of a profile's runs, with what they are (folded, at the page's end).

    Args:
        runs: the table of :func:`mdr_core.runs.run.run`.
        conclusions: profile -> sentences (Markdown), and the verdicts that they rest on, by name.
        verdicts: those that the runs give, by the same names.

    Under other parameters, or where a verdict is not as claimed, our conclusion is not shown, and
    a line says why.
    """
    text, claimed = conclusions.get(study.name, ("", {}))
    wrong = [
        f"{k} is now {verdicts.get(k)}, not {v}" for k, v in claimed.items() if verdicts.get(k) != v
    ]
    if study.changed:
        text = "Run with other parameters: our conclusion does not apply."
    elif not text:
        text = "We draw no conclusion from this profile's runs."
    elif wrong:
        text = f"Our conclusion no longer fits these runs: {'; '.join(wrong)}."
    display({"text/markdown": text, "text/plain": text}, raw=True)


def table(frame: pd.DataFrame, caption: str, digits: int = 1) -> None:
    """Show a table: numbers with so many digits; its index is the names of the rows.

    Cells may be texts, numbers, or a mean or difference of :mod:`mdr_core.statistics`. A page
    offers it as CSV, with all digits.
    """
    display(frame.style.format(precision=digits).set_caption(caption))


def figure(drawn: Figure | Sequence[Figure], caption: str, photographs: bool = False) -> None:
    """Show a figure, or panels side by side (stacked on a phone), each 4.2 inches wide.

    It is SVG, which a page offers as a file; one of ``photographs`` is a JPEG.
    """
    for each in [drawn] if isinstance(drawn, Figure) else drawn:
        text = io.StringIO()
        each.savefig(text, format="svg")
        display({"image/svg+xml": text.getvalue(), "text/plain": caption}, raw=True)
        plt.close(each)
    display({"text/markdown": caption}, raw=True)

"""Executed notebooks side by side: ``python -m mdr_core compare one.ipynb other.ipynb``.

Their changed parameters and the verdicts of their answers, then the first table of each.
"""

import argparse

import nbformat
import pandas as pd

from mdr_core.errors import StudyError
from mdr_core.report.page import data_of
from mdr_core.report.show import ANSWER


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m mdr_core compare", description=__doc__)
    parser.add_argument("notebooks", nargs="+", metavar="FILE.ipynb")
    columns, tables = {}, []
    for path in parser.parse_args(argv).notebooks:
        try:
            nb = nbformat.read(path, 4)
            answer = data_of(nb, ANSWER)[0][ANSWER]
        except Exception:  # noqa: BLE001 - whatever is wrong with the file
            raise StudyError(f"{path} is no executed notebook of this study: run it") from None
        columns[path] = answer["parameters"] | answer["verdicts"]
        tables += [path, *(each["text/plain"] for each in data_of(nb, "text/csv")[:1])]
    print(pd.DataFrame(columns).fillna("").to_string(), *tables, sep="\n\n")
    return 0

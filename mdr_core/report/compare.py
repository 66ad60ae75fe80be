"""Executed notebooks side by side: ``python -m mdr_core compare one.ipynb other.ipynb``.

Each has its parameters that were changed, and the verdicts and Recall@1 that its answer carries.
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
    columns = {}
    for path in parser.parse_args(argv).notebooks:
        try:
            carried = data_of(nbformat.read(path, 4), ANSWER)[0][ANSWER]
        except Exception:  # noqa: BLE001 - whatever is wrong with the file
            why = f"{path} is no executed notebook of this study"
            raise StudyError(f"{why}: run papermill notebooks/recall_at_k.ipynb {path}") from None
        columns[path] = {
            (part, name): value
            for part in ("parameters", "recall", "verdicts")
            for name, value in carried[part].items()
        }
    print(pd.DataFrame(columns).fillna("").to_string())
    return 0

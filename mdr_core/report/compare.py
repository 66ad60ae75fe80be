"""Executed notebooks side by side: ``python -m mdr_core compare one.ipynb other.ipynb``.

Each has its changed parameters, and the verdicts and Recall@1 that its answer carries.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import nbformat
import pandas as pd

from mdr_core.errors import StudyError
from mdr_core.report.page import data_of
from mdr_core.report.show import ANSWER


def compare(paths: Iterable[Path]) -> pd.DataFrame:
    """Return a column for each notebook; StudyError: one is no executed notebook of this study."""
    columns = {}
    for path in paths:
        try:
            carried = data_of(nbformat.read(path, 4), ANSWER)[0][ANSWER]
        except Exception:  # noqa: BLE001 - whatever is wrong with the file
            raise StudyError(
                f"{path} is no executed notebook of this study: "
                f"run papermill notebooks/recall_at_k.ipynb {path}"
            ) from None
        parts = ("changed", "recall", "verdicts")
        columns[str(path)] = {("", "profile"): carried["profile"]} | {
            (part, name): value for part in parts for name, value in carried[part].items()
        }
    return pd.DataFrame(columns).fillna("")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m mdr_core compare", description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="FILE.ipynb")
    print(compare(parser.parse_args(argv).notebooks).to_string())
    return 0

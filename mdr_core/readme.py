"""The README's results, taken from the committed reports: ``python -m mdr_core.readme`` writes them anew."""

import re
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(?<=<!-- results -->\n).*(?=<!-- end of results -->)", re.DOTALL)


def results() -> str:
    """A table and a figure for every profile that has a report."""
    parts = []
    for path in sorted((ROOT / "reports").glob("*/recall_at_k-*.csv")):
        profile, table = path.parent.name, pd.read_csv(path, dtype=str)
        parts.append(f"\n**{profile}**, test images after the last epoch, %, mean ± 95 % interval over the seeds "
                     f"([report](reports/{profile}/recall_at_k.html)):\n")
        rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
        parts.append("\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n")
        for figure in sorted(path.parent.glob("learning_curves-*.svg")):
            name = figure.stem.removeprefix("learning_curves-")
            parts.append(f"![Recall@1 by epoch on {name}, test and training classes](reports/{profile}/{figure.name})\n")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(BLOCK.sub(lambda _: results(), readme.read_text()))

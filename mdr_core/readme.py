"""The README's results, taken from the committed reports: ``python -m mdr_core.readme`` writes them anew."""

import re
from pathlib import Path

import pandas as pd

from mdr_core.claims import counted
from mdr_core.data import REPOSITORY

BLOCK = re.compile(r"(?<=<!-- results -->\n).*(?=<!-- end of results -->)", re.DOTALL)


def results() -> str:
    """A table and a figure for every profile that has a report."""
    parts = []
    for path in sorted((REPOSITORY / "reports").glob("*/recall_at_k-*.csv")):
        profile, table = path.parent.name, pd.read_csv(path, dtype=str)
        parts.append(f"\n**{profile}**, test images after the last epoch, %, mean ± 95 % interval over the seeds "
                     f"([report](reports/{profile}/recall_at_k.html)):\n")
        rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
        parts.append("\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n")
        parts += [line + "\n" for line in said(path.parent)]
        for figure in sorted(path.parent.glob("learning_curves-*.svg")):
            name = figure.stem.removeprefix("learning_curves-").removesuffix(f"-{profile}")
            parts.append(f"![Recall@1 by epoch on {name}, test and training classes](reports/{profile}/{figure.name})\n")
        verdicts = path.parent / f"claims-{profile}.csv"
        if verdicts.exists():
            parts.append(f"On {profile}, {counted(list(pd.read_csv(verdicts).verdict))} ([claims](reports/{profile}/claims.html)).\n")
    return "\n".join(parts) + "\n"


def said(folder: Path) -> list[str]:
    """MDR's paired differences in Recall@1 of each dataset, at the final epoch and at the best one."""
    ways = {"after the last epoch": "differences", "with every run at its best epoch on the test classes": "best_differences"}
    lines = {}
    for way, name in ways.items():
        for row in pd.read_csv(folder / f"{name}-{folder.name}.csv").itertuples():
            if "Untrained" not in row.difference:
                lines.setdefault(row.dataset, {}).setdefault(way, []).append(f"{row.difference} = {row.points}")
    return [f"{dataset}, paired by seed, in points of Recall@1: " + "; ".join(f"{way}, {', '.join(found)}" for way, found in of.items()) + "."
            for dataset, of in lines.items()]


if __name__ == "__main__":
    readme = REPOSITORY / "README.md"
    readme.write_text(BLOCK.sub(lambda _: results(), readme.read_text()))

"""The README's results, taken from the committed reports: ``python -m mdr_core.readme`` writes them anew."""

import re
from pathlib import Path

import pandas as pd

from mdr_core.claims import counted
from mdr_core.data import REPOSITORY
from mdr_core.tables import clause

BLOCK = re.compile(r"(?<=<!-- results -->\n).*(?=<!-- end of results -->)", re.DOTALL)


def results() -> str:
    """A table, a few sentences and a figure for every profile that has a report."""
    parts = []
    for path in sorted((REPOSITORY / "reports").glob("*/recall_at_k-*.csv")):
        profile, folder = path.parent.name, path.parent
        verdicts = folder / f"claims-{profile}.csv"
        parts.append(f"\n### On the {profile} profile\n")
        if verdicts.exists():
            parts.append(f"{counted(list(pd.read_csv(verdicts).verdict))} ([claims](reports/{profile}/claims.html)).\n")
        parts.append("Test images after the last epoch, %, mean ± 95 % interval over the seeds "
                     f"([report](reports/{profile}/recall_at_k.html)):\n")
        parts += [markdown(pd.read_csv(path, dtype=str))] + [line + "\n" for line in said(folder)]
        why = folder / f"diagnosis-{profile}.csv"
        if why.exists():
            parts += ["What was changed where MDR does not lead, one run each, in %: Recall@1 on test and on training classes, and the deviation "
                      "of a batch's distances over their mean (spread):\n",
                      markdown(pd.read_csv(why, dtype=str, keep_default_na=False))]
        for figure in sorted(folder.glob("learning_curves-*.svg")):
            name = figure.stem.removeprefix("learning_curves-").removesuffix(f"-{profile}")
            parts.append(f"![Recall@1 by epoch on {name}, test and training classes](reports/{profile}/{figure.name})\n")
        if (folder / "runs.csv").exists():
            parts.append(f"Training: {trained(pd.read_csv(folder / 'runs.csv', usecols=['key', 'epoch', 'seconds']))}.\n")
    return "\n".join(parts) + "\n"


def markdown(table: pd.DataFrame) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def said(folder: Path) -> list[str]:
    """MDR's paired differences in Recall@1 of each dataset, at the final epoch and at the best one."""
    ways = {"after the last epoch": "differences", "with every run at its best epoch on the test classes": "best_differences"}
    lines = {}
    for way, name in ways.items():
        table = pd.read_csv(folder / f"{name}-{folder.name}.csv")
        for dataset, group in table[~table.difference.str.contains("Untrained")].groupby("dataset", sort=False):
            lines.setdefault(dataset, []).append(f"{way}, {clause(group)}")
    return [f"**{dataset}**, points of Recall@1, paired by seed: " + "; ".join(found) + "." for dataset, found in lines.items()]


def trained(epochs: pd.DataFrame) -> str:
    """How much work the runs were. By each run's median epoch, since an epoch may have waited for something else."""
    of_run = epochs[epochs.epoch > 0].groupby("key").seconds
    return f"{of_run.ngroups} runs, about {(of_run.median() * of_run.size()).sum() / 3600:.1f} core hours in all"


if __name__ == "__main__":
    readme = REPOSITORY / "README.md"
    readme.write_text(BLOCK.sub(lambda _: results(), readme.read_text()))

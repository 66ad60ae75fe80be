"""The README's results, taken from the committed runs alone (``reports/PROFILE/runs.csv``): ``python -m mdr_core readme`` writes them anew."""

import re

import pandas as pd

from mdr_core.config import from_dict
from mdr_core.files import REPOSITORY
from mdr_core.report import tables
from mdr_core.runs import grids
from mdr_core.study import archive, experiments, profiles, statistics

COLUMNS = {
    "test_recall@1": "R@1",
    "test_recall@2": "R@2",
    "test_recall@4": "R@4",
    "test_recall@8": "R@8",
    "test_recall@1_l2": "R@1 on L2",
    "test_r_precision": "R-precision",
    "test_map_at_r": "MAP@R",
}
BLOCK = re.compile(r"(?<=<!-- results -->\n).*(?=<!-- end of results -->)", re.DOTALL)


def results() -> str:
    """A table, a few sentences and a figure for every profile whose runs are committed, the one on photographs first."""
    parts = []
    for profile in [
        p for p in ("photos", "quick") if (REPOSITORY / "reports" / p / "runs.csv").exists()
    ]:
        records = {
            from_dict(r["config"]): r
            for r in archive.read(REPOSITORY / "reports" / profile / "runs.csv")
        }
        grid = experiments.table1(
            profile, profiles.datasets(profile), list(profiles.METHODS), list(range(profiles.SEEDS))
        )
        configs = [row["config"] for row in grid]
        labels = [{k: v for k, v in row.items() if k != "config"} for row in grid]
        frame = grids.frame(configs, [records.get(config) for config in configs], labels)
        _, texts = tables.recall(statistics.with_untrained(frame), list(COLUMNS))
        parts += [
            f"\n### On the {profile} profile\n",
            f"Test images after the last epoch, %, mean ± 95 % interval over the seeds ([report](reports/{profile}/recall_at_k.html), "
            f"[claims](reports/{profile}/claims.html)):\n",
            markdown(texts.rename(columns=COLUMNS).reset_index()),
            *(line + "\n" for line in said(frame)),
            *(
                f"![Recall@1 by epoch on {d}, test and training classes](reports/{profile}/learning_curves-{d}-{profile}.svg)\n"
                for d in profiles.datasets(profile)
            ),
            f"Training: {trained(list(records.values()))}.\n",
        ]
    return "\n".join(parts) + "\n"


def markdown(table: pd.DataFrame) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def said(frame: pd.DataFrame) -> list[str]:
    """MDR's paired differences in Recall@1 of each dataset, at the last epoch and at the best one."""
    ways = {
        "after the last epoch": statistics.final(frame),
        "with every run at its best epoch on the test classes": statistics.best(
            frame, statistics.RECALL
        ),
    }
    lines = {}
    for way, chosen in ways.items():
        for dataset, group in tables.differences(chosen).groupby("dataset", sort=False):
            lines.setdefault(dataset, []).append(f"{way}, {tables.clause(group)}")
    return [
        f"**{dataset}**, points of Recall@1, paired by seed: " + "; ".join(found) + "."
        for dataset, found in lines.items()
    ]


def trained(records: list[dict]) -> str:
    """How much work the runs were. By each run's fastest epoch, since others may have waited for something else."""
    epochs = [
        pd.Series([row["seconds"] for row in r["history"] if row["epoch"] > 0]) for r in records
    ]
    return f"{len(epochs)} runs, about {sum(of_run.min() * len(of_run) for of_run in epochs) / 3600:.1f} core hours in all"


if __name__ == "__main__":
    readme = REPOSITORY / "README.md"
    readme.write_text(
        BLOCK.sub(lambda _: results(), readme.read_text(encoding="utf-8")), encoding="utf-8"
    )

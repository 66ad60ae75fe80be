"""The README's results, from the committed runs: ``python -m mdr_core readme`` writes them."""

import re

import pandas as pd

from mdr_core.config import from_dict
from mdr_core.files import REPOSITORY, write
from mdr_core.report import tables
from mdr_core.runs import grids
from mdr_core.study import archive, experiments, profiles, statistics

COLUMNS = {f"test_recall@{k}": f"R@{k}" for k in (1, 2, 4, 8)} | {
    "test_recall@1_l2": "R@1 on L2",
    "test_r_precision": "R-precision",
    "test_map_at_r": "MAP@R",
}
BLOCK = re.compile(r"(?<=<!-- results -->\n).*(?=<!-- end of results -->)", re.DOTALL)


def results() -> str:
    """Return a table, sentences and figures for every profile whose runs are committed."""
    parts = []
    for profile in ("photos", "quick"):
        path = REPOSITORY / "reports" / profile / "runs.csv"
        if path.exists():
            parts += of_profile(profile, archive.read(path))
    return "\n".join(parts) + "\n"


def of_profile(profile: str, records: list[dict]) -> list[str]:
    by_config = {from_dict(record["config"]): record for record in records}
    names, page = profiles.datasets(profile), f"reports/{profile}"
    grid = experiments.table1(profile, names, list(profiles.METHODS), [*range(profiles.SEEDS)])
    configs = [row.pop("config") for row in grid]
    frame = grids.frame(configs, [by_config.get(config) for config in configs], grid)
    table = tables.summary(statistics.with_untrained(frame), COLUMNS).reset_index()
    return [
        f"\n### On the {profile} profile\n",
        "Test images after the last epoch, %, mean ± 95 % interval over the seeds "
        f"([report]({page}/recall_at_k.html), [claims]({page}/claims.html)):\n",
        markdown(table),
        *(line + "\n" for line in differences(frame)),
        *(
            f"![Recall@1 by epoch on {name}, test and training classes]"
            f"({page}/learning_curves-{name}-{profile}.svg)\n"
            for name in names
        ),
        f"Training: {trained(records)}.\n",
    ]


def markdown(table: pd.DataFrame) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows) + "\n"


def differences(frame: pd.DataFrame) -> list[str]:
    """Return MDR's paired differences in words, at the last epoch and at the best one."""
    last = tables.in_words(tables.differences(statistics.final(frame)))
    best = tables.in_words(tables.differences(statistics.best(frame, statistics.RECALL)))
    return [
        f"Points of Recall@1 after the last epoch, paired by seed: {last}.",
        f"With every run at its best epoch on the test classes: {best}.",
    ]


def trained(records: list[dict]) -> str:
    """Return how much work the runs were, by each run's fastest epoch: others may have waited."""
    seconds = 0.0
    for record in records:
        epochs = [row["seconds"] for row in record["history"] if row["epoch"] > 0]
        seconds += min(epochs) * len(epochs)
    return f"{len(records)} runs, about {seconds / 3600:.1f} core hours in all"


def main(argv: list[str] | None = None) -> int:
    """Write the results into the README."""
    path = REPOSITORY / "README.md"
    write(path, BLOCK.sub(lambda _: results(), path.read_text(encoding="utf-8")))
    return 0

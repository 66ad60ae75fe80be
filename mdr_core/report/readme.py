"""The README's results and profiles, from the committed runs: ``python -m mdr_core readme``."""

import re

import pandas as pd

from mdr_core.files import REPOSITORY
from mdr_core.report import frames
from mdr_core.runs import committed
from mdr_core.study import claims, experiments, profiles, statistics
from mdr_core.study.profiles import L2, MDR, METHODS, PROFILES, TRIPLET
from mdr_core.study.statistics import RECALL

README = REPOSITORY / "README.md"
TITLES = {"cub200": "CUB-200-2011", "cars196": "Cars-196", "cub50": "CUB-50", "drawn": "drawn"}
BLOCK = r"(?<=<!-- {0} -->\n).*(?=<!-- end of {0} -->)"


def blocks() -> dict[str, str]:
    """Return the README's generated parts by name."""
    return {"results": results(), "profiles": sizes()}


def results() -> str:
    """Return the headline's table, differences and figure, and a line on the other profiles."""
    frame = table1("full")
    last, best = statistics.final(frame), statistics.best(frame, RECALL)
    by = ["dataset", "method"]
    numbers = last.groupby(by, sort=False)[[RECALL, "test_map_at_r"]].mean()
    numbers.insert(1, "best", best.groupby(by, sort=False)[RECALL].mean())
    rows = [
        [TITLES[dataset], method, *(f"{number:.1f}" for number in row)]
        for (dataset, method), row in zip(numbers.index, numbers.to_numpy(), strict=True)
    ]
    columns = [*by, "Recall@1, last epoch", "best epoch", "MAP@R, last epoch"]
    own = profiles.datasets("full")
    lines = [f"- **{TITLES[d]}**, last epoch: {differences(last, d)}." for d in own]
    others = [
        f"- **{TITLES[dataset]}**, in miniature (`{name}`), last epoch: "
        f"{differences(statistics.final(table1(name)), dataset)}."
        for name in ("photos", "quick")
        for dataset in profiles.datasets(name)
    ]
    return "\n".join([
        "Results on test images in %, EfficientNet-Lite0, 5,000 steps, one seed "
        "([report](reports/full/recall_at_k.html), [claims](reports/full/claims.html)):\n",
        markdown(columns, rows),
        *lines,
        *others,
        "",
        "![Recall@1 by epoch on CUB-200-2011](reports/full/learning_curves-cub200-full.svg)\n",
    ])  # fmt: skip


def table1(profile: str) -> pd.DataFrame:
    """Return the committed runs of Table 1 as a frame, with right answers by class."""
    seeds = list(range(PROFILES[profile].seeds))
    grid = experiments.table1(profile, profiles.datasets(profile), list(METHODS), seeds)
    records = [committed.find(row["config"]) for row in grid]
    return frames.with_counts(frames.labeled(grid, records), records)


def differences(last: pd.DataFrame, dataset: str) -> str:
    """Return MDR's differences in words, with the interval over the test classes and over seeds."""
    results = claims.compared(last[last.dataset == dataset], MDR, counts="test_class_right")
    found = {result.claim.other: result for result in results}
    return ", ".join(f"{found[m].claim.text} {found[m].cells[0].text()}" for m in (L2, TRIPLET))


def sizes() -> str:
    """Return the table of profiles."""
    rows = [
        [f"`{name}`", own.purpose, ", ".join(own.settings), own.network, own.time]
        for name, own in PROFILES.items()
    ]
    return markdown(["profile", "what it is for", "data", "network", "time"], rows)


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """Return a table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def replaced(text: str, name: str, block: str) -> str:
    """Return the README with a generated part written anew."""
    return re.sub(BLOCK.format(name), lambda _: block, text, flags=re.DOTALL)


def main(argv: list[str] | None = None) -> int:
    text = README.read_text(encoding="utf-8")
    for name, block in blocks().items():
        text = replaced(text, name, block)
    README.write_text(text, encoding="utf-8")
    return 0

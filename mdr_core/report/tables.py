"""Tables of the reports. Cells hold numbers and intervals; they become text when they are shown.

A run that is not stored has a row without numbers (:func:`mdr_core.runs.run.frame`). It counts in
no mean. An interval without a run reads "not run".
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from mdr_core.report.pages.html_table import styled as styled
from mdr_core.study import claims, statistics
from mdr_core.study.claims import short
from mdr_core.study.profiles import BEFORE, MDR, TRIPLET
from mdr_core.study.statistics import NOT_RUN, ONE_SEED, RECALL, Interval, number

NOTHING = "no method is compared with MDR"


def interval(values: Iterable[float]) -> Interval:
    """Return the mean of one number per seed with its interval; NaN does not count."""
    found = statistics.interval(values)
    return Interval(found["mean"], found["half"], int(found["n"]))


def difference(
    frame: pd.DataFrame, column: str, one: str, other: str, value: str = RECALL
) -> Interval:
    """Return ``one`` − ``other`` (two values of ``column``), paired by seed."""
    pair = statistics.paired(frame, value, column, one, other)
    return interval(pair[one] - pair[other])


def summary(
    frame: pd.DataFrame, values: dict[str, str], by: Sequence[str] = ("dataset", "method")
) -> pd.DataFrame:
    """Return intervals over the seeds, a row for each group; None where no run has the value.

    Args:
        values: columns of ``frame`` and how the table calls them.
    """
    rows = {}
    for key, group in frame.groupby(list(by), sort=False):
        stored = statistics.ran(group)
        cells = {name: interval(stored.get(value, [])) for value, name in values.items()}
        rows[key] = {name: c if c.n or stored.empty else None for name, c in cells.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", dtype=object).rename_axis(list(by))
    return table.loc[list(frame[by[0]].unique())]


def best_of_dataset(
    table: pd.DataFrame, digits: int = 1, smallest: Sequence[str] = ()
) -> pd.DataFrame:
    """Return True where a mean is its dataset's and column's best; a tie is several.

    One seed, or a number that is no mean, is never the best.

    Args:
        digits: shown; numbers equal in them are a tie.
        smallest: columns whose smallest number is the best.
    """
    means = table.map(lambda cell: cell.mean if isinstance(cell, Interval) else cell)
    numbers = means.astype(float).round(digits)
    numbers[list(smallest)] *= -1
    grouped = "dataset" in table.index.names
    largest = numbers.groupby(level="dataset").transform("max") if grouped else numbers.max()
    several = table.map(lambda cell: isinstance(cell, Interval) and cell.n > 1)
    found = (numbers == largest) & several
    found.attrs["bold"] = f"Bold: the best{' of each dataset' * grouped}."
    return found


def differences(frame: pd.DataFrame, value: str = RECALL) -> pd.DataFrame:
    """Return MDR − every other method by dataset, paired by seed."""
    rows = []
    for dataset, group in frame.groupby("dataset", sort=False):
        methods = list(group.method.unique())
        for other in methods:
            if MDR in methods and other != MDR:
                found = difference(group, "method", MDR, other, value)
                rows.append((dataset, f"MDR − {short(other)}", found, found.verdict))
    return pd.DataFrame(rows, columns=["dataset", "compared", "difference", "verdict"])


def gains(frame: pd.DataFrame, by: str, one: str, other: str) -> pd.DataFrame:
    """Return two methods' Recall@1 for every value of ``by``, and their difference, paired by seed.

    Recall@1 before fine-tuning comes first where the frame (a row per run) has it.
    """
    methods = [m for m in (BEFORE, other, one) if m in set(frame.method)]
    rows = []
    for name, group in frame.groupby(by, sort=False):
        row = {by: name} | {m: interval(group[group.method == m][RECALL]) for m in methods}
        found = difference(group, "method", one, other)
        rows.append(row | {"difference": found, "verdict": found.verdict})
    return pd.DataFrame(rows)


def of_claims(table: pd.DataFrame, pages: Iterable[str] = ()) -> pd.DataFrame:
    """Return :func:`mdr_core.study.claims.table` as a reader wants it.

    Columns that say nothing are left out, and reports with pages are links. Claims with several
    cells are titles of groups of rows.
    """
    numbers = zip(table.difference, table.half, table.seeds, strict=True)
    classes = []
    for row in table.itertuples():
        fewer = f" ({row.classes_seeds} seeds)" * (row.classes_seeds < row.seeds)
        ends = f"{number(row.classes_low)} to {number(row.classes_high)}{fewer}"
        classes.append(ends if row.classes_seeds else "")
    one = (table.seeds == 1) & (table.classes_seeds == 1) & (table.verdict != claims.NOT_TESTED)
    shown = pd.DataFrame({
        "claim": table.claim,
        "on": table.cell,
        "verdict": table.verdict.where(~one, table.verdict + f" ({ONE_SEED})"),
        "difference": [Interval(*each) for each in numbers],
        "over test classes": classes,
        "unit": table.unit,
        "why not": table.reason,
        "evidence": [f"{name}.html" if name in pages else name for name in table.report],
    })  # fmt: skip
    idle = [name for name in ("over test classes", "why not") if not shown[name].any()]
    idle += ["unit"] if set(shown.unit) == {"points"} else []
    shown = shown.drop(columns=idle).reset_index(drop=True)
    return shown.set_index(["claim", "on"]) if shown.claim.duplicated().any() else shown


def verdicts(results: Sequence[claims.Result]) -> list[tuple[str, str]]:
    """Return (verdict, words) of each claim; of more than four, how many have each verdict."""
    if len(results) <= 4:
        return [(each.verdict, f"{each.claim.text}: {each.told}") for each in results]
    return list(claims.tally(each.verdict for each in results).items())


def better_side(table: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    """Return True in a table of :func:`gains` where a side is significantly better."""
    side = table.verdict.map({"larger": one, "smaller": other})
    found = pd.DataFrame({column: side == column for column in table}, index=table.index)
    found.attrs["bold"] = "Bold: the better side, where the difference is significant."
    return found


def against(frame: pd.DataFrame, column: str, standard: str) -> pd.DataFrame:
    """Return Recall@1 of every value of ``column`` and its difference to ``standard``'s, paired."""
    rows = []
    for name, group in frame.groupby(column, sort=False):
        own, found = interval(group[RECALL]), None
        if name != standard or not own.n:
            found = difference(frame, column, name, standard)
        verdict = found.verdict if found else "the standard"
        rows.append({column: name, "Recall@1": own, "difference": found, "verdict": verdict})
    return pd.DataFrame(rows)


def searched(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the search's final Recall@1 in % by dataset and learning rate; NaN where not run.

    Each method has a column on the held-out training classes and one on the test classes.
    """
    last = statistics.final(frame).assign(method=lambda runs: runs.method.map(short))
    classes = {"held_out_recall@1": "held out", RECALL: "test"}
    names = {f"{m}, {name}": (v, m) for v, name in classes.items() for m in last.method.unique()}
    found = last.pivot(index=["dataset", "lr"], columns="method", values=list(classes))
    return found.loc[list(frame.dataset.unique()), list(names.values())].set_axis([*names], axis=1)


def preferred(frame: pd.DataFrame, used: pd.Series) -> str:
    """Return a sentence: where the search prefers another rate than the one ``used`` on a dataset.

    A method counts where each of its rates was run.
    """
    last = statistics.final(frame).assign(method=lambda runs: runs.method.map(short))
    whole = last.groupby(["dataset", "method"], sort=False).filter(
        lambda runs: len(statistics.ran(runs)) == len(runs)
    )
    if whole.empty:
        return ""
    groups = whole.groupby(["dataset", "method"], sort=False)
    chosen = whole.loc[groups["held_out_recall@1"].idxmax()]
    others = chosen[chosen.lr != chosen.dataset.map(used)]
    found = [
        f"on {name} {lr:g} instead of {used[name]:g} for {', '.join(runs.method)}"
        for (name, lr), runs in others.groupby(["dataset", "lr"], sort=False)
    ]
    search = "The search" if len(whole) == len(last) else "Where each rate was run, the search"
    return f"{search} would have chosen {'; '.join(found) or 'the same rates'}."


def undone(frame: pd.DataFrame) -> str:
    """Return a sentence on each dataset where the triplet loss ends below its start."""
    means = frame.groupby(["dataset", "method"], sort=False)[RECALL].mean().unstack()
    means = means.reindex(columns=[BEFORE, TRIPLET]).dropna()
    return " ".join(
        f"On {name} the triplet loss ends at {after:.1f} %, below {before:.1f} % before "
        "fine-tuning: the gain over it is in part damage undone."
        for name, (before, after) in means.iterrows()
        if after < before
    )


def means_in_words(frame: pd.DataFrame, value: str = RECALL, digits: int = 1) -> str:
    """Return every method's mean as text: ``cub50: Triplet 40.4, L2 50.0, MDR 53.4; ...``."""
    clauses = []
    for dataset, group in frame.groupby("dataset", sort=False):
        each = []
        for method, runs in group.groupby("method", sort=False):
            stored = statistics.ran(runs)
            mean = NOT_RUN if stored.empty else f"{stored[value].mean():.{digits}f}"
            each.append(f"{short(method)} {mean}")
        clauses.append(f"{dataset}: {', '.join(each)}")
    return "; ".join(clauses)


def length(frame: pd.DataFrame) -> str:
    """Return how long the runs were trained: ``18 epochs``."""
    return f"{', '.join(str(n) for n in sorted(frame.epochs.unique()))} epochs"


def seeds(frame: pd.DataFrame) -> str:
    """Return how many seeds of each setting are stored: ``5 seeds``, ``2 to 5 seeds``."""
    counts = statistics.ran(frame).groupby(statistics.labels(frame), sort=False).seed.nunique()
    least, most = counts.min(), counts.max()
    if least < most:
        return f"{least} to {most} seeds"
    return "1 seed" if most == 1 else f"{most} seeds"


def over_seeds(frame: pd.DataFrame) -> str:
    """Return what a table of means shows: ``mean ± 95 % interval over 5 seeds``, or ``1 seed``."""
    count = seeds(frame)
    return count if count == "1 seed" else f"mean ± 95 % interval over {count}"


def caveat(frame: pd.DataFrame) -> str:
    """Return a sentence about one seed, to end a finding that counts differences; else ""."""
    one = statistics.ran(frame).seed.nunique() < 2
    return " One seed has no interval and decides no difference." if one else ""


def save(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV; an interval becomes its mean, its half width and its n."""
    columns: dict = {}
    for name, cells in table.items():
        columns[name] = cells
        if any(isinstance(cell, Interval) for cell in cells):
            for label, field in (("", "mean"), (" half width", "half"), (" n", "n")):
                numbers = pd.Series([getattr(c, field, None) for c in cells], table.index)
                columns[f"{name}{label}"] = numbers.astype("Int64") if field == "n" else numbers
    named_rows = not isinstance(table.index, pd.RangeIndex)
    pd.DataFrame(columns).to_csv(path, index=named_rows, lineterminator="\n")

"""Tables for the reports: mean ± 95 % interval over the seeds, from a table with a row per run and epoch.

A run that is not stored has one row without numbers there (:func:`mdr_core.runs.grids.frame`): it counts in no mean, and a cell that no
run stands behind says statistics.NOT_RUN.
"""

from pathlib import Path

import pandas as pd

from mdr_core.study import statistics

UNDECIDED = "not told from zero"  # said of a difference whose interval holds zero
NOTHING = "no method is held against MDR"  # said where it is alone, or not there


def short(method: str) -> str:
    """``MDR`` of ``Triplet + MDR``: as it is called where it is held against another."""
    return method.removeprefix("Triplet + ")


def clause(differences: pd.DataFrame) -> str:
    """One dataset's :func:`differences` in words: ``MDR less Triplet +13.0 ± 1.0, MDR less L2 ...``."""
    return ", ".join(
        f"{d.difference} {d.points}" + f" ({UNDECIDED})" * (d.verdict == UNDECIDED)
        for d in differences.itertuples()
    )


def told(differences: pd.DataFrame) -> str:
    """:func:`differences` as a :func:`clause` per dataset: ``cub50: MDR less Triplet +13.0 ± 1.0, ...; cars196: ...``."""
    clauses = [
        f"{dataset}: {clause(group)}"
        for dataset, group in differences.groupby("dataset", sort=False)
    ]
    return "; ".join(clauses) or NOTHING


def means(frame: pd.DataFrame, value: str = statistics.RECALL, digits: int = 1) -> str:
    """Every method's mean, a clause per dataset: ``cub50: Triplet 40.4, L2 50.0, MDR 53.4``."""
    mean = lambda g: (
        f"{g[value].mean():.{digits}f}" if len(statistics.ran(g)) else statistics.NOT_RUN
    )
    return "; ".join(
        f"{dataset}: "
        + ", ".join(
            f"{short(method)} {mean(g)}" for method, g in group.groupby("method", sort=False)
        )
        for dataset, group in frame.groupby("dataset", sort=False)
    )


def length(frame: pd.DataFrame) -> str:
    """How long the runs were trained: ``18 epochs``."""
    return f"{', '.join(str(n) for n in sorted(frame.epochs.unique()))} epochs"


def seeds(frame: pd.DataFrame) -> str:
    """Return how many seeds were run of each setting: ``5``, or ``2 to 5`` where the settings have not the same number."""
    counts = statistics.ran(frame).groupby(statistics.labels(frame), sort=False).seed.nunique()
    return " to ".join(str(n) for n in sorted({counts.min(), counts.max()}))


def caveat(frame: pd.DataFrame) -> str:
    """A sentence to end a finding that counts differences: what one seed cannot do. Of several seeds, nothing."""
    return (
        " One seed has no interval and decides no difference."
        if statistics.ran(frame).seed.nunique() < 2
        else ""
    )


def verdict(difference: dict[str, float]) -> str:
    """``larger``, ``smaller`` or UNDECIDED, of a paired difference; statistics.NOT_RUN where there is no pair of runs."""
    if not difference["n"]:
        return statistics.NOT_RUN
    return (
        ("larger" if difference["mean"] > 0 else "smaller")
        if difference["excludes_zero"]
        else UNDECIDED
    )


def recall(
    frame: pd.DataFrame, values: list[str], digits: int = 1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means and texts ``mean ± half`` of columns ``values``, a row per dataset and method. Runs that lack a value do not count: where
    all that were run lack it, it does not apply, and its cell is empty."""
    means, texts = {}, {}
    for dataset, of_dataset in frame.groupby("dataset", sort=False):
        for method, group in of_dataset.groupby("method", sort=False):
            found, lacking = (
                statistics.ran(group),
                "" if len(statistics.ran(group)) else statistics.NOT_RUN,
            )
            figures = {v: statistics.interval(found.get(v, [])) for v in values}
            means[dataset, method] = {v: f["mean"] for v, f in figures.items()}
            texts[dataset, method] = {
                v: statistics.said(f, digits=digits) if f["n"] else lacking
                for v, f in figures.items()
            }
    build = lambda rows: pd.DataFrame.from_dict(rows, orient="index").rename_axis(
        ["dataset", "method"]
    )
    return build(means), build(texts)


def best_of_dataset(means: pd.DataFrame) -> pd.DataFrame:
    """True where a mean is its dataset's and column's largest."""
    return means == means.groupby(level="dataset").transform("max")


def differences(
    frame: pd.DataFrame, one: str = "Triplet + MDR", value: str = statistics.RECALL
) -> pd.DataFrame:
    """``one`` minus every other method, paired by seed: dataset, difference, points, n, verdict."""
    rows = []
    for dataset, group in frame.groupby("dataset", sort=False):
        for other in [m for m in group.method.unique() if m != one and one in set(group.method)]:
            d = statistics.paired_difference(group, value, "method", one, other)
            rows.append(
                {
                    "dataset": dataset,
                    "difference": f"{short(one)} less {short(other)}",
                    "points": statistics.said(d, sign=True),
                    "n": d["n"],
                    "verdict": verdict(d),
                }
            )
    return pd.DataFrame(rows, columns=["dataset", "difference", "points", "n", "verdict"])


def gains(
    frame: pd.DataFrame, by: str, one: str, other: str, value: str = statistics.RECALL
) -> pd.DataFrame:
    """Two methods side by side for every value of ``by``, and their paired difference.

    Args:
        frame: a row per run (its final epoch), with columns ``by``, ``method`` and ``seed``.

    Returns:
        ``by``, (``Untrained``, where the frame has it,) ``other``, ``one``, ``difference``, ``n``, ``verdict``, all text but n;
        and the difference's ``mean`` and ``half``.
    """
    rows, methods = [], [m for m in ("Untrained", other, one) if m in set(frame.method)]
    for name, group in frame.groupby(by, sort=False):
        d = statistics.paired_difference(group, value, "method", one, other)
        sides = {
            m: statistics.said(statistics.interval(group[group.method == m][value]))
            for m in methods
        }
        rows.append(
            {by: name}
            | sides
            | {
                "difference": statistics.said(d, sign=True),
                "n": d["n"],
                "verdict": verdict(d),
                "mean": d["mean"],
                "half": d["half"],
            }
        )
    return pd.DataFrame(rows)


def better_side(table: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    """True in a table of :func:`gains` where the side is told to be the better one."""
    side = table.verdict.map({"larger": one, "smaller": other})
    return pd.DataFrame({column: side == column for column in table}, index=table.index)


def against(
    frame: pd.DataFrame, column: str, standard: str, value: str = statistics.RECALL
) -> pd.DataFrame:
    """Every value of ``column`` and its paired difference to ``standard``: as :func:`gains`, a row per value."""
    rows = []
    for name, group in frame.groupby(column, sort=False):
        own = statistics.interval(group[value])
        d = (
            statistics.paired_difference(frame, value, column, name, standard)
            if name != standard or not own["n"]
            else None
        )
        rows.append(
            {
                column: name,
                "Recall@1": statistics.said(own),
                "n": own["n"],
                f"less {standard}": statistics.said(d, sign=True) if d else "",
                "verdict": verdict(d) if d else "the standard",
                "mean": d["mean"] if d else 0.0,
                "half": d["half"] if d else 0.0,
            }
        )
    return pd.DataFrame(rows)


def choices(frame: pd.DataFrame, held: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the choice of an epoch is worth: test Recall@1 under each way to choose, means and texts, a row per dataset and method.

    ``held`` are the runs with classes held out; none may have been asked for, or stored.
    """
    ways = {
        "final epoch": statistics.final(frame),
        "best on test classes": statistics.best(frame, statistics.RECALL),
    }
    if len(statistics.ran(held)):
        ways |= {
            "held-out run, chosen epoch": statistics.best(held, "held_out_recall@1"),
            "held-out run, final epoch": statistics.final(held),
        }
    found = {name: recall(chosen, [statistics.RECALL]) for name, chosen in ways.items()}
    return pd.DataFrame({k: v[0][statistics.RECALL] for k, v in found.items()}), pd.DataFrame(
        {k: v[1][statistics.RECALL] for k, v in found.items()}
    )


def searched(frame: pd.DataFrame) -> pd.DataFrame:
    """What the search found: statistics.final Recall@1 in percent by dataset and learning rate, of each method on the classes held out of the
    training, which the search goes by, and then on the test classes, which show what it would have changed. NaN: not run."""
    last = statistics.final(frame).assign(method=lambda runs: runs.method.map(short))
    found = last.pivot(
        index=["dataset", "lr"], columns="method", values=["held_out_recall@1", statistics.RECALL]
    ).loc[list(frame.dataset.unique())]
    judged = {"held_out_recall@1": "held out", statistics.RECALL: "test"}
    columns = {
        (value, m): f"{m}, {words}" for value, words in judged.items() for m in last.method.unique()
    }
    return found[list(columns)].set_axis(list(columns.values()), axis=1)


def preferred(frame: pd.DataFrame, used: pd.Series) -> str:
    """Where the search prefers another rate than the one that was ``used`` (by dataset), in words; ``frame`` as for :func:`searched`.
    A method counts where each of its rates was run; of none there is nothing to say."""
    last = statistics.final(frame).assign(method=lambda runs: runs.method.map(short))
    whole = last.groupby(["dataset", "method"], sort=False).filter(
        lambda runs: len(statistics.ran(runs)) == len(runs)
    )
    if whole.empty:
        return ""
    best = whole.loc[whole.groupby(["dataset", "method"], sort=False)["held_out_recall@1"].idxmax()]
    others = best[best.lr != best.dataset.map(used)].groupby(["dataset", "lr"], sort=False)
    told = [
        f"on {d} {lr:g} instead of {used[d]:g} for {', '.join(runs.method)}"
        for (d, lr), runs in others
    ]
    search = "The search" if len(whole) == len(last) else "Where each rate was run, the search"
    return f"{search} would have chosen {'; '.join(told) or 'the same rates'}."


def save(texts: pd.DataFrame, folder: Path | None, name: str) -> None:
    """The table as <folder>/<name>.csv; without a folder nothing is saved."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        texts.to_csv(
            folder / f"{name}.csv",
            index=not isinstance(texts.index, pd.RangeIndex),
            lineterminator="\n",
        )

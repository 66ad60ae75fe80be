"""Tables for the reports: mean ± 95 % interval over the seeds, from a table with a row per run and epoch.

A run that is not stored has one row without numbers there (:func:`mdr_core.grids.frame`): it counts in no mean, and a cell that no
run stands behind says NOT_RUN.
"""

from pathlib import Path

import pandas as pd

from mdr_core import stats

RECALL = "test_recall@1"  # the study's one headline figure
UNDECIDED = "not told from zero"  # said of a difference whose interval holds zero
NOT_RUN = "not run"  # said where no run is stored, in place of a number or a verdict
NOTHING = "no method is held against MDR"  # said where it is alone, or not there


def said(figure: dict[str, float], sign: bool = False, digits: int = 1) -> str:
    """``63.1 ± 0.8``; one seed has no interval and says so; NOT_RUN where there is none."""
    if not figure["n"]:
        return NOT_RUN
    mean = f"{figure['mean']:{'+' if sign else ''}.{digits}f}"
    return f"{mean} ± {figure['half']:.{digits}f}" if figure["half"] == figure["half"] else f"{mean} (n = {figure['n']})"


def short(method: str) -> str:
    """``MDR`` of ``Triplet + MDR``: as it is called where it is held against another."""
    return method.removeprefix("Triplet + ")


def clause(differences: pd.DataFrame) -> str:
    """One dataset's :func:`differences` in words: ``MDR less Triplet +13.0 ± 1.0, MDR less L2 ...``."""
    return ", ".join(f"{d.difference} {d.points}" + f" ({UNDECIDED})" * (d.verdict == UNDECIDED) for d in differences.itertuples())


def told(differences: pd.DataFrame) -> str:
    """:func:`differences` as a :func:`clause` per dataset: ``cub50: MDR less Triplet +13.0 ± 1.0, ...; cars196: ...``."""
    clauses = [f"{dataset}: {clause(group)}" for dataset, group in differences.groupby("dataset", sort=False)]
    return "; ".join(clauses) or NOTHING


def means(frame: pd.DataFrame, value: str = RECALL, digits: int = 1) -> str:
    """Every method's mean, a clause per dataset: ``cub50: Triplet 40.4, L2 50.0, MDR 53.4``."""
    mean = lambda g: f"{g[value].mean():.{digits}f}" if len(stats.ran(g)) else NOT_RUN  # noqa: E731
    return "; ".join(
        f"{dataset}: " + ", ".join(f"{short(method)} {mean(g)}" for method, g in group.groupby("method", sort=False))
        for dataset, group in frame.groupby("dataset", sort=False)
    )


def length(frame: pd.DataFrame) -> str:
    """How long the runs were trained: ``18 epochs``."""
    return f"{', '.join(str(n) for n in sorted(frame.epochs.unique()))} epochs"


def seeds(frame: pd.DataFrame) -> str:
    """Return how many seeds were run of each setting: ``5``, or ``2 to 5`` where the settings have not the same number."""
    counts = stats.ran(frame).groupby(labels(frame), sort=False).seed.nunique()
    return " to ".join(str(n) for n in sorted({counts.min(), counts.max()}))


def first_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the stored rows of one seed of each dataset: the first among those of which the most methods are stored."""
    found = stats.ran(frame)
    methods = found.groupby(["dataset", "seed"]).method.transform("nunique")
    found = found[methods == methods.groupby(found.dataset).transform("max")]
    return found[found.seed == found.groupby("dataset").seed.transform("first")]


def caveat(frame: pd.DataFrame) -> str:
    """A sentence to end a finding that counts differences: what one seed cannot do. Of several seeds, nothing."""
    return " One seed has no interval and decides no difference." if stats.ran(frame).seed.nunique() < 2 else ""


def verdict(difference: dict[str, float]) -> str:
    """``larger``, ``smaller`` or UNDECIDED, of a paired difference; NOT_RUN where there is no pair of runs."""
    if not difference["n"]:
        return NOT_RUN
    return ("larger" if difference["mean"] > 0 else "smaller") if difference["excludes_zero"] else UNDECIDED


def labels(frame: pd.DataFrame) -> list[str]:
    """The columns that tell one setting from another."""
    return [c for c in ("dataset", "method", "backbone", "loss_name", "setting", "dimension") if c in frame]


def by_run(frame: pd.DataFrame):
    """Rows grouped by run; ``labels`` of a grid may name one stored run twice, so labels count too."""
    return frame.groupby([*labels(frame), "key"], sort=False)


def final(frame: pd.DataFrame) -> pd.DataFrame:
    """The last epoch of every run: the study's headline."""
    return frame.loc[by_run(frame).epoch.idxmax()]


def best(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """Of every run the trained epoch with the largest ``by``; of a run that is not stored its one row."""
    trained = frame[frame.epoch > 0]
    return trained.loc[by_run(trained.fillna({by: float("-inf")}))[by].idxmax()]


def past_best(frame: pd.DataFrame) -> pd.Series:
    """For every row, how far its test Recall@1 lies below its run's best trained epoch, in points; NaN at epoch 0."""
    return by_run(frame[frame.epoch > 0])[RECALL].transform("max") - frame[RECALL]


def with_untrained(frame: pd.DataFrame) -> pd.DataFrame:
    """The final epochs, led by the untrained embedding: epoch 0 of the first stored method (the first whose embedding is raw, if any
    is), setting by setting and seed by seed."""
    start = stats.ran(frame)[lambda f: f.epoch == 0]
    raw = start[start.normalization != "l2"]
    first = start if raw.empty else raw
    own = [c for c in (*labels(frame), "seed") if c in frame and c != "method"]
    untrained = first.drop_duplicates(own) if own else first
    return pd.concat([untrained.assign(method="Untrained"), final(frame)])


def recall(frame: pd.DataFrame, values: list[str], digits: int = 1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means and texts ``mean ± half`` of columns ``values``, a row per dataset and method. Runs that lack a value do not count: where
    all that were run lack it, it does not apply, and its cell is empty."""
    means, texts = {}, {}
    for dataset, of_dataset in frame.groupby("dataset", sort=False):
        for method, group in of_dataset.groupby("method", sort=False):
            found, lacking = stats.ran(group), "" if len(stats.ran(group)) else NOT_RUN
            figures = {v: stats.interval(found.get(v, [])) for v in values}
            means[dataset, method] = {v: f["mean"] for v, f in figures.items()}
            texts[dataset, method] = {v: said(f, digits=digits) if f["n"] else lacking for v, f in figures.items()}
    build = lambda rows: pd.DataFrame.from_dict(rows, orient="index").rename_axis(["dataset", "method"])  # noqa: E731
    return build(means), build(texts)


def best_of_dataset(means: pd.DataFrame) -> pd.DataFrame:
    """True where a mean is its dataset's and column's largest."""
    return means == means.groupby(level="dataset").transform("max")


def differences(frame: pd.DataFrame, one: str = "Triplet + MDR", value: str = RECALL) -> pd.DataFrame:
    """``one`` minus every other method, paired by seed: dataset, difference, points, n, verdict."""
    rows = []
    for dataset, group in frame.groupby("dataset", sort=False):
        for other in [m for m in group.method.unique() if m != one and one in set(group.method)]:
            d = stats.paired_difference(group, value, "method", one, other)
            rows.append({"dataset": dataset, "difference": f"{short(one)} less {short(other)}", "points": said(d, sign=True), "n": d["n"],
                         "verdict": verdict(d)})
    return pd.DataFrame(rows, columns=["dataset", "difference", "points", "n", "verdict"])


def gains(frame: pd.DataFrame, by: str, one: str, other: str, value: str = RECALL) -> pd.DataFrame:
    """Two methods side by side for every value of ``by``, and their paired difference.

    Args:
        frame: a row per run (its final epoch), with columns ``by``, ``method`` and ``seed``.

    Returns:
        ``by``, (``Untrained``, where the frame has it,) ``other``, ``one``, ``difference``, ``n``, ``verdict``, all text but n;
        and the difference's ``mean`` and ``half``.
    """
    rows, methods = [], [m for m in ("Untrained", other, one) if m in set(frame.method)]
    for name, group in frame.groupby(by, sort=False):
        d = stats.paired_difference(group, value, "method", one, other)
        sides = {m: said(stats.interval(group[group.method == m][value])) for m in methods}
        rows.append({by: name} | sides | {"difference": said(d, sign=True), "n": d["n"], "verdict": verdict(d),
                                          "mean": d["mean"], "half": d["half"]})
    return pd.DataFrame(rows)


def better_side(table: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    """True in a table of :func:`gains` where the side is told to be the better one."""
    side = table.verdict.map({"larger": one, "smaller": other})
    return pd.DataFrame({column: side == column for column in table}, index=table.index)


def against(frame: pd.DataFrame, column: str, standard: str, value: str = RECALL) -> pd.DataFrame:
    """Every value of ``column`` and its paired difference to ``standard``: as :func:`gains`, a row per value."""
    rows = []
    for name, group in frame.groupby(column, sort=False):
        own = stats.interval(group[value])
        d = stats.paired_difference(frame, value, column, name, standard) if name != standard or not own["n"] else None
        rows.append({column: name, "Recall@1": said(own), "n": own["n"],
                     f"less {standard}": said(d, sign=True) if d else "", "verdict": verdict(d) if d else "the standard",
                     "mean": d["mean"] if d else 0.0, "half": d["half"] if d else 0.0})
    return pd.DataFrame(rows)


def choices(frame: pd.DataFrame, held: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the choice of an epoch is worth: test Recall@1 under each way to choose, means and texts, a row per dataset and method.

    ``held`` are the runs with classes held out; none may have been asked for, or stored.
    """
    ways = {"final epoch": final(frame), "best on test classes": best(frame, RECALL)}
    if len(stats.ran(held)):
        ways |= {"held-out run, chosen epoch": best(held, "held_out_recall@1"), "held-out run, final epoch": final(held)}
    found = {name: recall(chosen, [RECALL]) for name, chosen in ways.items()}
    return pd.DataFrame({k: v[0][RECALL] for k, v in found.items()}), pd.DataFrame({k: v[1][RECALL] for k, v in found.items()})


def searched(frame: pd.DataFrame) -> pd.DataFrame:
    """What the search found: final Recall@1 in percent by dataset and learning rate, of each method on the classes held out of the
    training, which the search goes by, and then on the test classes, which show what it would have changed. NaN: not run."""
    last = final(frame).assign(method=lambda runs: runs.method.map(short))
    found = last.pivot(index=["dataset", "lr"], columns="method", values=["held_out_recall@1", RECALL]).loc[list(frame.dataset.unique())]
    judged = {"held_out_recall@1": "held out", RECALL: "test"}
    columns = {(value, m): f"{m}, {words}" for value, words in judged.items() for m in last.method.unique()}
    return found[list(columns)].set_axis(list(columns.values()), axis=1)


def preferred(frame: pd.DataFrame, used: pd.Series) -> str:
    """Where the search prefers another rate than the one that was ``used`` (by dataset), in words; ``frame`` as for :func:`searched`.
    A method counts where each of its rates was run; of none there is nothing to say."""
    last = final(frame).assign(method=lambda runs: runs.method.map(short))
    whole = last.groupby(["dataset", "method"], sort=False).filter(lambda runs: len(stats.ran(runs)) == len(runs))
    if whole.empty:
        return ""
    best = whole.loc[whole.groupby(["dataset", "method"], sort=False)["held_out_recall@1"].idxmax()]
    others = best[best.lr != best.dataset.map(used)].groupby(["dataset", "lr"], sort=False)
    told = [f"on {d} {lr:g} instead of {used[d]:g} for {', '.join(runs.method)}" for (d, lr), runs in others]
    search = "The search" if len(whole) == len(last) else "Where each rate was run, the search"
    return f"{search} would have chosen {'; '.join(told) or 'the same rates'}."


def save(texts: pd.DataFrame, folder: Path | None, name: str) -> None:
    """The table as <folder>/<name>.csv; without a folder nothing is saved."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        texts.to_csv(folder / f"{name}.csv", index=not isinstance(texts.index, pd.RangeIndex), lineterminator="\n")

"""Tables for the reports: mean ± 95 % interval over the seeds, from a table with a row per run and epoch."""

from pathlib import Path

import pandas as pd

from mdr_core import stats

RECALL = "test_recall@1"  # the study's one headline figure
UNDECIDED = "not told from zero"  # said of a difference whose interval holds zero


def said(figure: dict[str, float], sign: bool = False, digits: int = 1) -> str:
    """``63.1 ± 0.8``; one seed has no interval and says so."""
    mean = f"{figure['mean']:{'+' if sign else ''}.{digits}f}"
    return f"{mean} ± {figure['half']:.{digits}f}" if figure["half"] == figure["half"] else f"{mean} (n = {figure['n']})"


def verdict(difference: dict[str, float]) -> str:
    """``larger``, ``smaller`` or UNDECIDED, of a paired difference."""
    return ("larger" if difference["mean"] > 0 else "smaller") if difference["excludes_zero"] else UNDECIDED


def by_run(frame: pd.DataFrame):
    """Rows grouped by run; ``labels`` of a grid may name one stored run twice, so labels count too."""
    labels = [c for c in ("dataset", "method", "change", "backbone", "loss_name", "setting", "dimension", "key") if c in frame]
    return frame.groupby(labels, sort=False)


def final(frame: pd.DataFrame) -> pd.DataFrame:
    """The last epoch of every run: the study's headline."""
    return frame.loc[by_run(frame).epoch.idxmax()]


def best(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """Of every run the trained epoch with the largest ``by``."""
    trained = frame[frame.epoch > 0]
    return trained.loc[by_run(trained)[by].idxmax()]


def with_untrained(frame: pd.DataFrame) -> pd.DataFrame:
    """The final epochs, led by the untrained embedding: epoch 0 of the plain triplet runs (or the first method's)."""
    first = frame[frame.method == frame.method.iloc[0]]
    return pd.concat([first[first.epoch == 0].assign(method="Untrained"), final(frame)])


def recall(frame: pd.DataFrame, values: list[str], digits: int = 1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means and texts ``mean ± half`` of columns ``values``, a row per dataset and method."""
    means, texts = {}, {}
    for dataset, of_dataset in frame.groupby("dataset", sort=False):
        for method, group in of_dataset.groupby("method", sort=False):
            figures = {v: stats.interval(group[v]) for v in values}
            means[dataset, method] = {v: f["mean"] for v, f in figures.items()}
            texts[dataset, method] = {v: said(f, digits=digits) for v, f in figures.items()}
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
            rows.append({"dataset": dataset, "difference": f"{one} less {other}", "points": said(d, sign=True), "n": d["n"],
                         "verdict": verdict(d)})
    return pd.DataFrame(rows, columns=["dataset", "difference", "points", "n", "verdict"])


def gains(frame: pd.DataFrame, by: str, one: str, other: str, value: str = RECALL) -> pd.DataFrame:
    """Two methods side by side for every value of ``by``, and their paired difference.

    Args:
        frame: a row per run (its final epoch), with columns ``by``, ``method`` and ``seed``.

    Returns:
        ``by``, ``other``, ``one``, ``difference``, ``n``, ``verdict``, all text but n; and the difference's ``mean`` and ``half``.
    """
    rows = []
    for name, group in frame.groupby(by, sort=False):
        d = stats.paired_difference(group, value, "method", one, other)
        sides = {m: said(stats.interval(group[group.method == m][value])) for m in (other, one)}
        rows.append({by: name} | sides | {"difference": said(d, sign=True), "n": d["n"], "verdict": verdict(d),
                                          "mean": d["mean"], "half": d["half"]})
    return pd.DataFrame(rows)


def against(frame: pd.DataFrame, column: str, standard: str, value: str = RECALL) -> pd.DataFrame:
    """Every value of ``column`` and its paired difference to ``standard``: as :func:`gains`, a row per value."""
    rows = []
    for name, group in frame.groupby(column, sort=False):
        d = stats.paired_difference(frame, value, column, name, standard) if name != standard else None
        rows.append({column: name, "Recall@1": said(stats.interval(group[value])), "n": len(group),
                     f"less {standard}": said(d, sign=True) if d else "", "verdict": verdict(d) if d else "the standard",
                     "mean": d["mean"] if d else 0.0, "half": d["half"] if d else 0.0})
    return pd.DataFrame(rows)


def choices(frame: pd.DataFrame, held: pd.DataFrame) -> pd.DataFrame:
    """What the choice of an epoch is worth: test Recall@1 under each way to choose, a row per dataset and method.

    ``held`` are the runs with classes held out; there may be none.
    """
    ways = {"final epoch": final(frame), "best on test classes": best(frame, RECALL)}
    if len(held):
        ways |= {"held-out run, chosen epoch": best(held, "held_out_recall@1"), "held-out run, final epoch": final(held)}
    columns = {name: recall(chosen, [RECALL])[1][RECALL] for name, chosen in ways.items()}
    return pd.DataFrame(columns)


def side_by_side(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Final Recall@1 on test and on training classes, a row per dataset and value of ``column``, the methods side by side."""
    rows = {}
    for (dataset, name, method), group in final(frame).groupby(["dataset", column, "method"], sort=False):
        for split in ("test", "train"):
            rows.setdefault((dataset, name), {})[f"{method}, {split}"] = f"{group[f'{split}_recall@1'].mean():.1f}"
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis(["dataset", column]).reset_index()


def save(texts: pd.DataFrame, folder: Path | None, name: str) -> None:
    """The table as <folder>/<name>.csv; without a folder nothing is saved."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        texts.to_csv(folder / f"{name}.csv", index=not isinstance(texts.index, pd.RangeIndex), lineterminator="\n")

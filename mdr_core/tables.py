"""Tables for the reports: mean ± 95 % interval over the seeds, from a table with a row per run and epoch."""

from pathlib import Path

import pandas as pd

from mdr_core import stats


def said(figure: dict[str, float], sign: bool = False) -> str:
    """``63.1 ± 0.8``; one seed has no interval and says so."""
    mean = f"{figure['mean']:{'+' if sign else ''}.1f}"
    return f"{mean} ± {figure['half']:.1f}" if figure["half"] == figure["half"] else f"{mean} (n = {figure['n']})"


def final(frame: pd.DataFrame) -> pd.DataFrame:
    """The last epoch of every run: the study's headline."""
    return frame.loc[frame.groupby(["dataset", "method", "seed"], sort=False).epoch.idxmax()]


def best(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """Of every run the trained epoch with the largest ``by``."""
    trained = frame[frame.epoch > 0]
    return trained.loc[trained.groupby(["dataset", "method", "seed"], sort=False)[by].idxmax()]


def with_untrained(frame: pd.DataFrame) -> pd.DataFrame:
    """The final epochs, led by the untrained embedding: epoch 0 of the plain triplet runs (or the first method's)."""
    first = frame[frame.method == frame.method.iloc[0]]
    return pd.concat([first[first.epoch == 0].assign(method="Untrained"), final(frame)])


def recall(frame: pd.DataFrame, values: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means and texts ``mean ± half`` of columns ``values``, a row per dataset and method."""
    means, texts = {}, {}
    for key, group in frame.groupby(["dataset", "method"], sort=False):
        figures = {v: stats.interval(group[v]) for v in values}
        means[key] = {v: f["mean"] for v, f in figures.items()}
        texts[key] = {v: said(f) for v, f in figures.items()}
    build = lambda rows: pd.DataFrame.from_dict(rows, orient="index").rename_axis(["dataset", "method"])  # noqa: E731
    return build(means), build(texts)


def differences(frame: pd.DataFrame, value: str, one: str = "Triplet + MDR") -> pd.DataFrame:
    """``one`` minus every other method, paired by seed; a difference whose interval holds zero is marked."""
    rows = []
    for dataset, group in frame.groupby("dataset", sort=False):
        for other in [m for m in group.method.unique() if m != one]:
            d = stats.paired_difference(group, value, "method", one, other)
            verdict = "larger" if d["mean"] > 0 else "smaller"
            rows.append({"dataset": dataset, "difference": f"{one} − {other}", "points": said(d, sign=True), "n": d["n"],
                         "verdict": verdict if d["excludes_zero"] else "not told from zero",
                         "mean": d["mean"], "half": d["half"]})
    return pd.DataFrame(rows)


def choices(frame: pd.DataFrame, held: pd.DataFrame) -> pd.DataFrame:
    """What the choice of an epoch is worth: test Recall@1 under three ways to choose, a row per dataset and method."""
    ways = {
        "final epoch": final(frame),
        "best on test classes": best(frame, "test_recall@1"),
        "held-out run, chosen epoch": best(held, "held_out_recall@1"),
        "held-out run, final epoch": final(held),
    }
    columns = {name: recall(chosen, ["test_recall@1"])[1]["test_recall@1"] for name, chosen in ways.items()}
    return pd.DataFrame(columns)


def bold_best(texts: pd.DataFrame, means: pd.DataFrame):
    """A styled table, the best mean of each dataset and column in bold."""
    largest = means == means.groupby(level="dataset").transform("max")
    return texts.style.apply(lambda _: largest.map(lambda b: "font-weight: bold" if b else ""), axis=None)


def save(texts: pd.DataFrame, folder: str, name: str) -> None:
    """The table as <folder>/<name>.csv; an empty folder saves nothing."""
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        texts.to_csv(Path(folder) / f"{name}.csv", lineterminator="\n")

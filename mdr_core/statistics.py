"""The study's one interval and its verdicts. Rows are those of :func:`mdr_core.runs.run.run`."""

import functools
import io
from itertools import repeat
from typing import Any, NamedTuple

import nbformat
import numpy as np
import pandas as pd
from scipy.stats import t

from mdr_core.errors import StudyError, unknown
from mdr_core.files import REPOSITORY
from mdr_core.profiles import L2, MDR, Study, title
from mdr_core.runs.run import run

LEDGER = REPOSITORY / "reports" / "claims.ipynb"
RECALL = "test_recall@1"  # the study's headline, in percent
BY_CLASS = {  # a number in percent -> its sum over the queries of each class
    "test_recall@1": "test_class_right",
    "test_map_at_r": "test_class_ap_at_r",
}
VERDICTS = ("not run", "one seed", "holds", "fails", "equal", "unclear")


def last(runs: pd.DataFrame) -> pd.DataFrame:
    """Return each run's last epoch; a run that is not stored keeps its one row."""
    return runs[runs.epoch == runs.groupby(["run", "key"]).epoch.transform("max")]


def best(runs: pd.DataFrame, by: str = RECALL) -> pd.DataFrame:
    """Return each run's epoch after 0 with the largest ``by``: of equals, the first.

    A run that is not stored keeps its one row. StudyError: a stored run has no ``by``.
    """
    trained = runs[(runs.epoch > 0) | ~runs.stored]
    scores = trained.reindex(columns=[by])[by]
    if (scores.isna() & trained.stored).any():
        raise StudyError(f"some of the runs have no {by}: leave them out, or choose another number")
    ordered = trained.iloc[np.lexsort((trained.epoch, -scores))]
    return ordered.groupby(["run", "key"]).head(1).sort_values("run", kind="stable")


class Difference(NamedTuple):
    """A difference, its 95 % interval, the two-sided p that it is zero, and its number of seeds.

    ``over``: ``seeds and classes``, ``seeds only``, ``classes only`` or, without interval, nothing.
    """

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan
    seeds: int = 0
    over: str = ""
    sign: str = "+"  # how a number above zero is written

    def __str__(self) -> str:
        return self.text()

    def text(self, digits: int = 1) -> str:
        """Return ``+4.1 (2.0 to 6.4)``, ``+4.1 (one seed)`` or ``not run``."""
        number = f"z.{digits}f"
        covered = f"{self.low:{number}} to {self.high:{number}}" if self.over else "one seed"
        sign = self.sign if abs(self.value) >= 0.5 / 10**digits else ""  # no +0.0
        shown = f"{self.value:{sign}{number}} ({covered})".replace("-", "−")
        return shown if self.seeds else "not run"


def mean(rows: pd.DataFrame, value: str = RECALL, within: Any = None) -> Difference:
    """Return the mean over seeds, without a plus; its interval stays ``within`` the possible."""
    rows = rows.filter(["seed", "stored", value])
    found = difference(rows, rows.assign(**{value: 0.0}), value)._replace(sign="")
    low, high = within or ((0.0, 100.0) if value in BY_CLASS else (-np.inf, np.inf))
    return found._replace(low=max(found.low, low), high=min(found.high, high))


def difference(one: pd.DataFrame, other: pd.DataFrame, value: str = RECALL) -> Difference:
    """Return the mean d of ``one`` − ``other`` over the n seeds that have both, a row per seed.

    d ± t(0.975, ν) s, with s² = s₁² + s₂² and ν = s⁴ / (s₁⁴ / (n − 1) + s₂⁴ / (C − 1)).
    Over the seeds, s₁ is the differences' standard deviation / √n; with one seed, s = s₂.
    Over the C test classes, s₂ = 100 √(C / (C − 1) Σ r_c²) / Σ q_c, r_c = g_c − d q_c / 100: of
    class c, q_c are the queries and g_c is the gain in right answers (or AP@R), its mean over the
    seeds whose two rows have such numbers (and d theirs); with no such seed, s = s₁.
    """
    pairs = by_seed(one, value).join(by_seed(other, value).add_suffix("_other"), how="inner")
    gains = pairs["value"] - pairs["value_other"]
    d, n, parts = float(gains.mean()), len(gains), dict[str, tuple[float, int]]()
    if n > 1:
        parts["seeds"] = gains.var() / n, n - 1
    if len(counted := pairs.dropna()):
        q, c = np.array(counted.queries.iloc[0]), len(counted.queries.iloc[0])
        g = np.mean(np.subtract(counted.sums.tolist(), counted.sums_other.tolist()), axis=0)
        r = g - q * g.sum() / q.sum()
        parts["classes"] = 100**2 * c / (c - 1) * (r @ r) / q.sum() ** 2, c - 1
    if not parts:
        return Difference(d, seeds=n)
    s = max(sum(square for square, _ in parts.values()) ** 0.5, 1e-12)  # not 0, where all are equal
    nu = s**4 / max(sum(square**2 / freedom for square, freedom in parts.values()), 1e-48)
    half, p = float(t.ppf(0.975, nu) * s), float(2 * t.sf(abs(d) / s, nu))
    over = " and ".join(parts) if len(parts) > 1 else f"{next(iter(parts))} only"
    return Difference(d, d - half, d + half, p, n, over)


def by_seed(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Return ``value``, and by class ``queries`` and ``sums``, of the seeds that have a value."""
    if value not in rows and rows.stored.any():
        raise unknown("number", value, rows.select_dtypes("number"))
    names = {"value": value, "queries": "test_class_queries", "sums": BY_CLASS.get(value)}
    found = pd.DataFrame({name: rows.get(column) for name, column in names.items()}, rows.index)
    found = found.set_index(rows.seed).dropna(subset="value")
    if found.index.has_duplicates:
        raise StudyError("a seed has several rows: choose one setting, and one epoch of each run")
    return found.sort_index()


def holm(ps: list[float] | pd.Series) -> np.ndarray:
    """Return Holm's p: the i-th smallest of m, times m − i + 1, none below the last; NaN stays."""
    p = np.array(ps, dtype=float)
    order = p.argsort()[: np.isfinite(p).sum()]  # NaN sorts last
    p[order] = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return p


@functools.cache
def tested() -> pd.DataFrame:
    """Return all differences of the ledger of claims; Holm's correction is over a ``dataset``'s."""
    cells = nbformat.read(LEDGER, 4).cells if LEDGER.exists() else []
    found = [cell.outputs[0].data["text/csv"] for cell in cells if "tests" in cell.metadata.tags]
    return pd.read_csv(io.StringIO(found[0])) if found else pd.DataFrame(columns=["dataset", "p"])


def corrected(ps: pd.Series) -> list[float]:
    """Return Holm's p of each difference on a dataset, among those of the ledger, or of ``ps``."""
    column = tested().p[tested().dataset == title(str(ps.name))]
    column = column if len(column) else ps
    return [holm([p, *column[~np.isclose(column, p, rtol=1e-6, atol=0)]])[0] for p in ps]


def verdict(found: Difference, margin: float = 1.5, p: float | None = None) -> str:
    """Return the first of VERDICTS that fits; ``p`` is Holm's, or else the difference's own.

    ``holds``: interval above 0, p < 0.05; ``fails``: below, likewise; ``equal``: within ± margin.
    """
    if found.seeds < 2:
        return VERDICTS[found.seeds]
    if (found.low > 0 or found.high < 0) and (found.p if p is None else p) < 0.05:
        return "holds" if found.low > 0 else "fails"
    return "equal" if -margin < found.low and found.high < margin else "unclear"


def compare(
    rows: pd.DataFrame, one: dict, other: dict, by: list[str], value: str = RECALL, margin=1.5
) -> pd.DataFrame:
    """Return the difference of each cell of ``by``, in ``points`` and in parts, and its verdict.

    ``one`` and ``other`` choose from ``rows``, a row per run, as ``{"method": "Triplet + MDR"}``.
    """
    left, right = (rows.merge(pd.DataFrame([values]), on=[*values]) for values in (one, other))
    cells = pd.concat([left, right])[by].drop_duplicates(ignore_index=True)
    each = [cells.loc[[place]] for place in cells.index]
    found = [difference(left.merge(cell), right.merge(cell), value) for cell in each]
    numbers = pd.DataFrame(found, columns=Difference._fields).drop(columns="sign")
    table = cells.assign(points=found).join(numbers.rename(columns={"value": "difference"}))
    table["p_holm"] = table.groupby("dataset").p.transform(corrected)
    table["verdict"] = list(map(verdict, found, repeat(margin), table.p_holm))
    d = table.difference  # of one seed the side of zero is told
    side = np.select([d > margin, d < -margin], ["above zero", "below zero"], "near zero")
    return table.assign(told=table.verdict.mask(table.seeds == 1, "one seed, " + pd.Series(side)))


def nearest_level(run: Any, kind: str) -> np.ndarray:
    """Return the share of a run's pairs nearest to each level, in percent, from binned distances.

    ``run``: one of the rows; ``kind``: ``positive`` or ``negative``. The bins reach to twice the
    mean distance of the batch.
    """
    levels = np.array([run[f"level_{i}"] for i in range(len(run.levels))])
    between = run.running_mean + run.running_std * (levels[1:] + levels[:-1]) / 2
    counts = np.array(run[f"{kind}_histogram"], dtype=float)
    distances = (np.arange(len(counts)) + 0.5) * 2 / len(counts) * run.pair_mean
    return 100 * np.bincount(np.digitize(distances, between), counts, len(levels)) / counts.sum()


def lead_over_l2(study: Study, epoch: int) -> tuple[Difference, str]:
    """Return MDR − L2 of Table 1's stored runs after so many epochs, and its verdict."""
    ends = []
    for method in (MDR, L2):
        configs = [study.config(method, seed=seed) for seed in study.seeds]
        runs = run(configs, None, **study.choice | {"missing_too": False})
        ends.append(runs[runs.epoch == epoch])
    found = difference(*ends)
    [p] = corrected(pd.Series([found.p], name=study.datasets[0]))
    return found, verdict(found, p=p)

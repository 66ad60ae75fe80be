"""The paper's claims as differences that should be positive, and one rule for their verdicts.

A difference has up to two 95 % intervals: over the seeds (paired, Student's t) and over the test
classes (:mod:`mdr_core.study.class_bootstrap`). By both together it

* *holds* where both are above zero.

* *fails* where both are below zero.

* is *level* where it includes zero and both are within the claim's margin.

* is *open* where they are too wide to say.

* is *not tested* where there is no interval, or where the setting cannot tell.

A claim about several backbones, losses or dimensions has a cell for each. There an interval that
excludes zero counts only if p is below 0.05, corrected for the number of cells by Holm's method.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mdr_core.study import class_bootstrap, profiles, statistics
from mdr_core.study.class_bootstrap import Bootstrap
from mdr_core.study.statistics import number

HOLDS, FAILS, LEVEL, OPEN, NOT_TESTED = VERDICTS = ("holds", "fails", "level", "open", "not tested")
MIXED = "mixed"  # of a claim whose cells differ


@dataclass(frozen=True)
class Claim:
    """``one`` − ``other`` of a value, in every cell; it should be positive."""

    group: str
    text: str  # what the paper says
    measured: str  # what is compared, in words
    grid: str  # the name of the frame of runs
    one: str
    other: str
    report: str = "recall_at_k"  # the notebook with the evidence
    column: str = "method"  # of the frame, with ``one`` and ``other``
    by: str = "dataset"  # a column whose values are the cells
    value: str = statistics.RECALL  # the column that is compared
    unit: str = "points"
    margin: float = 1.5  # within which two are level
    counts: str = ""  # a column: sums by class that ``value`` is the mean of
    untested: Callable[[pd.DataFrame], str] = lambda rows: ""  # why a cell's rows cannot tell


@dataclass(frozen=True)
class Cell:
    """One difference of a claim."""

    name: str
    seeds: dict[str, float]  # as :func:`mdr_core.study.statistics.interval` gives them
    classes: Bootstrap | None  # over the test classes; None where their counts are not recorded
    margin: float
    reason: str = ""  # why it is not tested
    corrected_p: float = 0.0  # by Holm's method; 0 for a claim of one cell
    decided: str = ""  # the verdict, where it takes no statistics

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """Lower and upper ends of the intervals that there are."""
        mean, half = self.seeds["mean"], self.seeds["half"]
        found = [(mean - half, mean + half)] if self.seeds["n"] > 1 else []
        return found + ([(self.classes.low, self.classes.high)] if self.classes else [])

    @property
    def p(self) -> float:
        """The larger two-sided p of the two."""
        found = [statistics.p_value(self.seeds)] if self.seeds["n"] > 1 else []
        return max(found + ([self.classes.p] if self.classes else []), default=1.0)

    @property
    def verdict(self) -> str:
        """By the rule of the module."""
        if self.decided:
            return self.decided
        if self.reason or not self.intervals:
            return NOT_TESTED
        significant = self.corrected_p < 0.05
        if significant and all(low > 0 for low, _ in self.intervals):
            return HOLDS
        if significant and all(high < 0 for _, high in self.intervals):
            return FAILS
        within = all(-self.margin <= low and high <= self.margin for low, high in self.intervals)
        return LEVEL if within else OPEN

    def text(self) -> str:
        """Return ``+3.0 (± 1.5 over 5 seeds, 0.8 to 7.6 over test classes)``, or less of it.

        It says of how many seeds the second interval is where not all of them recorded counts.
        """
        n, mean, parts = self.seeds["n"], number(self.seeds["mean"], "+.1f"), []
        if not n:
            return self.reason or statistics.NOT_RUN
        if n > 1:
            parts.append(f"± {self.seeds['half']:.1f} over {n} seeds")
        else:
            parts.append("one seed")
        if self.classes:
            low, high = number(self.classes.low), number(self.classes.high)
            of = f" with {self.classes.seeds} seeds" * (self.classes.seeds < n)
            parts.append(f"{low} to {high} over test classes{of}")
        elif n == 1:
            parts.append("no interval")
        return f"{mean} ({', '.join(parts)})"


@dataclass(frozen=True)
class Result:
    """A claim with its cells."""

    claim: Claim
    cells: list[Cell]

    @property
    def verdict(self) -> str:
        """One word for all cells.

        A claim about all backbones fails where one does, and is not tested where one was not run. A
        claim about each dataset takes the datasets that were.
        """
        found = {cell.verdict for cell in self.cells}
        if self.claim.by == "dataset":
            found -= {NOT_TESTED}
        elif FAILS in found:
            return FAILS
        elif NOT_TESTED in found:
            return NOT_TESTED
        if len(found) < 2:
            return found.pop() if found else NOT_TESTED
        return MIXED

    @property
    def told(self) -> str:
        """The verdict in words: of two cells each, of more the number that hold."""
        ran = [cell for cell in self.cells if cell.verdict != NOT_TESTED]
        one = ran and not ran[0].decided and max(cell.seeds["n"] for cell in ran) == 1
        seed = " (one seed)" if one else ""
        if len(self.cells) > 2 or self.claim.by != "dataset":
            absent = len(self.cells) - len(ran)
            text = ", ".join(tally(cell.verdict for cell in ran).values()) + seed
            return text + f", {absent} not run" * (absent > 0) if ran else NOT_TESTED
        if len({cell.verdict for cell in ran}) == 2:
            return ", ".join(f"{cell.verdict} on {cell.name}" for cell in ran) + seed
        return self.verdict + seed


def evaluate(claim: Claim, frame: pd.DataFrame) -> Result:
    """Measure a claim.

    Args:
        frame: a row per run at the epoch that counts, with ``seed``, the claim's columns and, for
            ``counts``, ``test_class_queries`` and that column.
    """
    cells = []
    for name, rows in frame.groupby(claim.by, sort=False):
        pair = statistics.paired(rows, claim.value, claim.column, claim.one, claim.other)
        seeds = statistics.interval(pair[claim.one] - pair[claim.other])
        classes = over_classes(claim, rows) if seeds["n"] else None
        stored = set(statistics.ran(rows)[claim.column])
        both = rows[rows[claim.column].isin([claim.one, claim.other])]
        reason = claim.untested(both) if {claim.one, claim.other} <= stored else "not run"
        if not seeds["n"]:
            reason = reason or "not recorded"
        elif seeds["n"] == 1 and classes is None:
            reason = reason or "one seed, and no counts by class: no interval"
        cells.append(Cell(str(name), seeds, classes, claim.margin, reason))
    return Result(claim, corrected(cells) if claim.by != "dataset" else cells)


def over_classes(claim: Claim, rows: pd.DataFrame) -> Bootstrap | None:
    """Return the difference over the test classes, of the seeds whose two records have counts."""
    if not claim.counts or claim.counts not in rows:
        return None
    pair = statistics.paired(rows, claim.counts, claim.column, claim.one, claim.other)
    if pair.empty:
        return None
    queries = rows.test_class_queries.dropna().iloc[0]
    one, other = (np.stack(pair[m].map(np.asarray).to_list()) for m in (claim.one, claim.other))
    return class_bootstrap.difference(np.asarray(queries), one, other)


def corrected(cells: list[Cell]) -> list[Cell]:
    """Return the cells with p corrected for their number (Holm 1979)."""
    tested = {cell.name: cell.p for cell in cells if cell.verdict != NOT_TESTED}
    if len(tested) < 2:
        return cells
    p = pd.Series(tested).sort_values(kind="stable")
    found = (p * np.arange(len(p), 0, -1)).cummax()  # p never falls with its rank
    return [replace(cell, corrected_p=found.get(cell.name, 0.0)) for cell in cells]


def same_network(profile: str, datasets: list[str]) -> Result:
    """Return whether MDR costs anything at inference, decided by the structure of the networks.

    It costs nothing where the network trained with MDR has tensors of the same names and shapes as
    the one without: nothing of MDR is computed or kept.
    """
    from mdr_core.networks.backbones import backbone  # here: other claims need no network
    from mdr_core.networks.embedding import EmbeddingNet

    claim = Claim(
        "Mechanism", "MDR costs nothing at inference", "tensors more than without MDR", "", "", "",
        report="claims", unit="tensors",
    )  # fmt: skip
    cells = []
    for dataset in datasets:
        shapes = []
        for method in (profiles.MDR, profiles.TRIPLET):
            c = profiles.config(profile, dataset, method)
            net = EmbeddingNet(backbone(c.backbone, "random"), c.dim, c.normalization)
            shapes.append({name: value.shape for name, value in net.state_dict().items()})
        one, other = shapes
        more = {"mean": float(len(one) - len(other)), "half": np.nan, "n": 1}
        cells.append(Cell(dataset, more, None, 0.0, decided=HOLDS if one == other else FAILS))
    return Result(claim, cells)


def compared(
    last: pd.DataFrame, one: str, counts: str = "", value: str = statistics.RECALL
) -> list[Result]:
    """Return ``one`` − every other method of a frame, by dataset."""
    others = [method for method in last.method.unique() if method != one]
    found = []
    for other in others if one in set(last.method) else ():
        text = f"{short(one)} − {short(other)}"
        claim = Claim("", text, text, "", one, other, value=value, counts=counts)
        found.append(evaluate(claim, last[last.method.isin([one, other])]))
    return found


def answer(results: list[Result]) -> str:
    """Return a sentence for each: ``MDR − L2: yes on cub200, +5.7 (4.0 to 7.5 …); level on …``."""
    words = {HOLDS: "yes", FAILS: "no"}
    return " ".join(f"{result.claim.text}: {in_words(result, words)}." for result in results)


def short(method: str) -> str:
    """Return ``MDR`` of ``Triplet + MDR``."""
    return method.removeprefix("Triplet + ")


def in_words(result: Result, words: dict[str, str] | None = None) -> str:
    """Return every cell's verdict and difference: ``holds on cub200, +5.7 (4.0 to 7.5 …); …``.

    The reason why a cell is not tested follows, unless its difference is without an interval.

    Args:
        words: to say for verdicts.
    """
    found = []
    for cell in result.cells:
        text = f"{(words or {}).get(cell.verdict, cell.verdict)} on {cell.name}, {cell.text()}"
        found.append(f"{text}: {cell.reason}" if cell.reason and cell.intervals else text)
    return "; ".join(found)


def table(results: list[Result]) -> pd.DataFrame:
    """Return every cell of every claim, a row each, its numbers as numbers."""
    rows = []
    for result in results:
        claim = result.claim
        for cell in result.cells:
            classes = cell.classes or Bootstrap(np.nan, np.nan, np.nan, np.nan, seeds=0)
            rows.append({
                "group": claim.group, "claim": claim.text, "told": result.told,
                "claim_verdict": result.verdict, "cell": cell.name, "verdict": cell.verdict,
                "difference": cell.seeds["mean"], "half": cell.seeds["half"],
                "seeds": cell.seeds["n"], "classes_low": classes.low,
                "classes_high": classes.high, "classes_seeds": classes.seeds,
                "unit": claim.unit, "margin": claim.margin, "measured": claim.measured,
                "reason": cell.reason, "report": claim.report,
            })  # fmt: skip
    return pd.DataFrame(rows)


def tally(verdicts: Iterable[str]) -> dict[str, str]:
    """Return of every verdict that there is how often, in words: ``{"holds": "3 hold", …}``."""
    found, plural = Counter(verdicts), {HOLDS: "hold", FAILS: "fail"}
    order = (HOLDS, FAILS, LEVEL, OPEN, MIXED, NOT_TESTED)
    return {v: f"{n} {plural.get(v, v) if n > 1 else v}" for v in order if (n := found[v])}


def count(verdicts: list[str]) -> str:
    """Return ``9 of 15 claims hold, 3 fail, 1 level, 1 open, 1 not tested``."""
    claims = "claim holds" if len(verdicts) == 1 else "claims hold"
    others = [words for verdict, words in tally(verdicts).items() if verdict != HOLDS]
    return ", ".join([f"{verdicts.count(HOLDS)} of {len(verdicts)} {claims}", *others])

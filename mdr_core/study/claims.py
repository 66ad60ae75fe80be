"""The paper's claims, each with the number that the study measured for it, and a verdict by one rule.

The rule: a claim is a difference that should be positive. It *holds* where the 95 % interval of the difference, paired by
seed, lies above zero; it *does not hold* where the interval lies below; otherwise it is *undecided*. A claim about every
one of several cells (backbones, losses, dimensions) holds where it holds in each, does not hold as soon as it fails in one,
and shows the weakest cell. A cell without a pair of runs is *not run*: a claim with such a cell does not hold yet, and a claim
with no other cell is *not run* itself. A claim that something costs nothing is the one with a tolerance: its interval is held
against minus the tolerance instead of zero.
"""

from dataclasses import dataclass

import pandas as pd

from mdr_core.study import statistics
from mdr_core.study.statistics import NOT_RUN, RECALL, said

HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Claim:
    """A claim, what was measured for it, and where the evidence is: the notebook's name."""

    text: str
    measured: str
    evidence: str
    cells: dict[str, dict[str, float]]  # cell -> difference as stats.interval gives it
    unit: str = "points"
    tolerance: float = 0.0

    @property
    def verdict(self) -> str:
        """By the rule, over all cells."""
        each = {self.verdict_of(cell) for cell in self.cells.values()} or {NOT_RUN}
        if len(each) == 1:
            return each.pop()
        return FAILS if FAILS in each else OPEN

    def verdict_of(self, cell: dict[str, float]) -> str:
        """One cell's. One seed has no interval and so decides nothing."""
        if not cell["n"]:
            return NOT_RUN
        if cell["mean"] - cell["half"] > -self.tolerance:
            return HOLDS
        return FAILS if cell["mean"] + cell["half"] < -self.tolerance else OPEN

    def row(self) -> dict:
        """The claim as a row of the table: the number, interval and n of the weakest cell among those that decide, and the verdict."""
        about = {"claim": self.text, "verdict": self.verdict}
        rest = {"measured": self.measured, "evidence": self.evidence}
        if self.verdict == NOT_RUN:
            return about | {"number": NOT_RUN, "n": 0} | rest
        found = {name: cell for name, cell in self.cells.items() if cell["n"]}
        deciding = {
            name: cell for name, cell in found.items() if self.verdict_of(cell) == self.verdict
        } or found
        name, cell = min(deciding.items(), key=lambda item: lowest(item[1]))
        lacking = (
            f", {len(self.cells) - len(found)} not run" if len(found) < len(self.cells) else ""
        )
        where = (
            f" (weakest of {len(found)}{lacking}: {name})"
            if len(self.cells) > 1
            else f" ({name})"
            if name
            else ""
        )
        return (
            about
            | {"number": f"{said(cell, sign=True)} {self.unit}", "n": cell["n"]}
            | rest
            | {"measured": self.measured + where}
        )


def lowest(cell: dict[str, float]) -> float:
    return cell["mean"] - cell["half"] if cell["half"] == cell["half"] else cell["mean"]


def by_cell(
    frame: pd.DataFrame, by: str, one: str, other: str, value: str = RECALL, sign: float = 1.0
) -> dict[str, dict]:
    """``one`` - ``other``, paired by seed, in every cell ``by``; ``sign=-1`` where less is better."""
    cells = {}
    for name, group in frame.groupby(by, sort=False):
        found = statistics.paired_difference(group, value, "method", one, other)
        cells[str(name)] = found | {"mean": sign * found["mean"]}
    return cells


def to_table(claims: list[Claim]) -> pd.DataFrame:
    return pd.DataFrame([claim.row() for claim in claims])


def count(claims: list[Claim]) -> str:
    """:func:`counted` of the claims' verdicts."""
    return counted([claim.verdict for claim in claims])


def counted(verdicts: list[str]) -> str:
    """``7 of 12 claims hold, 1 does not, 4 are undecided``; where claims were not run, that too."""
    holds, fails, undecided, absent = (
        list(verdicts).count(v) for v in (HOLDS, FAILS, OPEN, NOT_RUN)
    )
    return (
        f"{holds} of {len(verdicts)} claims hold, {fails} {'does' if fails == 1 else 'do'} not, "
        f"{undecided} {'is' if undecided == 1 else 'are'} undecided"
        + f", {absent} {'was' if absent == 1 else 'were'} not run"
        * (absent > 0)
    )

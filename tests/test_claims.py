"""The rule of the verdicts, and the tables of differences that it rests on."""

import pandas as pd
import pytest

from mdr_core.study import claims, experiments, statistics
from mdr_core.study.claims import FAILS, HOLDS, OPEN, Claim
from mdr_core.study.statistics import NOT_RUN
from tests.test_tables import frame, lacking

NONE = statistics.interval([])


def cell(mean, half=1.0, n=3):
    return {"mean": mean, "half": half, "n": n}


@pytest.mark.parametrize(
    "cells, verdict",
    [
        ([cell(2)], HOLDS),
        ([cell(-2)], FAILS),
        ([cell(0.5)], OPEN),
        ([cell(2), cell(0.5)], OPEN),
        ([cell(2), cell(-2)], FAILS),
        ([cell(2, float("nan"), 1)], OPEN),
        ([], NOT_RUN),
        ([NONE], NOT_RUN),
        ([NONE, NONE], NOT_RUN),
        ([cell(2), NONE], OPEN),
        ([NONE, cell(-2)], FAILS),
        ([cell(0.5), NONE], OPEN),  # it cannot hold in a cell that was not run
    ],
)
def test_the_rule(cells, verdict):
    assert Claim("c", "m", "e", dict(enumerate(cells))).verdict == verdict


def test_no_cost_is_held_against_its_tolerance():
    assert Claim("c", "m", "e", {"": cell(-0.5)}, tolerance=2.0).verdict == HOLDS
    assert Claim("c", "m", "e", {"": cell(-1.5)}, tolerance=2.0).verdict == OPEN
    assert Claim("c", "m", "e", {"": cell(-4)}, tolerance=2.0).verdict == FAILS
    assert Claim("c", "m", "e", {"": NONE}, tolerance=2.0).verdict == NOT_RUN


def test_a_row_shows_the_weakest_cell():
    row = Claim("any", "gain", "notebook", {"a": cell(3), "b": cell(2), "c": cell(2.5, 2.0)}).row()
    assert (
        row["number"] == "+2.5 ± 2.0 points"
        and "weakest of 3: c" in row["measured"]
        and row["verdict"] == HOLDS
    )
    assert claims.count(
        [Claim("x", "m", "e", {"": cell(2)}), Claim("y", "m", "e", {"": cell(0)})]
    ).startswith("1 of 2 claims hold")


def test_a_row_shows_a_cell_that_decides():
    row = Claim("any", "gain", "notebook", {"a": cell(-1, 5), "b": cell(-2)}).row()
    assert (
        row["verdict"] == FAILS
        and row["number"] == "-2.0 ± 1.0 points"
        and "weakest of 2: b" in row["measured"]
    )


def test_a_claim_without_a_run_says_so_and_is_counted_only_where_there_is_one():
    alone = Claim("any", "gain", "notebook", {"a": NONE, "b": NONE})
    assert alone.row() == {
        "claim": "any",
        "verdict": NOT_RUN,
        "number": NOT_RUN,
        "n": 0,
        "measured": "gain",
        "evidence": "notebook",
    }
    row = Claim("any", "gain", "notebook", {"a": cell(3), "b": cell(2), "c": NONE}).row()
    assert (
        row["verdict"] == OPEN
        and row["number"] == "+2.0 ± 1.0 points"
        and row["measured"] == "gain (weakest of 2, 1 not run: b)"
    )
    assert claims.counted([HOLDS, FAILS]) == "1 of 2 claims hold, 1 does not, 0 are undecided"
    assert (
        claims.counted([HOLDS, NOT_RUN])
        == "1 of 2 claims hold, 0 do not, 0 are undecided, 1 was not run"
    )
    assert claims.count([alone, alone]).endswith(", 2 were not run")


def test_cells_are_paired_by_seed():
    found = claims.by_cell(frame(), "cell", "with", "without")
    assert found["a"] == pytest.approx(statistics.interval([2, 1.9, 1.8]) | {"excludes_zero": True})
    assert claims.by_cell(frame(), "cell", "with", "without", sign=-1)["a"][
        "mean"
    ] == pytest.approx(-1.9)


def test_a_cell_that_is_not_run_leaves_a_claim_open():
    part = lacking(frame(), frame().method.eq("with") & frame().cell.eq("b"))
    found = claims.by_cell(part, "cell", "with", "without")
    assert Claim("c", "m", "e", found).verdict == OPEN and found["b"]["n"] == 0


def test_the_untrained_embedding_is_a_raw_one_whatever_comes_first():
    rows = [
        (m, e, 10 * e + len(n), n, f"{m}")
        for m, n in (("Triplet + L2", "l2"), ("Triplet", "mean_distance"))
        for e in (0, 1)
    ]
    history = pd.DataFrame(
        rows, columns=["method", "epoch", "test_recall@1", "normalization", "key"]
    )
    untrained = lambda f: (
        statistics.with_untrained(f).set_index("method").loc["Untrained", "test_recall@1"]
    )
    assert untrained(history) == 13 and untrained(history[history.normalization == "l2"]) == 2


def test_final_and_best_are_taken_run_by_run():
    rows = [
        (m, s, e, 10 * e if s == 0 else 10 * (2 - e), f"{m}{s}")
        for m in "xy"
        for s in (0, 1)
        for e in (0, 1, 2)
    ]
    history = pd.DataFrame(
        rows, columns=["method", "seed", "epoch", "test_recall@1", "key"]
    ).assign(loss=0.5)
    assert statistics.final(history).epoch.tolist() == [2] * 4
    assert statistics.best(history, statistics.RECALL).epoch.tolist() == [2, 1, 2, 1]


def test_a_photograph_dataset_brings_no_search_into_another_profile():
    assert experiments.searches("photos", ["cub50"], ["Triplet"])
    assert experiments.searches("quick", ["cub50"], ["Triplet"]) == []


def test_a_dataset_that_the_profile_does_not_have_is_refused(capsys):
    assert experiments.main(["--dataset", "birds"]) == 2
    assert "unknown dataset 'birds': choose one of drawn" in capsys.readouterr().err

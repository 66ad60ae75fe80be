"""The rule of the verdicts, and the tables of differences that it rests on."""

import pandas as pd
import pytest

from mdr_core.report import plots, tables
from mdr_core.study import claims, experiments, statistics
from mdr_core.study.claims import FAILS, HOLDS, OPEN, Claim
from mdr_core.study.statistics import NOT_RUN

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


def frame():
    rows = [("a", "with", s, 60 + s) for s in range(3)] + [
        ("a", "without", s, 58 + s + 0.1 * s) for s in range(3)
    ]
    rows += [("b", "with", s, 50 - s) for s in range(3)] + [
        ("b", "without", s, 50 + s) for s in range(3)
    ]
    return pd.DataFrame(rows, columns=["cell", "method", "seed", "test_recall@1"])


def test_cells_are_paired_by_seed():
    found = claims.by_cell(frame(), "cell", "with", "without")
    assert found["a"] == pytest.approx(statistics.interval([2, 1.9, 1.8]) | {"excludes_zero": True})
    assert claims.by_cell(frame(), "cell", "with", "without", sign=-1)["a"][
        "mean"
    ] == pytest.approx(-1.9)


def test_gains_and_differences_to_a_standard():
    table = tables.gains(frame(), "cell", "with", "without")
    assert (
        table.verdict.tolist() == ["larger", tables.UNDECIDED]
        and table["difference"][0] == "+1.9 ± 0.2"
    )
    assert table["with"][0] == tables.said(statistics.interval([60, 61, 62]))
    against = tables.against(frame()[lambda f: f.method == "with"], "cell", "a")
    assert (
        against.verdict.tolist() == ["the standard", tables.UNDECIDED]
        or against.verdict[1] == "smaller"
    )
    assert against["mean"][1] == pytest.approx(-12)


def lacking(frame, which):
    """A table in which some runs are not stored: one row each, their last epoch's, without numbers."""
    last = frame.epoch.max() if "epoch" in frame else None
    kept = frame[~which | (frame.epoch == last)] if last is not None else frame
    numbers = [c for c in kept if "recall" in c]
    kept = kept.assign(stored=~which)
    kept.loc[~kept.stored, numbers] = float("nan")
    return kept


def test_what_is_not_run_says_so_and_counts_nowhere():
    rows = [
        (m, s, e, f"{m}{s}", norm, 40.0 + 10 * e + s + 5 * (m == "Triplet + MDR"))
        for m, norm in (("Triplet", "raw"), ("Triplet + L2", "l2"), ("Triplet + MDR", "raw"))
        for s in (0, 1, 2)
        for e in (0, 1, 2)
    ]
    whole = pd.DataFrame(
        rows, columns=["method", "seed", "epoch", "key", "normalization", "test_recall@1"]
    ).assign(dataset="d", other=1.0)
    part = lacking(
        whole, (whole.method == "Triplet + L2") | ((whole.method == "Triplet") & (whole.seed == 0))
    ).assign(other=float("nan"))
    for one_a_run in (statistics.final(part), statistics.best(part, statistics.RECALL)):
        assert len(one_a_run) == 9 and one_a_run["test_recall@1"].notna().sum() == 5
    last = statistics.final(part)
    means, texts = tables.recall(last, ["test_recall@1", "other", "nowhere"])
    assert texts.values.tolist() == [["61.5 ± 6.4", "", ""], [NOT_RUN] * 3, ["66.0 ± 2.5", "", ""]]
    assert tables.best_of_dataset(means)["test_recall@1"].tolist() == [False, False, True]
    told = tables.differences(last)
    assert told[["points", "n", "verdict"]].values.tolist() == [
        ["+5.0 ± 0.0", 2, "larger"],
        [NOT_RUN, 0, NOT_RUN],
    ]
    assert tables.told(told) == "d: MDR less Triplet +5.0 ± 0.0, MDR less L2 not run"
    assert tables.means(last) == "d: Triplet 61.5, L2 not run, MDR 66.0"
    assert tables.seeds(whole) == "3" and tables.seeds(part) == "2 to 3"
    assert statistics.first_seed(whole).seed.unique() == [0] and statistics.first_seed(
        part
    ).seed.unique() == [1]
    assert tables.caveat(part[part.seed == 1]) and not tables.caveat(part)
    untrained = statistics.with_untrained(part)[lambda f: f.method == "Untrained"]
    assert untrained.seed.tolist() == [1, 2, 0] and untrained["test_recall@1"].tolist() == [
        41,
        42,
        45,
    ]
    assert tables.choices(part, part.iloc[:0])[1].columns.tolist() == [
        "final epoch",
        "best on test classes",
    ]
    assert tables.choices(part, part[~part.stored])[1].columns.tolist() == [
        "final epoch",
        "best on test classes",
    ]


def test_a_side_or_a_standard_that_is_not_run():
    part = lacking(frame(), frame().method.eq("with") & frame().cell.eq("b"))
    table = tables.gains(part, "cell", "with", "without")
    assert (
        table["with"].tolist() == ["61.0 ± 2.5", NOT_RUN]
        and table.verdict.tolist() == ["larger", NOT_RUN]
        and table.n.tolist() == [3, 0]
    )
    assert not tables.better_side(table, "with", "without").iloc[1].any()
    one = tables.against(part[part.method == "with"], "cell", "a")
    assert (
        one.verdict.tolist() == ["the standard", NOT_RUN]
        and one.n.tolist() == [3, 0]
        and one["less a"].tolist() == ["", NOT_RUN]
    )
    assert tables.against(part[part.method == "with"], "cell", "b").verdict.tolist() == [
        NOT_RUN,
        NOT_RUN,
    ]
    found = claims.by_cell(part, "cell", "with", "without")
    assert Claim("c", "m", "e", found).verdict == OPEN and found["b"]["n"] == 0


def test_curves_and_bars_of_what_is_not_run_are_left_out():
    part = lacking(frame(), frame().method.eq("with") & frame().cell.eq("b")).rename(
        columns={"cell": "backbone"}
    )
    drawn = plots.intervals(part[part.method == "with"], "backbone", "title").axes[0]
    assert [tick.get_text() for tick in drawn.get_yticklabels()] == ["a"]
    found = [Claim("c", "m", "e", {"a": cell(1), "b": NONE}), Claim("d", "m", "e", {"": NONE})]
    assert [tick.get_text() for tick in plots.claims(found).axes[0].get_yticklabels()] == ["c: a"]


def test_what_is_absent_leaves_an_empty_cell_and_one_seed_decides_nothing():
    absent = frame().assign(dataset="d", other=[1.0, float("nan"), *[float("nan")] * 10])
    texts = tables.recall(absent[absent.cell == "a"], ["test_recall@1", "other"])[1]
    assert texts.other.tolist() == ["1.0 (n = 1)", ""]
    assert "One seed" in tables.caveat(frame()[lambda f: f.seed == 0]) and not tables.caveat(
        frame()
    )
    assert tables.told(tables.differences(frame().assign(dataset="d"))) == tables.NOTHING


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


def test_the_search_goes_by_classes_held_out_and_says_where_it_prefers_another_rate():
    runs = [
        ("cub", "Triplet", 1e-4, 20),
        ("cub", "Triplet", 3e-4, 10),
        ("cub", "Triplet + MDR", 1e-4, 30),
        ("cub", "Triplet + MDR", 3e-4, 10),
        ("cars", "Triplet", 1e-4, 20),
        ("cars", "Triplet", 5e-5, 10),
        ("cars", "Triplet + MDR", 1e-4, 10),
        ("cars", "Triplet + MDR", 5e-5, 20),
    ]
    rows = [
        (dataset, method, lr, e, held * e, 5 * e, f"{dataset}{method}{lr}")
        for dataset, method, lr, held in runs
        for e in (0, 1)
    ]
    frame = pd.DataFrame(
        rows,
        columns=["dataset", "method", "lr", "epoch", "held_out_recall@1", "test_recall@1", "key"],
    )
    found = tables.searched(frame)
    assert found.columns.tolist() == [
        "Triplet, held out",
        "MDR, held out",
        "Triplet, test",
        "MDR, test",
    ]
    assert found.index.tolist() == [("cub", 1e-4), ("cub", 3e-4), ("cars", 5e-5), ("cars", 1e-4)]
    assert found.values.tolist() == [[20, 30, 5, 5], [10, 10, 5, 5], [10, 20, 5, 5], [20, 10, 5, 5]]
    used = pd.Series({"cub": 1e-4, "cars": 5e-5})
    assert (
        tables.preferred(frame, used)
        == "The search would have chosen on cars 0.0001 instead of 5e-05 for Triplet."
    )
    assert (
        tables.preferred(frame[frame.dataset == "cub"], used)
        == "The search would have chosen the same rates."
    )
    part = lacking(
        frame, (frame.dataset == "cars") & (frame.method == "Triplet") & (frame.lr == 5e-5)
    )
    assert tables.searched(part).loc[("cars", 5e-5)].isna().tolist() == [True, False, True, False]
    assert (
        tables.preferred(part, used)
        == "Where each rate was run, the search would have chosen the same rates."
    )
    assert tables.preferred(lacking(frame, frame.lr == 1e-4), used) == ""


def test_a_photograph_dataset_brings_no_search_into_another_profile():
    assert experiments.searches("photos", ["cub50"], ["Triplet"])
    assert experiments.searches("quick", ["cub50"], ["Triplet"]) == []


def test_a_dataset_that_the_profile_does_not_have_is_refused(capsys):
    assert experiments.main(["--dataset", "birds"]) == 2
    assert "unknown dataset 'birds': choose one of drawn" in capsys.readouterr().err

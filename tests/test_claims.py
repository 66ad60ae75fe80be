"""The rule of the verdicts, the two intervals that it rests on, and the tables of differences."""

import numpy as np
import pandas as pd
import pytest
import torch

from mdr_core.report import plots, tables
from mdr_core.study import class_bootstrap, claims, experiments, statistics, train
from mdr_core.study.class_bootstrap import Bootstrap
from mdr_core.study.claims import FAILS, HOLDS, LEVEL, MIXED, NOT_TESTED, OPEN, Cell, Claim, Result
from mdr_core.study.statistics import NOT_RUN

NONE = statistics.interval([])
BACKBONES = Claim("group", "text", "measured", "table2a", "with", "without", "report", by="cell")


def seeds(mean, half=1.0, n=3):
    return {"mean": mean, "half": half, "n": n}


def classes(low, high, p=0.001):
    return Bootstrap((low + high) / 2, low, high, p)


@pytest.mark.parametrize(
    "over_seeds, over_classes, verdict",
    [
        (seeds(2), None, HOLDS),
        (seeds(-2), None, FAILS),
        (seeds(0.2), None, LEVEL),
        (seeds(1.0), None, OPEN),  # from 0 to 2: it includes zero, and is not within 1.5
        (seeds(3), classes(1, 5), HOLDS),
        (seeds(3), classes(-1, 7, p=0.2), OPEN),  # other classes might have told otherwise
        (seeds(-3), classes(-5, -1), FAILS),
        (seeds(0.2), classes(-0.9, 1.2, p=0.8), LEVEL),
        (seeds(0.2), classes(-2, 2.4, p=0.8), OPEN),
        (seeds(2, float("nan"), 1), classes(1, 3), HOLDS),
        (seeds(2, float("nan"), 1), None, NOT_TESTED),
        (NONE, None, NOT_TESTED),
    ],
)
def test_the_rule_takes_both_intervals(over_seeds, over_classes, verdict):
    assert Cell("a", over_seeds, over_classes, 1.5).verdict == verdict
    assert Cell("a", over_seeds, over_classes, 1.5, "the setting cannot tell").verdict == NOT_TESTED


@pytest.mark.parametrize(
    "verdicts, by_dataset, over_cells",
    [
        ([2, 2], HOLDS, HOLDS),
        ([2, 0], MIXED, MIXED),
        ([2, -2], MIXED, FAILS),  # "in every backbone" fails where one does
        ([0, 0], LEVEL, LEVEL),
        ([2, None], HOLDS, HOLDS),
        ([], NOT_TESTED, NOT_TESTED),
    ],
)
def test_a_claim_s_word_is_its_cells(verdicts, by_dataset, over_cells):
    cells = [
        Cell(str(i), NONE if v is None else seeds(v), None, 1.5) for i, v in enumerate(verdicts)
    ]
    assert Result(BACKBONES, cells).verdict == over_cells
    by = Claim("group", "text", "measured", "table1", "MDR", "L2", "recall_at_k")
    assert Result(by, cells).verdict == by_dataset


def test_one_seed_is_said_and_cells_that_differ_are_named():
    one = [Cell("cub", seeds(5, float("nan"), 1), classes(4, 7), 1.5)]
    assert Result(BACKBONES, one).told == "holds (one seed)"
    level = Cell("cars", seeds(0.1, float("nan"), 1), classes(-1, 1, 0.9), 1.5)
    assert Result(BACKBONES, [*one, level]).told == "holds on cub, level on cars (one seed)"
    three = [
        Cell(name, seeds(value), None, 1.5) for name, value in zip("abc", (2, 0, 3), strict=True)
    ]
    assert Result(BACKBONES, three).told == "2 of 3 cells hold"


def test_several_cells_are_corrected_by_holm():
    cells = [
        Cell(name, seeds(mean), None, 1.5) for name, mean in zip("abc", (1.2, 9, 1.1), strict=True)
    ]
    assert [cell.verdict for cell in cells] == [HOLDS] * 3
    p = sorted(cell.p for cell in cells)
    found = claims.corrected(cells)
    assert found[1].corrected_p == pytest.approx(3 * p[0])
    assert found[0].corrected_p == pytest.approx(2 * p[1])
    assert found[2].corrected_p == pytest.approx(max(2 * p[1], p[2]))
    assert [cell.verdict for cell in found] == [OPEN, HOLDS, OPEN]


def test_p_is_student_s():
    assert statistics.p_value(statistics.interval([1, 2, 3])) == pytest.approx(0.0742, abs=1e-4)
    assert statistics.p_value(statistics.interval([1])) == 1


def counted():
    rights = {("with", 0): [8, 5, 9], ("with", 1): [8, 7, 9], ("without", 0): [6, 5, 5],
              ("without", 1): [6, 5, 7], ("with", 2): [1, 1, 1]}  # fmt: skip
    rows = [
        {"dataset": "d", "method": method, "seed": seed, "test_recall@1": sum(right),
         "test_class_right": right, "test_class_queries": [10, 10, 10]}
        for (method, seed), right in rights.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_classes_are_resampled_for_both_methods_at_once():
    claim = Claim("g", "t", "m", "table1", "with", "without", "r", counts="test_class_right")
    [cell] = claims.evaluate(claim, counted()).cells
    gain = np.array([2, 1, 3]) / 10  # of each class, over the two seeds that both methods have
    draws = np.random.default_rng(1).choice(gain, (20_000, 3)).mean(axis=1) * 100
    assert cell.seeds["n"] == 2 and cell.classes.mean == pytest.approx(20)
    assert cell.classes[1:3] == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.5)
    assert cell.verdict == OPEN or cell.classes.low > 0


def test_classes_without_a_difference_have_a_large_p():
    right = np.array([[3, 4, 5, 6]])
    same = class_bootstrap.difference(np.full(4, 10), right, right)
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    queries = np.array([10, 30])  # a class counts by its queries
    assert class_bootstrap.difference(queries, np.array([[10, 0]]), np.array([[0, 0]])).mean == 25


def test_older_runs_get_their_counts_from_their_findings():
    frame = pd.DataFrame({"key": ["a", "a", "b"], "epoch": [0, 1, 1]})
    found = {"labels": torch.tensor([0, 0, 1, 1]), "nearest": torch.tensor([[1], [2], [3], [2]])}
    frame = class_bootstrap.with_counts(frame, {"a": found})
    assert frame.test_class_right[1] == [1, 2] and frame.test_class_queries[1] == [2, 2]
    assert frame.test_class_right[[0, 2]].isna().all()


def test_a_table_has_every_cell_and_its_numbers_are_numbers():
    claim = Claim("g", "t", "m", "table1", "with", "without", "r", counts="test_class_right")
    table = claims.table(
        [claims.evaluate(claim, counted()), Result(claim, [Cell("x", NONE, None, 1)])]
    )
    assert table.cell.tolist() == ["d", "x"] and table.verdict.tolist()[1] == NOT_TESTED
    assert table[["difference", "half", "classes_low"]].dtypes.eq(float).all()
    assert claims.count([HOLDS, HOLDS, LEVEL]) == "2 of 3 claims hold, 1 is level"
    assert claims.count([HOLDS, FAILS, FAILS, NOT_TESTED]) == (
        "1 of 4 claims hold, 2 fail, 1 is not tested"
    )


def frame():
    rows = [("a", "with", s, 60 + s) for s in range(3)] + [
        ("a", "without", s, 58 + s + 0.1 * s) for s in range(3)
    ]
    rows += [("b", "with", s, 50 - s) for s in range(3)] + [
        ("b", "without", s, 50 + s) for s in range(3)
    ]
    return pd.DataFrame(rows, columns=["cell", "method", "seed", "test_recall@1"])


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
    assert train.main(["--dataset", "birds"]) == 2
    assert "unknown dataset 'birds': choose one of drawn" in capsys.readouterr().err

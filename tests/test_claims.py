"""The rule of the verdicts, and the tables of differences that it rests on."""

import pandas as pd
import pytest

from mdr_core import claims, experiments, stats, tables
from mdr_core.claims import FAILS, HOLDS, OPEN, Claim


def cell(mean, half=1.0, n=3):
    return {"mean": mean, "half": half, "n": n}


@pytest.mark.parametrize("cells, verdict", [
    ([cell(2)], HOLDS), ([cell(-2)], FAILS), ([cell(0.5)], OPEN), ([cell(2), cell(0.5)], OPEN), ([cell(2), cell(-2)], FAILS),
    ([cell(2, float("nan"), 1)], OPEN), ([], OPEN),
])
def test_the_rule(cells, verdict):
    assert Claim("c", "m", "e", dict(enumerate(cells))).verdict == verdict


def test_no_cost_is_held_against_its_tolerance():
    assert Claim("c", "m", "e", {"": cell(-0.5)}, tolerance=2.0).verdict == HOLDS
    assert Claim("c", "m", "e", {"": cell(-1.5)}, tolerance=2.0).verdict == OPEN
    assert Claim("c", "m", "e", {"": cell(-4)}, tolerance=2.0).verdict == FAILS


def test_a_row_shows_the_weakest_cell():
    row = Claim("any", "gain", "notebook", {"a": cell(3), "b": cell(2), "c": cell(2.5, 2.0)}).row()
    assert row["number"] == "+2.5 ± 2.0 points" and "weakest of 3: c" in row["measured"] and row["verdict"] == HOLDS
    assert claims.count([Claim("x", "m", "e", {"": cell(2)}), Claim("y", "m", "e", {"": cell(0)})]).startswith("1 of 2 claims hold")


def test_a_row_shows_a_cell_that_decides():
    row = Claim("any", "gain", "notebook", {"a": cell(-1, 5), "b": cell(-2)}).row()
    assert row["verdict"] == FAILS and row["number"] == "-2.0 ± 1.0 points" and "weakest of 2: b" in row["measured"]


def frame():
    rows = [("a", "with", s, 60 + s) for s in range(3)] + [("a", "without", s, 58 + s + 0.1 * s) for s in range(3)]
    rows += [("b", "with", s, 50 - s) for s in range(3)] + [("b", "without", s, 50 + s) for s in range(3)]
    return pd.DataFrame(rows, columns=["cell", "method", "seed", "test_recall@1"])


def test_cells_are_paired_by_seed():
    found = claims.by_cell(frame(), "cell", "with", "without")
    assert found["a"] == pytest.approx(stats.interval([2, 1.9, 1.8]) | {"excludes_zero": True})
    assert claims.by_cell(frame(), "cell", "with", "without", sign=-1)["a"]["mean"] == pytest.approx(-1.9)


def test_gains_and_differences_to_a_standard():
    table = tables.gains(frame(), "cell", "with", "without")
    assert table.verdict.tolist() == ["larger", tables.UNDECIDED] and table["difference"][0] == "+1.9 ± 0.2"
    assert table["with"][0] == tables.said(stats.interval([60, 61, 62]))
    against = tables.against(frame()[lambda f: f.method == "with"], "cell", "a")
    assert against.verdict.tolist() == ["the standard", tables.UNDECIDED] or against.verdict[1] == "smaller"
    assert against["mean"][1] == pytest.approx(-12)


def test_what_is_absent_leaves_an_empty_cell_and_one_seed_decides_nothing():
    lacking = frame().assign(dataset="d", other=[1.0, float("nan"), *[float("nan")] * 10])
    texts = tables.recall(lacking[lacking.cell == "a"], ["test_recall@1", "other"])[1]
    assert texts.other.tolist() == ["1.0 (n = 1)", ""]
    assert "One seed" in tables.caveat(frame()[lambda f: f.seed == 0]) and not tables.caveat(frame())
    assert tables.told(tables.differences(frame().assign(dataset="d"))) == tables.NOTHING


def test_the_untrained_embedding_is_a_raw_one_whatever_comes_first():
    rows = [(m, e, 10 * e + len(n), n, f"{m}") for m, n in (("Triplet + L2", "l2"), ("Triplet", "mean_distance")) for e in (0, 1)]
    history = pd.DataFrame(rows, columns=["method", "epoch", "test_recall@1", "normalization", "key"])
    untrained = lambda f: tables.with_untrained(f).set_index("method").loc["Untrained", "test_recall@1"]  # noqa: E731
    assert untrained(history) == 13 and untrained(history[history.normalization == "l2"]) == 2


def test_final_and_best_are_taken_run_by_run():
    rows = [(m, s, e, 10 * e if s == 0 else 10 * (2 - e), f"{m}{s}") for m in "xy" for s in (0, 1) for e in (0, 1, 2)]
    history = pd.DataFrame(rows, columns=["method", "seed", "epoch", "test_recall@1", "key"]).assign(loss=0.5)
    assert tables.final(history).epoch.tolist() == [2] * 4
    assert tables.best(history, tables.RECALL).epoch.tolist() == [2, 1, 2, 1]


def test_a_change_is_shown_with_the_methods_side_by_side_on_test_and_training_classes():
    rows = [("cars", c, m, e, 10.0 * e + len(c), 20.0 * e, 0.3 * e, 2.0, f"{c}{m}")
            for c, ms in (("as is", "xy"), ("longer", "y")) for m in ms for e in (0, 1)]
    frame = pd.DataFrame(rows, columns=["dataset", "change", "method", "epoch", "test_recall@1", "train_recall@1", "pair_std", "pair_mean", "key"])
    table = tables.side_by_side(frame, "change")
    assert table.columns.tolist() == ["dataset", "change", "x, test", "x, train", "x, spread", "y, test", "y, train", "y, spread"]
    assert table.values.tolist() == [["cars", "as is", *["15.0", "20.0", "15.0"] * 2], ["cars", "longer", "", "", "", "16.0", "20.0", "15.0"]]


def test_the_search_goes_by_classes_held_out_and_says_where_it_prefers_another_rate():
    runs = [("cub", "Triplet", 1e-4, 20), ("cub", "Triplet", 3e-4, 10), ("cub", "Triplet + MDR", 1e-4, 30), ("cub", "Triplet + MDR", 3e-4, 10),
            ("cars", "Triplet", 1e-4, 20), ("cars", "Triplet", 5e-5, 10), ("cars", "Triplet + MDR", 1e-4, 10), ("cars", "Triplet + MDR", 5e-5, 20)]
    rows = [(dataset, method, lr, e, held * e, 5 * e, f"{dataset}{method}{lr}") for dataset, method, lr, held in runs for e in (0, 1)]
    frame = pd.DataFrame(rows, columns=["dataset", "method", "lr", "epoch", "held_out_recall@1", "test_recall@1", "key"])
    found = tables.searched(frame)
    assert found.columns.tolist() == ["Triplet, held out", "MDR, held out", "Triplet, test", "MDR, test"]
    assert found.index.tolist() == [("cub", 1e-4), ("cub", 3e-4), ("cars", 5e-5), ("cars", 1e-4)]
    assert found.values.tolist() == [[20, 30, 5, 5], [10, 10, 5, 5], [10, 20, 5, 5], [20, 10, 5, 5]]
    used = pd.Series({"cub": 1e-4, "cars": 5e-5})
    assert tables.preferred(frame, used) == "The search would have chosen on cars 0.0001 instead of 5e-05 for Triplet."
    assert tables.preferred(frame[frame.dataset == "cub"], used) == "The search would have chosen the same rates."


def test_the_diagnosis_changes_one_thing_at_a_time_whatever_the_parameters():
    grid = experiments.diagnosis("photos", ["cub50", "cars196_train", "drawn"], [3], epochs=1, mdr_weight=0.4)
    base = {row["method"]: row["config"] for row in grid if row["change"] == "as in Table 1"}
    assert {row["dataset"] for row in grid} == {"cars196_train"} and all(row["config"].seed == 3 for row in grid)
    for row in grid:
        one, other = row["config"].to_dict(), base[row["method"]].to_dict()
        assert sum(one[k] != other[k] for k in one) == (row["change"] != "as in Table 1")
    assert {row["config"].epochs for row in grid if row["change"] == "twice as long"} == {2}
    assert experiments.diagnosis("photos", ["cars196_train"], [3], ["Triplet"]) == []


def test_a_photograph_dataset_brings_no_search_or_diagnosis_into_another_profile():
    assert experiments.searches("quick", ["cars196_train"], ["Triplet"]) == experiments.diagnosis("quick", ["cars196_train"], [0]) == []


def test_a_dataset_that_the_profile_does_not_have_is_refused(capsys):
    assert experiments.main(["--dataset", "birds"]) == 2
    assert "unknown dataset 'birds': choose one of drawn" in capsys.readouterr().err

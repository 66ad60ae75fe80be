"""The rule of the verdicts, the two intervals that it rests on, and the tables of differences."""

import numpy as np
import pandas as pd
import pytest

from mdr_core.report import tables
from mdr_core.study import claims, class_bootstrap, experiments, profiles, statistics
from mdr_core.study.claims import FAILS, HOLDS, LEVEL, MIXED, NOT_TESTED, OPEN, Cell, Claim, Result
from mdr_core.study.class_bootstrap import Bootstrap
from mdr_core.study.profiles import MDR, TRIPLET
from tests.frames import grid

NONE = statistics.interval([])
NAN = float("nan")
BACKBONES = Claim("group", "text", "measured", "table2a", "with", "without", "report", by="cell")
BY_CLASS = Claim("g", "t", "m", "table1", "with", "without", "r", counts="test_class_right")


def seeds(mean, half=1.0, n=3):
    return {"mean": mean, "half": half, "n": n} if mean is not None else NONE


def classes(low, high, p=0.001):
    return Bootstrap((low + high) / 2, low, high, p, seeds=5)


def cells(means):
    return [Cell("abcd"[i], seeds(mean), None, 1.5) for i, mean in enumerate(means)]


@pytest.mark.parametrize(
    "over_seeds, over_classes, verdict",
    [
        (seeds(2), None, HOLDS),
        (seeds(0.2), None, LEVEL),
        (seeds(1.0), None, OPEN),  # from 0 to 2: it includes zero, and is not within 1.5
        (seeds(3), classes(-1, 7, p=0.2), OPEN),  # other classes might have told otherwise
        (seeds(-3), classes(-5, -1), FAILS),
        (seeds(0.2), classes(-0.9, 1.2, p=0.8), LEVEL),
        (seeds(0.2), classes(-2, 2.4, p=0.8), OPEN),
        (seeds(2, NAN, 1), classes(1, 3), HOLDS),
        (seeds(2, NAN, 1), None, NOT_TESTED),
        (NONE, None, NOT_TESTED),
    ],
)
def test_the_rule_takes_both_intervals(over_seeds, over_classes, verdict):
    assert Cell("a", over_seeds, over_classes, 1.5).verdict == verdict
    assert Cell("a", over_seeds, over_classes, 1.5, "the setting cannot tell").verdict == NOT_TESTED


@pytest.mark.parametrize(
    "means, by_dataset, over_backbones",
    [
        ([2, 2], HOLDS, HOLDS),
        ([2, 0], MIXED, MIXED),
        ([2, -2], MIXED, FAILS),  # "in every backbone" fails where one does
        ([2, None], HOLDS, NOT_TESTED),  # a backbone that was not run may fail
        ([None, -2], FAILS, FAILS),
        ([], NOT_TESTED, NOT_TESTED),
    ],
)
def test_a_claim_s_word_is_its_cells(means, by_dataset, over_backbones):
    assert Result(BACKBONES, cells(means)).verdict == over_backbones
    assert Result(BY_CLASS, cells(means)).verdict == by_dataset


def test_several_cells_are_corrected_by_holm_with_the_p_of_student():
    interval = statistics.interval([1.0, 2.0, 3.0])
    assert interval["half"] == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)
    assert statistics.p_value(interval) == pytest.approx(0.0742, abs=1e-4)
    assert np.isnan(statistics.interval([1.0])["half"])
    alone = cells([1.2, 9, 1.1])
    assert [cell.verdict for cell in alone] == [HOLDS] * 3
    p, found = sorted(cell.p for cell in alone), claims.corrected(alone)
    expected = [2 * p[1], 3 * p[0], max(2 * p[1], p[2])]
    assert [cell.corrected_p for cell in found] == pytest.approx(expected)
    assert [cell.verdict for cell in found] == [OPEN, HOLDS, OPEN]


RIGHT = {
    ("with", 0): [8, 5, 9], ("with", 1): [8, 7, 9], ("with", 2): [1, 1, 1],
    ("without", 0): [6, 5, 5], ("without", 1): [6, 5, 7], ("without", 2): None,
}  # fmt: skip


def counted(seeds=range(2)):
    """Return runs with right answers by class; of the third seed one method recorded them."""
    frame = grid(dataset=["d"], method=["with", "without"], seed=seeds)
    right = [RIGHT[run] for run in zip(frame.method, frame.seed, strict=True)]
    return frame.assign(test_class_right=right, test_class_queries=[[10, 10, 10]] * len(frame))


def test_the_classes_are_resampled_for_both_methods_at_once():
    [cell] = claims.evaluate(BY_CLASS, counted()).cells
    gain = np.array([20, 10, 30])  # of each class in %, over the two seeds
    draws = np.random.default_rng(1).choice(gain, (20_000, 3)).mean(axis=1)
    assert cell.seeds["n"] == 2 and cell.classes.mean == pytest.approx(20)
    assert cell.classes[1:3] == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.5)


def test_a_table_has_every_cell_with_the_numbers_of_seeds_behind_it():
    results = [claims.evaluate(BY_CLASS, counted(range(n))) for n in (3, 1)]
    results.append(Result(BY_CLASS, [Cell("x", NONE, None, 1)]))
    table = claims.table(results)
    assert table.cell.tolist() == ["d", "d", "x"] and table.verdict.tolist()[2] == NOT_TESTED
    assert table.seeds.tolist() == [3, 1, 0] and table.classes_seeds.tolist() == [2, 1, 0]
    shown = tables.of_claims(table)
    assert [" (2 seeds)" in text for text in shown["over test classes"]] == [True, False, False]
    assert [" (one seed)" in text for text in shown.verdict] == [False, True, False]
    assert f'<td class="{results[1].verdict}"' in tables.styled(shown, "claims").data
    assert " with 2 seeds)" in results[0].cells[0].text()


def test_classes_without_a_difference_have_a_large_p():
    right = np.array([[3, 4, 5, 6]])
    same = class_bootstrap.difference(np.full(4, 10), right, right)
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    queries = np.array([10, 30])  # a class counts by its queries
    assert class_bootstrap.difference(queries, np.array([[10, 0]]), np.array([[0, 0]])).mean == 25


def test_an_ablation_counts_every_run_of_table_1_and_a_search_is_of_the_profile_s_datasets():
    rows = experiments.table2c("quick", [], {"drawn": [0.2, 0.6]}, [0], [0, 1, 2])
    found = pd.DataFrame(rows).groupby("setting").seed.apply(list).to_dict()
    assert found == {"λ = 0": [0, 1, 2], "λ = 0.2": [0, 1, 2], "λ = 0.6": [0]}
    assert experiments.searches("photos", ["cub50"], [TRIPLET])
    assert experiments.searches("quick", ["cub50"], [TRIPLET]) == []


def test_levels_move_by_the_sum_of_the_learning_rates_at_most():
    for profile, moved in {"quick": 1.06, "photos": 0.05, "full": 0.11, "paper": 0.22}.items():
        config = profiles.config(profile, profiles.datasets(profile)[0], MDR)
        assert profiles.level_reach(config) == pytest.approx(moved, abs=0.005)

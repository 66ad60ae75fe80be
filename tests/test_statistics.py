"""Differences, their intervals, and their verdicts."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from mdr_core import statistics
from mdr_core.errors import StudyError
from mdr_core.profiles import Study, title
from mdr_core.runs.run import run
from mdr_core.statistics import RECALL, VERDICTS, Difference, difference, mean, verdict


def rows(right, queries=(10, 10), **more):
    """Return a row per seed from right answers by seed and class."""
    recall = 100 * np.sum(right, axis=1) / np.sum(queries)
    by_class = {"test_class_queries": [list(queries)] * len(right), "test_class_right": right}
    seeds = {"seed": range(len(right)), "stored": True, RECALL: recall}
    return pd.DataFrame(seeds | by_class | more)


ONE, OTHER = rows([[8, 6], [8, 4]]), rows([[5, 5], [5, 5]])  # 20 and 10 points: d = 15, s₁ = 5


def without_counts(frame, seeds):
    frame = frame.astype({"test_class_right": object})
    frame.loc[frame.seed.isin(seeds), ["test_class_right", "test_class_queries"]] = np.nan
    return frame


@pytest.mark.parametrize(
    ("seeds", "uncounted", "d", "s1", "s2", "over"),
    [
        ([0, 1], [], 15, 5, 15, "seeds and classes"),  # g = 3, 0; r = ± 1.5
        ([0, 1], [1], 15, 5, 10, "seeds and classes"),  # seed 0 alone: g = 3, 1; r = ± 1
        ([0, 1], [0, 1], 15, 5, 0, "seeds only"),
        ([0], [], 20, 0, 10, "classes only"),
    ],
)
def test_the_interval_is_as_computed_by_hand(seeds, uncounted, d, s1, s2, over):
    found = difference(without_counts(ONE[ONE.seed.isin(seeds)], uncounted), OTHER)
    freedom = (s1**2 + s2**2) ** 2 / (s1**4 + s2**4)  # n − 1 = C − 1 = 1
    s = np.hypot(s1, s2)
    half = t.ppf(0.975, freedom) * s
    expected = (d, d - half, d + half, 2 * t.cdf(-d / s, freedom))
    assert found[:4] == pytest.approx(expected) and found[4:6] == (len(seeds), over)


def test_one_seed_without_counts_has_no_interval():
    found = difference(ONE[:1].drop(columns="test_class_right"), OTHER)
    assert str(found) == "+20.0 (one seed)" and np.isnan(found[1:4]).all()


@pytest.mark.parametrize("classes", [25, 100])
def test_intervals_cover_the_true_difference_in_95_percent_of_studies(classes):
    """Simulate 400 studies of 5 seeds whose true gain is 4 points.

    The gain's standard deviation is 8 points between classes and 1.5 between seeds; of 40 to 80
    queries a class, of unlike difficulty, each is right at random, for each method and seed.
    """
    generator, covered = np.random.default_rng(0), 0
    for _ in range(400):
        queries = generator.integers(40, 81, classes)
        other = generator.normal(0.45, 0.1, classes).clip(0.2, 0.7)
        gain = 0.04 + generator.normal(0, 0.08, classes) + generator.normal(0, 0.015, (5, 1))
        chances = (other + gain).clip(0, 1), other + 0 * gain
        found = difference(
            *(rows(generator.binomial(queries, x).tolist(), queries) for x in chances)
        )
        covered += found.low < 4 < found.high
    assert 0.92 < covered / 400 < 0.98


def test_seeds_without_a_partner_or_a_number_and_the_order_of_rows_do_not_count():
    three = rows([[8, 6], [8, 4], [0, 0]])
    gone = three.assign(**{RECALL: three[RECALL].where(three.seed < 2)}, stored=three.seed < 2)
    for one, other in ((three, OTHER), (gone, rows([[5, 5]] * 3)), (ONE[::-1], OTHER)):
        assert difference(one, other) == difference(ONE, OTHER)
    nothing = pd.DataFrame({"seed": [0], "stored": [False]})  # as where no run is stored
    assert str(difference(nothing, OTHER)) == str(mean(nothing)) == "not run"


@pytest.mark.parametrize("value", [RECALL, "test_recal@1"])
def test_two_rows_of_a_seed_and_unknown_numbers_are_refused(value):
    with pytest.raises(StudyError):
        difference(pd.concat([ONE, ONE]), OTHER, value)


def test_a_mean_has_the_interval_of_its_seeds():
    assert str(mean(ONE)) == "65.0 (1.5 to 100.0)"  # 5 · 12.706, but no share is above 100 %
    assert mean(ONE.assign(spread=ONE[RECALL]), "spread").text() == "65.0 (1.5 to 128.5)"
    assert mean(ONE[:1]).text(2) == "70.00 (one seed)"


def test_numbers_have_a_true_minus_and_zero_has_no_sign():
    found = Difference(-0.04, -2.26, -0.01, 0.6, 5, "seeds only")
    assert (str(found), found.text(2)) == ("0.0 (−2.3 to 0.0)", "−0.04 (−2.26 to −0.01)")


def test_holm_corrects_a_worked_example_and_passes_what_is_not_tested():
    found = statistics.holm([0.01, 0.04, np.nan, 0.03, 0.005, 0.9])  # × 4, 2, –, 3, 5, 1
    assert found == pytest.approx([0.04, 0.09, np.nan, 0.09, 0.025, 0.9], nan_ok=True)


@pytest.mark.parametrize(
    ("found", "p", "word"),
    [
        (Difference(), None, "not run"),
        (Difference(4, 2, 6, 0.01, 1, "classes only"), None, "one seed"),
        (Difference(4, 2, 6, 0.01, 5), None, "holds"),
        (Difference(0.5, 0.1, 0.9, 0.01, 5), None, "holds"),  # before it is equal
        (Difference(-4, -6, -2, 0.01, 5), 0.049, "fails"),
        (Difference(0.2, -1.4, 1.4, 0.7, 5), None, "equal"),
        (Difference(0.5, 0.1, 0.9, 0.01, 5), 0.06, "equal"),
        (Difference(4, 2, 6, 0.01, 5), 0.06, "unclear"),
        (Difference(0.2, -1.6, 1.4, 0.7, 5), None, "unclear"),
    ],
)
def test_every_difference_has_one_verdict(found, p, word):
    assert verdict(found, p=p) == word and word in VERDICTS


def test_verdicts_are_corrected_over_the_cells_of_each_dataset():
    right = {0: [[6, 6]] * 3, 1: [[7, 7], [7, 8], [8, 7]], 2: [[9, 9], [9, 8], [8, 9]]}
    cells = [("a", "x", 1), ("a", "y", 2), ("b", "x", 1), ("a", "z", 0)]
    about = [{"dataset": data, "loss": loss} for data, loss, _ in cells]
    runs = [rows(right[n], **c, method="one") for c, (*_, n) in zip(about, cells, strict=True)]
    runs = pd.concat(runs + [rows(right[0], **c, method="other") for c in about[:-1]])
    asked = {"method": "one"}, {"method": "other"}, ["dataset", "loss"]
    table, one_seed = (statistics.compare(some, *asked) for some in (runs, runs[runs.seed == 0]))
    assert one_seed.told.tolist() == ["one seed, above zero"] * 3 + ["not run"]
    assert table[["dataset", "loss"]].to_dict("records") == about
    p = table.p[:3].tolist()
    assert table.p_holm[:3].tolist() == pytest.approx([max(p[0], 2 * p[1]), 2 * p[1], p[2]])
    assert table.verdict.tolist() == ["holds", "holds", "holds", "not run"]


@pytest.mark.parametrize("dataset", ["cub50", "omniglot"])
def test_a_difference_of_the_ledger_has_its_verdict_on_every_page(dataset):
    column = statistics.tested()
    column = column[column.dataset == title(dataset)]
    assert statistics.corrected(column.p.rename(dataset)) == pytest.approx([*column.p_holm])
    assert statistics.corrected(pd.Series([0.01], name=dataset))[0] > 0.1  # among all others


def test_a_runs_epochs_are_chosen_and_what_is_not_stored_stays():
    runs = pd.DataFrame({"run": [0, 0, 0, 0, 1], "key": list("aaaab"), "epoch": [0, 1, 2, 3, 3],
                         "stored": [True] * 4 + [False], RECALL: [9, 5, 5, 4, np.nan]})  # fmt: skip
    chosen = statistics.best(runs[::-1]), statistics.last(runs)
    assert [frame.epoch.tolist() for frame in chosen] == [[1, 3], [3, 3]]
    with pytest.raises(StudyError):
        statistics.best(runs, "held_out_recall@1")


@pytest.mark.parametrize("other, ends", [("Triplet + L2", (1.6, 6.6)), ("Triplet", (8.7, 19.6))])
def test_committed_runs_give_the_published_interval(other, ends):
    study, stored = Study("photos"), {"missing_too": False}
    found = [
        run([study.config(method, seed=s) for s in study.seeds_of(study.config(method))], **stored)
        for method in ("Triplet + MDR", other)
    ]
    assert difference(*map(statistics.last, found))[1:3] == pytest.approx(ends, abs=0.05)


def test_pairs_are_counted_at_their_nearest_level():
    row = {"levels": [-1, 1], "level_0": -1.0, "level_1": 1.0, "running_mean": 1.0}
    row |= {"running_std": 0.5, "pair_mean": 1.0, "negative_histogram": [3, 0, 1, 4]}
    # bins at 0.25, 0.75, 1.25, 1.75; the levels, at 0.5 and 1.5, divide them at 1
    assert statistics.nearest_level(pd.Series(row), "negative").tolist() == [37.5, 62.5]

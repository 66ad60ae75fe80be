"""Tables of intervals and differences, with runs that are not stored; what they show and save."""

import numpy as np
import pandas as pd
import pytest

from mdr_core.report import tables
from mdr_core.report.tables import Interval
from mdr_core.study import statistics
from mdr_core.study.profiles import BEFORE, TRIPLET
from mdr_core.study.statistics import NOT_RUN, NOT_SIGNIFICANT, ONE_SEED
from tests.frames import grid

NAN = float("nan")


def recall(cell, method, seed):
    found = {"with": {"a": 60 + seed, "b": 50 - seed}, "without": {"a": 58 + 1.1 * seed}}
    return found[method].get(cell, 50 + seed)


def lacking(frame, which):  # runs that are not stored: one row each, without numbers
    kept = frame[~which | (frame.epoch == frame.epoch.max())] if "epoch" in frame else frame
    kept = kept.assign(stored=~which)
    kept.loc[~kept.stored, [c for c in kept if "recall" in c]] = NAN
    return kept


def texts(table):
    return table.map(lambda cell: "" if cell is None else str(cell)).values.tolist()


@pytest.fixture
def frame():
    return grid(recall, cell="ab", method=["with", "without"], seed=range(3))


def test_an_interval_becomes_text_by_its_format_and_decides_by_its_ends():
    assert f"{Interval(-1.25, 0.5, 3):+.2f}" == "−1.25 ± 0.50"
    assert str(Interval(2.0, NAN, 1)) == "2.0" and str(tables.interval([])) == NOT_RUN
    found = [Interval(2, 1, 3), Interval(-2, 1, 3), Interval(1, 1, 3), Interval(2.0, NAN, 1)]
    assert [each.verdict for each in found] == ["larger", "smaller", NOT_SIGNIFICANT, ONE_SEED]


def test_gains_and_differences_to_a_standard_with_sides_that_are_not_run(frame):
    table = tables.gains(frame, "cell", "with", "without")
    assert table.verdict.tolist() == ["larger", NOT_SIGNIFICANT]
    against = tables.against(frame[frame.method == "with"], "cell", "a")
    assert against.verdict.tolist() == ["the standard", "smaller"]
    assert against["difference"][1].mean == pytest.approx(-12)
    part = lacking(frame, frame.method.eq("with") & frame.cell.eq("b"))
    table = tables.gains(part, "cell", "with", "without")
    assert texts(table[["with", "verdict"]]) == [["61.0 ± 2.5", "larger"], [NOT_RUN, NOT_RUN]]
    assert not tables.better_side(table, "with", "without").iloc[1].any()
    for standard, verdicts in (("a", ["the standard", NOT_RUN]), ("b", [NOT_RUN, NOT_RUN])):
        table = tables.against(part[part.method == "with"], "cell", standard)
        assert table.verdict.tolist() == verdicts and str(table["difference"][1]) == NOT_RUN


def test_a_table_is_saved_as_numbers_and_shown_as_text(frame, tmp_path):
    table = tables.gains(frame, "cell", "with", "without")
    tables.save(table, tmp_path / "gains.csv")
    saved = pd.read_csv(tmp_path / "gains.csv")
    sides = [f"{side}{part}" for side in ("without", "with", "difference")
             for part in ("", " half width", " n")]  # fmt: skip
    assert saved.columns.tolist() == ["cell", *sides, "verdict"]
    assert saved["difference"].tolist() == pytest.approx([1.9, -2]) and saved["with n"].dtype == int
    html = tables.styled(table, "caption", best=tables.better_side(table, "with", "without")).data
    unbroken = "+1.9\u00a0±\u00a00.2", "61.0\u00a0±\u00a02.5"
    assert all(text in html for text in (*unbroken, "−2.0", ">n</th>", ">3</td>", "caption"))
    assert html.count("<strong>") == 1


def test_a_tie_is_bold_as_a_tie_and_one_seed_never():
    def best(**options):
        return tables.best_of_dataset(table, **options).value.tolist()

    cells = Interval(87.04, 1, 3), Interval(86.96, 1, 3), Interval(80, 1, 3), Interval(99, 1, 1)
    table = pd.DataFrame({"value": cells}, pd.Index([*"aaab"], name="dataset"))
    assert best() == [True, True, False, False]
    assert best(digits=2) == [True, False, False, False]
    assert best(smallest=["value"]) == [False, False, True, False]
    assert "<strong>" not in tables.styled(table[-1:], "", best=table[-1:].notna()).data


def test_groups_of_rows_have_titles_and_every_cell_shows_what_it_is():
    rows = [("a", "x", 0, 1.0), ("a", "x", 1, 2.0), ("a", "y", 0, 3.0)]
    table = pd.DataFrame(rows, columns=["dataset", "method", "epoch", "value"])
    html = tables.styled(table.set_index(["dataset", "method", "epoch"]), "").data
    assert html.count("<tbody>") == html.count("</tbody>") == 2 and html.count('scope="row"') == 3
    assert ">a · x<" in html and ">a · y<" in html
    unnamed = pd.DataFrame({"name": ["<b>"], "rate": [None], "verdict": ["holds"]}, index=["row"])
    html = tables.styled(unnamed, "", absent="fixed").data
    assert "<thead><tr><td></td>" in html  # no heading without a word
    assert "&lt;b&gt;" in html and ">fixed<" in html and '<td class="holds"' in html


@pytest.fixture
def runs_and_part():  # of three methods, and the same runs of which some are not stored
    more = {"Triplet + L2": -1, "Triplet": 0, "Triplet + MDR": 5}
    whole = grid(
        lambda method, seed, epoch, **_: (40.0, 60.0, 50.0)[epoch] + seed + more[method],
        dataset="d", method=more, seed=range(3), epoch=range(3),
    )  # fmt: skip
    whole["key"] = whole.method + whole.seed.astype(str)
    whole["normalization"] = np.where(whole.method == "Triplet + L2", "l2", "raw")
    absent = (whole.method == "Triplet + L2") | ((whole.method == "Triplet") & (whole.seed == 0))
    return whole, lacking(whole, absent)


def test_what_is_not_run_says_so_and_counts_nowhere(runs_and_part):
    whole, part = runs_and_part[0], runs_and_part[1].assign(other=NAN)
    last, best = statistics.final(part), statistics.best(part, statistics.RECALL)
    assert [len(runs) for runs in (last, best)] == [9, 9]
    assert [runs["test_recall@1"].max() for runs in (last, best)] == [57, 67]
    assert [runs["test_recall@1"].notna().sum() for runs in (last, best)] == [5, 5]
    table = tables.summary(last, {c: c for c in ("test_recall@1", "other", "nowhere")})
    assert texts(table) == [[NOT_RUN] * 3, ["51.5 ± 6.4", "", ""], ["56.0 ± 2.5", "", ""]]
    assert tables.best_of_dataset(table)["test_recall@1"].tolist() == [False, False, True]
    found = tables.differences(last)
    assert found.verdict.tolist() == [NOT_RUN, "larger"]
    assert [f"{d:+.1f}" for d in found.difference] == [NOT_RUN, "+5.0 ± 0.0"]
    assert [d.n for d in found.difference] == [0, 2]
    assert tables.means_in_words(last) == "d: L2 not run, Triplet 51.5, MDR 56.0"
    assert [tables.seeds(each) for each in (whole, part)] == ["3 seeds", "2 to 3 seeds"]
    assert [*statistics.first_seed(part).seed.unique()] == [1]


def test_the_untrained_embedding_is_a_raw_one_where_there_is_one(runs_and_part):
    whole, part = runs_and_part
    normalized, first = whole[whole.normalization == "l2"], {0: 40, 1: 41, 2: 42}
    expected = (part, {1: 41, 2: 42, 0: 45}), (whole, first), (normalized, {0: 39, 1: 40, 2: 41})
    for frame, recall_before in expected:
        rows = statistics.with_start(frame)[lambda f: f.method == BEFORE]
        assert dict(zip(rows.seed, rows["test_recall@1"], strict=True)) == recall_before


def test_datasets_stay_together():
    table = tables.summary(grid(method=[BEFORE, TRIPLET], dataset="xy"), {"test_recall@1": "R@1"})
    assert table.index.tolist() == [(d, m) for d in "xy" for m in (BEFORE, TRIPLET)]


def test_the_search_goes_by_classes_held_out_and_says_where_it_prefers_another_rate():
    cells = ("cub", 1e-4), ("cub", 3e-4), ("cars", 1e-4), ("cars", 5e-5)
    held_out = {TRIPLET: (20, 10, 20, 10), "Triplet + MDR": (30, 10, 10, 20)}
    rows = [
        (*cell, method, epoch, held * epoch, 5 * epoch, f"{cell}{method}")
        for method, each in held_out.items()
        for cell, held in zip(cells, each, strict=True)
        for epoch in (0, 1)
    ]
    columns = ["dataset", "lr", "method", "epoch", "held_out_recall@1", "test_recall@1", "key"]
    search, used = pd.DataFrame(rows, columns=columns), pd.Series({"cub": 1e-4, "cars": 5e-5})
    found = tables.searched(search)
    assert [*found] == ["Triplet, held out", "MDR, held out", "Triplet, test", "MDR, test"]
    assert found.index.tolist() == [("cub", 1e-4), ("cub", 3e-4), ("cars", 5e-5), ("cars", 1e-4)]
    assert found.values.tolist() == [[20, 30, 5, 5], [10, 10, 5, 5], [10, 20, 5, 5], [20, 10, 5, 5]]
    assert "on cars 0.0001 instead of 5e-05 for Triplet." in tables.preferred(search, used)
    assert "instead" not in tables.preferred(search[search.dataset == "cub"], used)
    part = lacking(search, (search.method == TRIPLET) & (search.lr == 5e-5))
    assert tables.searched(part).loc[("cars", 5e-5)].isna().tolist() == [True, False, True, False]
    assert tables.preferred(lacking(search, search.lr == 1e-4), used) == ""

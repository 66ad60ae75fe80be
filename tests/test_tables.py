"""Tables of intervals and differences, with runs that are not stored; what they show and save."""

import pandas as pd
import pytest

from mdr_core.report import tables
from mdr_core.report.pages.html_table import unbroken
from mdr_core.report.tables import Interval
from mdr_core.study import statistics
from mdr_core.study.profiles import BEFORE, TRIPLET
from mdr_core.study.statistics import NOT_RUN, NOT_SIGNIFICANT, ONE_SEED


def frame():
    sides = {
        ("a", "with"): lambda s: 60 + s,
        ("a", "without"): lambda s: 58 + s + 0.1 * s,
        ("b", "with"): lambda s: 50 - s,
        ("b", "without"): lambda s: 50 + s,
    }
    rows = [(*side, s, value(s)) for side, value in sides.items() for s in range(3)]
    return pd.DataFrame(rows, columns=["cell", "method", "seed", "test_recall@1"])


def lacking(frame, which):
    """Return a table with runs that are not stored: one row each, without numbers."""
    last = frame.epoch.max() if "epoch" in frame else None
    kept = frame[~which | (frame.epoch == last)] if last is not None else frame
    numbers = [c for c in kept if "recall" in c]
    kept = kept.assign(stored=~which)
    kept.loc[~kept.stored, numbers] = float("nan")
    return kept


def texts(table):
    return table.map(lambda cell: "" if cell is None else str(cell)).values.tolist()


def test_an_interval_becomes_text_by_its_format():
    assert (
        f"{Interval(-1.25, 0.5, 3):+.2f}" == "−1.25 ± 0.50"
        and str(Interval(2, 1, 3)) == "2.0 ± 1.0"
    )
    assert str(Interval(2.0, float("nan"), 1)) == "2.0" and str(tables.interval([])) == NOT_RUN
    assert Interval(2, 1, 3).verdict == "larger" and Interval(-2, 1, 3).verdict == "smaller"
    assert Interval(1, 1, 3).verdict == NOT_SIGNIFICANT
    assert Interval(2.0, float("nan"), 1).verdict == ONE_SEED


def test_gains_and_differences_to_a_standard():
    table = tables.gains(frame(), "cell", "with", "without")
    assert table.verdict.tolist() == ["larger", NOT_SIGNIFICANT]
    assert f"{table['difference'][0]:+.1f}" == "+1.9 ± 0.2"
    assert table["with"][0] == tables.interval([60, 61, 62])
    against = tables.against(frame()[lambda f: f.method == "with"], "cell", "a")
    assert against.verdict[0] == "the standard"
    assert against.verdict[1] in (NOT_SIGNIFICANT, "smaller")
    assert against["difference"][1].mean == pytest.approx(-12)


def test_a_table_is_saved_as_numbers_and_shown_as_text(tmp_path):
    table = tables.gains(frame(), "cell", "with", "without")
    tables.save(table, tmp_path / "gains.csv")
    saved = pd.read_csv(tmp_path / "gains.csv")
    parts = ["", " half width", " n"]
    assert saved.columns.tolist() == [
        "cell",
        *(side + part for side in ("without", "with", "difference") for part in parts),
        "verdict",
    ]
    assert saved["difference"].tolist() == pytest.approx([1.9, -2]) and saved["with n"].dtype == int
    page = tables.styled(table, "caption", best=tables.better_side(table, "with", "without"))
    html = page.data
    unbroken = "+1.9\u00a0±\u00a00.2", "61.0\u00a0±\u00a02.5"
    for text in (*unbroken, "−2.0", "<th", ">n</th>", ">3</td>", "caption", "Bold: "):
        assert text in html
    assert html.count("<strong>") == 1 and "color: #6" in html


def test_an_empty_cell_and_a_name_with_marks_are_shown_as_they_are():
    table = pd.DataFrame(
        {"name": ["<b>", "c"], "rate": [0.5, None], "verdict": ["holds", "undecided"]}
    )
    html = tables.styled(table, "caption", formats={"rate": ".2f"}, absent="fixed").data
    assert "&lt;b&gt;" in html and ">0.50<" in html and ">fixed<" in html
    assert '<td class="holds"' in html


def best(rows, **options):
    table = pd.DataFrame(rows, columns=["dataset", "value"]).set_index("dataset")
    return tables.best_of_dataset(table, **options).value.tolist()


def test_a_tie_is_bold_as_a_tie_and_one_seed_never():
    near = [("a", Interval(87.04, 1, 3)), ("a", Interval(86.96, 1, 3)), ("a", Interval(80, 1, 3))]
    assert best(near) == [True, True, False]
    assert best(near, digits=2) == [True, False, False]
    assert best(near, smallest=["value"]) == [False, False, True]
    assert best([*near, ("b", Interval(99, float("nan"), 1))])[-1] is False
    one = pd.DataFrame({"m": ["x"], "value": [Interval(99, float("nan"), 1)]})
    assert "<strong>" not in tables.styled(one, "", best=one.notna()).data


def test_groups_of_rows_have_a_title_of_their_own():
    rows = [("a", "x", 0, 1.0), ("a", "x", 1, 2.0), ("a", "y", 0, 3.0)]
    table = pd.DataFrame(rows, columns=["dataset", "method", "epoch", "value"])
    html = tables.styled(table.set_index(["dataset", "method", "epoch"]), "").data
    assert html.count("<tbody>") == html.count("</tbody>") == 2
    assert ">a · x<" in html and ">a · y<" in html and html.count('scope="row"') == 3
    unnamed = tables.styled(pd.DataFrame({"value": [1.0]}, index=["row"]), "").data
    assert "<thead><tr><td></td>" in unnamed  # no heading without a word


@pytest.mark.parametrize(
    "text", ["3.0 ± 1.5", "(± 1.5 over 5 seeds)", "−0.9 to 1.2", "95 % of them", "a (0.8 to 7.6) b"]
)
def test_an_interval_does_not_break_across_lines(text):
    lines = unbroken(text).split(" ")
    assert not any(line in ("±", "to", "%") or line.endswith("±") for line in lines)
    assert unbroken(text).replace("\u00a0", " ") == text


def test_what_is_not_run_says_so_and_counts_nowhere():
    rows = [
        (m, s, e, f"{m}{s}", norm, 40.0 + 10 * e + s + 5 * (m == "Triplet + MDR"))
        for m, norm in (("Triplet", "raw"), ("Triplet + L2", "l2"), ("Triplet + MDR", "raw"))
        for s in (0, 1, 2)
        for e in (0, 1, 2)
    ]
    columns = ["method", "seed", "epoch", "key", "normalization", "test_recall@1"]
    whole = pd.DataFrame(rows, columns=columns).assign(dataset="d", other=1.0)
    part = lacking(
        whole, (whole.method == "Triplet + L2") | ((whole.method == "Triplet") & (whole.seed == 0))
    ).assign(other=float("nan"))
    for one_a_run in (statistics.final(part), statistics.best(part, statistics.RECALL)):
        assert len(one_a_run) == 9 and one_a_run["test_recall@1"].notna().sum() == 5
    last = statistics.final(part)
    table = tables.summary(last, {c: c for c in ("test_recall@1", "other", "nowhere")})
    assert texts(table) == [["61.5 ± 6.4", "", ""], [NOT_RUN] * 3, ["66.0 ± 2.5", "", ""]]
    assert tables.best_of_dataset(table)["test_recall@1"].tolist() == [False, False, True]
    found = tables.differences(last)
    assert found.verdict.tolist() == ["larger", NOT_RUN]
    assert [f"{d:+.1f}" for d in found.difference] == ["+5.0 ± 0.0", NOT_RUN]
    assert [d.n for d in found.difference] == [2, 0]
    assert tables.means_in_words(last) == "d: Triplet 61.5, L2 not run, MDR 66.0"
    assert tables.over_seeds(whole) == "mean ± 95 % interval over 3 seeds"
    assert tables.over_seeds(whole[whole.seed == 0]) == "1 seed"
    assert tables.seeds(whole) == "3 seeds" and tables.seeds(part) == "2 to 3 seeds"
    assert statistics.first_seed(whole).seed.unique() == [0]
    assert statistics.first_seed(part).seed.unique() == [1]
    assert tables.caveat(part[part.seed == 1]) and not tables.caveat(part)
    untrained = statistics.with_start(part)[lambda f: f.method == "Before fine-tuning"]
    assert untrained.seed.tolist() == [1, 2, 0]
    assert untrained["test_recall@1"].tolist() == [41, 42, 45]


def test_datasets_stay_together_where_the_untrained_rows_come_first():
    rows = [
        ("Before fine-tuning", "x"),
        ("Before fine-tuning", "y"),
        ("Triplet", "x"),
        ("Triplet", "y"),
    ]
    runs = pd.DataFrame(rows, columns=["method", "dataset"]).assign(value=1.0)
    table = tables.summary(runs, {"value": "value"})
    assert table.index.tolist() == [(d, m) for d in "xy" for m in ("Before fine-tuning", "Triplet")]


def test_a_side_or_a_standard_that_is_not_run():
    part = lacking(frame(), frame().method.eq("with") & frame().cell.eq("b"))
    table = tables.gains(part, "cell", "with", "without")
    assert list(map(str, table["with"])) == ["61.0 ± 2.5", NOT_RUN]
    assert table.verdict.tolist() == ["larger", NOT_RUN]
    assert [d.n for d in table["difference"]] == [3, 0]
    assert not tables.better_side(table, "with", "without").iloc[1].any()
    one = tables.against(part[part.method == "with"], "cell", "a")
    assert one.verdict.tolist() == ["the standard", NOT_RUN]
    assert [own.n for own in one["Recall@1"]] == [3, 0]
    assert one["difference"][0] is None and str(one["difference"][1]) == NOT_RUN
    other = tables.against(part[part.method == "with"], "cell", "b")
    assert other.verdict.tolist() == [NOT_RUN, NOT_RUN]


def test_what_is_absent_leaves_an_empty_cell_and_one_seed_decides_nothing():
    absent = frame().assign(dataset="d", other=[1.0, float("nan"), *[float("nan")] * 10])
    columns = {"test_recall@1": "R@1", "other": "other"}
    table = tables.summary(absent[absent.cell == "a"], columns)
    assert [row[1] for row in texts(table)] == ["1.0", ""]
    assert "One seed" in tables.caveat(frame()[lambda f: f.seed == 0])
    assert not tables.caveat(frame())
    assert tables.differences(frame().assign(dataset="d")).empty  # no MDR in it


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
    columns = ["dataset", "method", "lr", "epoch", "held_out_recall@1", "test_recall@1", "key"]
    frame = pd.DataFrame(rows, columns=columns)
    found = tables.searched(frame)
    assert found.columns.tolist() == [
        "Triplet, held out", "MDR, held out", "Triplet, test", "MDR, test",
    ]  # fmt: skip
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


def test_a_loss_that_ends_below_its_start_undoes_damage():
    rows = [("d", TRIPLET, 40.0), ("d", BEFORE, 47.0), ("e", TRIPLET, 48.0), ("e", BEFORE, 47.0)]
    ends = pd.DataFrame(rows, columns=["dataset", "method", statistics.RECALL])
    assert tables.undone(ends).startswith("On d the triplet loss ends at 40.0 %, below 47.0 %")
    assert "On e" not in tables.undone(ends)
    assert tables.undone(ends[ends.method == TRIPLET]) == ""

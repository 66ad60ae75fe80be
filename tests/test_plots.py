"""Figures: what is drawn is what was measured, and names do not collide."""

from itertools import pairwise
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.text import Text

from mdr_core.evaluation.pair_statistics import batch_statistics
from mdr_core.regularizer import MDR, pairwise_distances
from mdr_core.report import plots
from mdr_core.report.plots.distances import density_of, recorded
from mdr_core.study import claims, statistics
from tests.frames import grid

CLAIM = claims.Claim("G", "A beats B", "", "", "A", "B", "there", by="cell", counts="right")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def runs(seeds=3, cells=("one", "other"), lacking=()):
    """Return a row per run: A is better than B in the first cell alone."""
    frame = grid(cell=cells, seed=range(seeds), method="AB")
    better = frame.cell.eq(cells[0]) & frame.method.eq("A")
    rng = np.random.default_rng(0)
    frame["right"] = [rng.integers(4, 7, 30) + 3 * more for more in better]
    frame[statistics.RECALL] = [10 * right.mean() for right in frame.right]
    frame["test_class_queries"] = [np.full(30, 10)] * len(frame)
    frame["stored"] = ~frame.cell.isin(lacking)
    frame.loc[~frame.stored, ["right", statistics.RECALL]] = None
    return frame


def rows_of(frame):
    return claims.table([claims.evaluate(CLAIM, frame)])


def bars_and_dots(figure):
    """Return line width, lower and upper end of the intervals that are drawn; and the dots."""
    drawn = figure.axes[0].collections
    lines = [c for c in drawn if hasattr(c, "get_segments")]
    bars = [(c.get_linewidth()[0], *c.get_segments()[0][:, 0]) for c in lines]
    return bars, [c for c in drawn if not hasattr(c, "get_segments")]


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_bars_are_both_intervals_and_a_dot_is_filled_where_they_exclude_zero():
    rows = rows_of(runs())
    figure = plots.differences_by_number(rows, pd.Series([0.2, 0.6]), "", "weight", reference=0)
    assert list(figure.axes[0].get_xticks()) == [0, 0.2, 0.6]
    dots = bars_and_dots(figure)[1]
    expected = np.column_stack([[0.2, 0.6], rows.difference])
    assert np.allclose([dot.get_offsets()[0] for dot in dots], expected)
    bars, dots = bars_and_dots(plots.differences(rows, "title"))
    for row, thick, thin in zip(rows.itertuples(), bars[::2], bars[1::2], strict=True):
        assert thick[1:] == pytest.approx((row.difference - row.half, row.difference + row.half))
        assert thin[1:] == pytest.approx((row.classes_low, row.classes_high))
        assert thick[0] > thin[0]
    assert rows.verdict.tolist()[0] == claims.HOLDS and bars[2][1] < 0 < bars[2][2]
    assert [to_hex(dot.get_facecolor()[0]) != "#ffffff" for dot in dots] == [True, False]
    [of_classes], _ = bars_and_dots(plots.differences(rows_of(runs(1, cells=("one",))), ""))
    assert of_classes[0] == thin[0]  # one seed has no other


def test_every_claim_is_named_with_its_verdict_and_leads_to_its_report():
    rows = rows_of(runs())
    figure = plots.differences(rows, "title", named=True)
    assert {"A beats B", "one", "other"} <= set(texts(figure))
    text = plots.svg(figure, "claims")
    links = [e for e in ElementTree.fromstring(text).iter() if e.tag.endswith("}a")]
    assert {*links[0].attrib.values()} == {"there.html"}
    assert len(links) == 3  # the name and both dots
    absent = plots.differences(rows_of(runs(lacking=("other",))), "title")
    assert "not run: other" in texts(absent) and len(bars_and_dots(absent)[0]) == 2


@pytest.mark.parametrize("heights", [[0, 0.01, 1, 0.99, 0.5, 0.52], [1] * 4 + [0]])
def test_names_beside_lines_do_not_collide_and_keep_their_order(heights):
    figure, axis = plots.panel(3)
    axis.set(xlim=(0, 1), ylim=(0, 1))
    plots.label_ends(axis, [(f"line {i}", 1, y, "black") for i, y in enumerate(heights)])
    figure.draw_without_rendering()
    drawn = sorted(axis.texts, key=lambda text: Text.get_window_extent(text).y0)
    boxes = [Text.get_window_extent(text) for text in drawn]
    assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(boxes))
    assert boxes[0].y0 > axis.bbox.y0 - 12 and boxes[-1].y1 < axis.bbox.y1 + 12
    assert [text.xy[1] for text in drawn] == sorted(heights)


def test_test_and_training_curves_share_an_axis_solid_and_dashed_in_the_method_s_color():
    axes = {"method": ("Triplet", "Triplet + MDR"), "seed": range(2), "epoch": range(4)}
    both = grid(lambda seed, epoch, **_: 50 + epoch + seed, **axes)
    both["train_recall@1"] = 60 + 9 * both.epoch - both.seed
    figure = plots.learning_curves(both, "title")
    assert set(texts(figure)) == {"Triplet test", "Triplet training", "MDR test", "MDR training"}
    alone = plots.learning_curves(both[both.method == "Triplet + MDR"], "title")
    for drawn, colors in ((figure, (plots.BLUE, plots.GREEN)), (alone, (plots.GREEN,))):
        lines = {
            (to_hex(line.get_color()).upper(), line.is_dashed(), line.get_ydata()[-1])
            for line in drawn.axes[0].lines
        }
        assert lines == {(c, *end) for c in colors for end in ((False, 53.5), (True, 86.5))}


def batch(mdr, mdr_weight=0.5):
    """Return a record of a batch's distances, and the distances over their mean."""
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(1))
    row = batch_statistics(x, torch.arange(40) // 4, mdr, "none", 0.2)
    row |= {f"level_{i}": level for i, level in enumerate(mdr.levels.tolist())}
    row |= {"running_mean": mdr.running_mean.item(), "running_std": mdr.running_std.item()}
    row |= {"epoch": 3, "batch_size": 40, "mdr_weight": mdr_weight, "statistics": mdr.statistics}
    d = pairwise_distances(x)[torch.ones(40, 40).triu(1).bool()]
    return pd.Series(row | {"levels": mdr.levels.tolist()}), (d / d.mean()).numpy()


@pytest.mark.parametrize("statistics", ["released", "pairs"])
@pytest.mark.parametrize("trained", [False, True])
def test_distances_of_older_records_come_back_in_units_of_their_mean(trained, statistics):
    mdr = MDR(statistics=statistics)
    if trained:  # other batches set the running statistics
        for seed in range(3):
            mdr(0.9 * torch.randn(40, 8, generator=torch.Generator().manual_seed(seed)))
    row, distances = batch(mdr, 0.5 if trained else 0.0)
    for column in ("z_histogram", "positive_histogram", "negative_histogram"):
        density, edges = density_of(row, column)
        assert (density * np.diff(edges)).sum() == pytest.approx(1)
    density, edges = density_of(row, "z_histogram")
    expected = np.histogram(distances, edges, density=True)[0]
    assert np.abs(density - expected).sum() * np.diff(edges)[0] < 0.01  # at the edges of bins
    rows = pd.DataFrame([row, row])  # positive and negative pairs are apart where both have them
    apart = texts(plots.distances(rows, "title"))
    assert [text.strip() for text in apart[:2]] == ["positive", "negative"]
    assert recorded(pd.DataFrame([row.drop("positive_histogram"), row])) == ["z_histogram"]

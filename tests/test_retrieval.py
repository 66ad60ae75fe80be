"""Recall@K, R-precision and MAP@R against sorting all distances in float64."""

import contextlib

import numpy as np
import pytest
import torch

from mdr_core import recall_at_k
from mdr_core.evaluation import retrieval
from mdr_core.evaluation.retrieval import RetrievalSet, evaluate, first_ranks, full_float32, nearest

KS = (1, 3, 10, 60)


def rankings(x, gallery=None):
    """One query at a time: all distances in float64, sorted, ties by index."""
    for i, q in enumerate(x):
        images = x if gallery is None else gallery
        d = np.square(images.astype(np.float64) - q.astype(np.float64)).sum(axis=1)
        order = np.argsort(d, kind="stable")
        yield order[order != i] if gallery is None else order


def scores(x, y, gallery=None, labels=None):
    """Ranks of the first right image, R-precision and MAP@R in percent, by a loop."""
    first, precision, average = [], [], []
    for label, order in zip(y, rankings(x, gallery), strict=True):
        hits = (y if gallery is None else labels)[order] == label
        first.append(int(hits.argmax()) + 1 if hits.any() else 0)
        if r := int(hits.sum()):
            precision.append(hits[:r].mean())
            average.append(sum(hits[: i + 1].mean() for i in range(r) if hits[i]) / r)
    return np.array(first), 100 * np.mean(precision), 100 * np.mean(average)


def integers(rng, size, dim):
    """Many duplicates and ties."""
    return rng.integers(0, 3, (size, dim)).astype(np.float32)


def near_ties(rng, size, dim):
    """On a sphere around the first, up to the last digits."""
    x = rng.standard_normal((size, dim))
    x = x / np.linalg.norm(x, axis=1, keepdims=True) * (1 + 1e-6 * rng.standard_normal((size, 1)))
    return np.concatenate([np.zeros((1, dim)), x[1:]]).astype(np.float32)


EMBEDDINGS = {
    "ties": integers,
    "near ties": near_ties,
    "no distance by the product alone": lambda rng, *n: np.float32(rng.standard_normal(n) + 3000),
    "ties in float32": lambda rng, *n: 1 + 1e-9 * rng.standard_normal(n),
    "squares are zero in float32": lambda rng, *n: np.float32(1e-25 * rng.standard_normal(n)),
}


@pytest.mark.parametrize("block", [2**21, 200])  # all queries at once; a few
@pytest.mark.parametrize("of", EMBEDDINGS.values(), ids=EMBEDDINGS)
def test_all_numbers_are_those_of_sorted_distances(of, block, monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK", block)
    rng = np.random.default_rng(0)
    for dim, classes in ((1, 3), (4, 1), (4, 40), (600, 12)):
        x, y = of(rng, 90, dim), rng.integers(0, classes, 90)
        g, z = of(rng, 70, dim), rng.integers(0, classes, 70)
        for gallery in ((), (g, z)):
            first, precision, average = scores(x, y, *gallery)
            recall = {k: pytest.approx(100 * ((first > 0) & (first <= k)).mean()) for k in KS}
            assert first_ranks(x, y, *gallery).tolist() == first.tolist()
            assert recall_at_k(x, y, KS, *gallery) == recall
            found = evaluate(RetrievalSet(x, y, *gallery))
            assert found.ranks.tolist() == first.tolist()
            assert found.r_precision == pytest.approx(precision)
            assert found.map_at_r == pytest.approx(average)
            assert np.nanmean(found.average_precision) == pytest.approx(average / 100)
            expected = [order[:20].tolist() for order in rankings(x, *gallery[:1])]
            assert nearest(x, 20, *gallery[:1]).tolist() == expected


@contextlib.contextmanager
def default_type():
    """With which, or with a lower precision of products, a caller may train."""
    torch.set_default_dtype(torch.bfloat16)
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("around", [default_type, autocast])
def test_the_caller_s_settings_change_nothing(around):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 32), np.float32), rng.integers(0, 20, 200)
    expected = evaluate(RetrievalSet(x, y))
    with around():
        found = evaluate(RetrievalSet(torch.from_numpy(x), torch.from_numpy(y)))
    assert found[1:3] == expected[1:3]
    np.testing.assert_array_equal(found.ranks, expected.ranks)
    np.testing.assert_array_equal(found.average_precision, expected.average_precision)


def test_no_tf32_inside_and_what_was_set_after():
    backends = torch.backends
    settings = [backends.cuda.matmul, backends.cudnn.conv]
    before = [each.fp32_precision for each in settings]
    with pytest.raises(ZeroDivisionError), full_float32():
        assert [each.fp32_precision for each in settings] == ["ieee", "ieee"]
        raise ZeroDivisionError
    assert [each.fp32_precision for each in settings] == before and backends.cudnn.allow_tf32


def refused():
    """Arguments of recall_at_k, and what is said of them."""
    rng = np.random.default_rng(0)
    x, y = integers(rng, 30, 4), rng.integers(0, 6, 30)
    nan, inf, one_hot = x.copy(), x.copy(), np.eye(6)[y]
    nan[2, 1], inf[2, 1] = np.nan, np.inf
    lengths = "give embeddings .N, D. with labels .N,."
    for labels in (y[:-1], one_hot, y[:1], y[0]):
        yield lengths, x, labels, [1]
    yield lengths, x[:, 0], y, [1]
    yield lengths, x, y, [1], x, one_hot
    yield "4 dimensions and the gallery 3", x, y, [1], x[:, :3], y
    yield "together, or neither", x, y, [1], x
    nothing = "no query has another image of its class"
    yield nothing, x, np.arange(30), [1]
    yield nothing, x[:0], y[:0], [1]
    yield nothing, x, y, [1], x, y + 100
    for bad in (nan, inf, torch.from_numpy(nan).bfloat16()):
        yield "NaN, Inf or too large", bad, y, [1]
        yield "NaN, Inf or too large", x, y, [1], bad, y
        yield "NaN, Inf or too large", bad, y, [1], x, y
    for scale in (1e20, 1e38):
        yield "NaN, Inf or too large", x * np.float32(scale), y, [1]
    missing = np.where(y < 2, y, np.nan)
    for labels in (missing, torch.from_numpy(missing), np.array([None, *"abc" * 10][:30], object)):
        yield "a label is missing", x, labels, [1]
        yield "a label is missing", x, y, [1], x, labels
    for ks in ([0], [1, -1], [], [30]):
        yield "between 1 and 29", x, y, ks
    yield "between 1 and 30", x, y, [1, 31], x, y


@pytest.mark.parametrize("line, given", [(line, given) for line, *given in refused()])
def test_what_would_be_a_number_without_a_meaning_is_refused(line, given):
    x, y, ks, *gallery = given
    with pytest.raises(ValueError, match=line):
        recall_at_k(*given)
    if ks == [1]:
        with pytest.raises(ValueError, match=line):
            evaluate(RetrievalSet(x, y, *gallery))

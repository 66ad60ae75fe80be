"""Counted ranks, and Recall@K by them, against sorting all distances in float64."""

import numpy as np
import pytest

from mdr_core.evaluation import ranks, retrieval


def sorted_ranks(x, y, gallery=None, labels=None):
    """One query at a time: all distances in float64, sorted, ties by index."""
    images, of = (x, y) if gallery is None else (gallery, labels)
    found = []
    for i, q in enumerate(x):
        d = np.square(images.astype(np.float64) - q.astype(np.float64)).sum(axis=1)
        order = np.argsort(d, kind="stable")
        if gallery is None:
            order = order[order != i]
        right = np.flatnonzero(of[order] == y[i])
        found.append(int(right[0]) + 1 if len(right) else 0)
    return found


def integers(rng, size, dim):
    """Many duplicates and ties."""
    return rng.integers(0, 3, (size, dim)).astype(np.float32)


def far_from_the_origin(rng, size, dim):
    """By the expansion alone, without a center, no distance would be known."""
    return (rng.standard_normal((size, dim)) + 3000).astype(np.float32)


def near_ties(rng, size, dim):
    """On a sphere around the first, up to the last digits."""
    x = rng.standard_normal((size, dim))
    x = x / np.linalg.norm(x, axis=1, keepdims=True) * (1 + 1e-6 * rng.standard_normal((size, 1)))
    return np.concatenate([np.zeros((1, dim)), x[1:]]).astype(np.float32)


@pytest.mark.parametrize("tile", [2**24, 200])  # all queries at once; a few
@pytest.mark.parametrize("of", [integers, far_from_the_origin, near_ties])
def test_ranks_are_those_of_sorted_distances(of, tile, monkeypatch):
    monkeypatch.setitem(ranks.TILE, "cpu", tile)
    rng = np.random.default_rng(0)
    for dim, classes in ((1, 3), (4, 1), (4, 40), (600, 12)):
        x, y = of(rng, 90, dim), rng.integers(0, classes, 90)
        g, z = of(rng, 70, dim), rng.integers(0, classes, 70)
        assert ranks.first_ranks(x, y).tolist() == sorted_ranks(x, y)
        assert ranks.first_ranks(x, y, g, z).tolist() == sorted_ranks(x, y, g, z)


def test_a_class_of_one_image_has_no_rank_and_other_queries_may_be_left_out():
    x = np.array([[0.0], [1.0], [3.0], [7.0]])
    y = np.array(["a", "b", "a", "c"])
    assert ranks.first_ranks(x, y).tolist() == [2, 0, 2, 0]
    assert ranks.first_ranks(x, y, chosen=np.array([False, True, True, True]))[0] == 0
    assert ranks.first_ranks(x[[1, 3]], y[[1, 3]]).tolist() == [0, 0]


@pytest.mark.parametrize("own", [True, False])
def test_recall_is_the_same_counted_and_listed_for_every_k(own):
    """Lists reach as far as a class has images; beyond, evaluate counts."""
    rng = np.random.default_rng(1)
    x, y = integers(rng, 200, 4), rng.integers(0, 60, 200)
    gallery = () if own else (integers(rng, 150, 4), rng.integers(0, 70, 150))
    images, ks = retrieval.RetrievalSet(x, y, *gallery), (1, 3, 10, 100, 1000)
    first = np.array(sorted_ranks(x, y, *gallery))
    expected = {k: pytest.approx(100 * ((first > 0) & (first <= k)).mean()) for k in ks}
    assert retrieval.recall_at_k(x, y, ks, *gallery) == expected
    for device in (None, "cpu"):
        index = retrieval.Index(images.searched[0], device=device)
        assert retrieval.evaluate(images, ks, index).recall == expected


def test_embeddings_that_are_no_numbers_are_refused():
    x = np.ones((4, 2), np.float32)
    x[2, 1] = np.nan
    for given in ((x, [0] * 4), (np.ones((1, 2)), [0], x, [0] * 4), (x, [0] * 4, x[:2], [0] * 2)):
        with pytest.raises(ValueError, match="NaN or Inf"):
            retrieval.recall_at_k(*given[:2], [1], *given[2:])
    with pytest.raises(ValueError, match="together"):
        retrieval.recall_at_k(x, [0] * 4, [1], x)

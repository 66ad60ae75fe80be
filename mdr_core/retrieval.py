"""Retrieval judged: Recall@K, R-precision and MAP@R, exact, by Euclidean distance. Pure functions on arrays.

Each query ranks the gallery by distance; ties go to the lower gallery index. Where no gallery is given the queries
are the gallery, and each query's own image is left out, by its index and not by its distance: a duplicate image at
distance zero stays. faiss finds the candidates, a chunk of queries at a time; no N x N matrix exists.
"""

from collections.abc import Sequence

import faiss
import numpy as np

CHUNK = 1024  # queries searched at a time
SPARE = 8  # candidates fetched beyond K, so that ties at the border can be put in order


def nearest(query: np.ndarray, k: int, gallery: np.ndarray | None = None) -> np.ndarray:
    """The k nearest gallery images of each query, ties by index.

    faiss expands ||q - g||^2 and so blurs ties; its candidates are put in order again by distances taken directly.
    Where the border of the candidates is itself a tie, more of them are fetched.

    Args:
        query: (Q, D) float32.
        k: at most the gallery's size (less one, where the queries are the gallery).
        gallery: (G, D) float32; without it, the queries themselves, each query's own index left out.

    Returns:
        (Q, k) int64 indices into the gallery, nearest first.

    Raises:
        ValueError: k is too large, or an embedding is NaN or Inf.
    """
    query = np.ascontiguousarray(query, dtype=np.float32)
    own = gallery is None
    gallery = query if own else np.ascontiguousarray(gallery, dtype=np.float32)
    available = len(gallery) - own
    if not 1 <= k <= available:
        raise ValueError(f"k must lie between 1 and the {available} gallery images of a query, got {k}")
    if not (np.isfinite(query).all() and np.isfinite(gallery).all()):
        raise ValueError("an embedding is NaN or Inf")
    index = faiss.IndexFlatL2(gallery.shape[1])
    index.add(gallery)
    result = np.empty((len(query), k), dtype=np.int64)
    for start in range(0, len(query), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(query)))
        fetched = min(k + own + SPARE, len(gallery))
        while len(rows):
            ids, ordered, settled = _ranked(index, query[rows], gallery, k, fetched, rows if own else None)
            settled |= fetched == len(gallery)
            result[rows[settled]] = np.take_along_axis(ids, ordered, axis=1)[settled, :k]
            rows, fetched = rows[~settled], min(4 * fetched, len(gallery))
    return result


def _ranked(index, query, gallery, k, fetched, own_rows):
    """Candidates (q, fetched), their order by (distance, index), and whether the first k cannot change any more."""
    approximate, ids = index.search(query, fetched)
    exact = np.stack([np.square(gallery[i] - q).sum(axis=1) for i, q in zip(ids, query, strict=True)])
    if own_rows is not None:
        exact[ids == own_rows[:, None]] = np.inf
    ordered = np.lexsort((ids, exact), axis=1)
    kth = np.take_along_axis(exact, ordered[:, k - 1 : k], axis=1)[:, 0]
    # What faiss did not fetch is no nearer than its last candidate, up to the rounding of its expansion.
    rounding = 1e-5 * (np.square(query).sum(axis=1) + kth)
    return ids, ordered, approximate[:, -1] - rounding > kth


def recall_at_k(
    query: np.ndarray,
    query_labels: np.ndarray,
    ks: Sequence[int],
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
) -> dict[int, float]:
    """Recall@K: the share of queries with at least one image of their own class among their K nearest.

    Args:
        query: (Q, D) embeddings.
        query_labels: (Q,).
        ks: each K.
        gallery, gallery_labels: (G, D) and (G,); without them the queries are the gallery, each image's own excluded.

    Returns:
        K -> Recall@K in percent. A K beyond the gallery counts the whole gallery.
    """
    return judge(query, query_labels, ks, gallery, gallery_labels, precision=False)["recall"]


def judge(query, query_labels, ks, gallery=None, gallery_labels=None, precision: bool = True) -> dict:
    """Recall@K and, from the same search, R-precision and MAP@R (Musgrave et al. 2020), all in percent.

    With R the number of gallery images of the query's class: R-precision is the share of them among the R nearest;
    MAP@R is the mean over r = 1 ... R of (precision at r if the r-th is of the class, else 0). Queries whose class
    has no gallery image (R = 0) count as failures of Recall@K and are left out of the other two.

    Args: as :func:`recall_at_k`.

    Returns:
        ``{"recall": {K: percent}, "r_precision": percent, "map_at_r": percent}``.
    """
    own = gallery is None
    if own != (gallery_labels is None):
        raise ValueError("give gallery and gallery_labels together, or neither")
    query_labels = np.asarray(query_labels)
    gallery_labels = query_labels if own else np.asarray(gallery_labels)
    size = len(gallery_labels) - own
    classes, counts = np.unique(gallery_labels, return_counts=True)
    place = np.searchsorted(classes, query_labels).clip(max=len(classes) - 1)
    relevant = np.where(classes[place] == query_labels, counts[place] - own, 0)
    deepest = int(max(*ks, relevant.max()) if precision else max(ks))
    hits = gallery_labels[nearest(query, min(deepest, size), gallery)] == query_labels[:, None]
    result = {"recall": {int(k): 100.0 * float(hits[:, :k].any(axis=1).mean()) for k in ks}}
    if precision:
        hits, relevant = hits[relevant > 0], relevant[relevant > 0]
        rank = np.arange(1, hits.shape[1] + 1)
        hits = hits & (rank <= relevant[:, None])
        precisions = np.cumsum(hits, axis=1) / rank
        result["r_precision"] = 100.0 * float((hits.sum(axis=1) / relevant).mean()) if len(hits) else float("nan")
        result["map_at_r"] = (
            100.0 * float(((precisions * hits).sum(axis=1) / relevant).mean()) if len(hits) else float("nan")
        )
    return result

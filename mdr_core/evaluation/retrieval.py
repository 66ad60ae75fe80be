"""Recall@K, R-precision and MAP@R, exact, by Euclidean distance.

Each query ranks the gallery by distance; ties go to the lower gallery index. Without a gallery
each query is searched among the others: its own image is left out by its index, not by its
distance, so a duplicate at distance zero stays. No N x N matrix exists.

Galleries beyond memory: embeddings may be memory maps (``numpy.load(..., mmap_mode="r")``). Some
of faiss's indexes hold less than all embeddings (``"IVF4096,PQ32"``) or search less of them
(``"IVF4096,Flat"``, ``"HNSW32"``). Those are approximate: :func:`overlap` tells what they miss.
"""

from collections.abc import Sequence
from typing import NamedTuple

import faiss
import numpy as np
import torch
from faiss.contrib.exhaustive_search import knn_ground_truth
from numpy.typing import ArrayLike

from mdr_core.evaluation.ranks import first_ranks, relevant_images
from mdr_core.evaluation.retrieval_set import RetrievalSet

CHUNK = 1024  # queries searched at a time
FEW = 64  # queries whose candidates' embeddings are gathered at a time, on a GPU
BLOCK = 65_536  # gallery embeddings read at a time
TRAINING = 100_000  # embeddings, at most, that an approximate index is trained on
SPARE = 8  # candidates fetched beyond K, so that ties at the border can be put in order


class Index:
    """A gallery and its Euclidean index, searched by faiss or, on a given device, by torch.

    Args:
        gallery: (G, D) embeddings.
        factory: a string of ``faiss.index_factory``. ``"Flat"`` is exact and held in memory.
        search: faiss's search-time settings, as ``"nprobe=16"`` (IVF) or ``"efSearch=64"`` (HNSW).
        device: where torch searches a ``"Flat"`` index.

    Raises:
        ValueError: faiss refuses factory or settings, or an embedding is NaN or Inf.
    """

    def __init__(
        self, gallery: ArrayLike, factory: str = "Flat", search: str = "", device: str | None = None
    ):
        self.gallery = np.ascontiguousarray(gallery, dtype=np.float32)
        self.exact, self.device = factory == "Flat", device
        if device is not None:
            if not self.exact or search:
                raise ValueError(f"index {factory!r} is searched on the CPU: leave device out")
            self.on_device = torch.from_numpy(self.gallery).to(device)
            self.squares = self.on_device.square().sum(dim=1)
            if not self.squares.isfinite().all():
                raise ValueError("an embedding is NaN or Inf")
            return
        try:
            self.faiss = faiss.index_factory(self.gallery.shape[1], factory)
            if not self.faiss.is_trained:
                every = -(-len(self.gallery) // TRAINING)
                self.faiss.train(np.ascontiguousarray(self.gallery[::every]))
            for start in range(0, len(self.gallery), BLOCK):
                block = self.gallery[start : start + BLOCK]
                if not np.isfinite(block).all():
                    raise ValueError("an embedding is NaN or Inf")
                self.faiss.add(block)
            if search:
                faiss.ParameterSpace().set_index_parameters(self.faiss, search)  # type: ignore[arg-type]
        except RuntimeError as problem:
            raise ValueError(
                f"faiss refuses index {factory!r} with {search!r}: {problem}".splitlines()[0]
            ) from None

    def nearest(self, k: int, query: ArrayLike | None = None) -> np.ndarray:
        """Return the k nearest gallery images of each query, ties by index.

        Args:
            k: at most the gallery's size, or one less without ``query``.
            query: (Q, D); by default the gallery itself, each image's own index left out.

        Returns:
            (Q, k) int64 indices, nearest first; -1 where an approximate index found fewer than k.

        Raises:
            ValueError: k is too large, or an embedding is NaN or Inf.
        """
        own, size = query is None, len(self.gallery)
        queries = self.gallery if query is None else np.ascontiguousarray(query, np.float32)
        if not 1 <= k <= size - own:
            raise ValueError(
                f"k must lie between 1 and the {size - own} gallery images of a query, got {k}"
            )
        result = np.empty((len(queries), k), dtype=np.int64)
        for start in range(0, len(queries), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(queries)))
            if not np.isfinite(queries[rows]).all():
                raise ValueError("an embedding is NaN or Inf")
            count = min(k + own + SPARE, size)
            while len(rows):
                ids, settled = self._ranked(queries[rows], k, count, rows if own else None)
                settled |= count == size or not self.exact
                result[rows[settled]] = ids[settled]
                rows, count = rows[~settled], min(4 * count, size)
        return result

    def _ranked(
        self, query: np.ndarray, k: int, count: int, own_rows: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest of ``count`` candidates, and whether no other image can be nearer.

        The expansion ||q - g||^2 = ||q||^2 - 2 q.g + ||g||^2, by which candidates are found, blurs
        ties: they are ranked again by distances taken directly.
        """
        if self.device is None:
            approximate, ids = self.faiss.search(query, count)
            candidates = zip(query, ids, strict=True)
            squared = np.stack([np.square(self.gallery[i] - q).sum(axis=1) for q, i in candidates])
        else:
            approximate, ids, squared = self._search_on_device(query, count)
        absent = ids < 0  # an approximate index found no more
        if own_rows is not None:
            absent |= ids == own_rows[:, None]
        squared[absent], ids = np.inf, np.where(absent, -1, ids)
        order = np.lexsort((ids, squared), axis=1)[:, :k]
        kth = np.take_along_axis(squared, order[:, -1:], axis=1)[:, 0]
        # An image that was not fetched is no nearer than the last candidate, up to rounding.
        rounding = 1e-5 * (np.square(query).sum(axis=1) + kth)
        return np.take_along_axis(ids, order, axis=1), approximate[:, -1] - rounding > kth

    def _search_on_device(self, query: np.ndarray, count: int) -> list[np.ndarray]:
        """Return squared distances by expansion, ids, and squared distances taken directly."""
        q = torch.from_numpy(query).to(self.on_device.device)
        near, ids = torch.addmm(self.squares, q, self.on_device.T, alpha=-2).topk(
            count, largest=False
        )
        squared = [
            (self.on_device[few_ids] - few[:, None]).square().sum(dim=2)
            for few, few_ids in zip(q.split(FEW), ids.split(FEW), strict=True)
        ]
        near = near + q.square().sum(dim=1, keepdim=True)
        return [tensor.cpu().numpy() for tensor in (near, ids, torch.cat(squared))]


def nearest(query: ArrayLike, k: int, gallery: ArrayLike | None = None) -> np.ndarray:
    """Return :meth:`Index.nearest` of an exact index of the gallery, or else of the queries."""
    return Index(query).nearest(k) if gallery is None else Index(gallery).nearest(k, query)


def overlap(
    query: np.ndarray,
    k: int,
    gallery: np.ndarray,
    factory: str,
    search: str = "",
    sample: int = 1000,
) -> float:
    """Return the percentage of the exact k nearest that an approximate index finds.

    It is taken over an even sample of the queries. The gallery need not fit into memory.
    """
    some = np.ascontiguousarray(query[:: -(-len(query) // sample)], dtype=np.float32)
    blocks = (
        np.ascontiguousarray(gallery[start : start + BLOCK], dtype=np.float32)
        for start in range(0, len(gallery), BLOCK)
    )
    _, exact = knn_ground_truth(some, blocks, k, ngpu=0)
    found = Index(gallery, factory, search).nearest(k, some)
    return 100.0 * float(np.mean([np.isin(e, f).mean() for e, f in zip(exact, found, strict=True)]))


def _hits(images: RetrievalSet, depth: int, index: Index) -> np.ndarray:
    """Return (Q, depth) whether the r-th nearest image is of the query's class."""
    query = None if images.gallery is None else images.query
    found = index.nearest(min(int(depth), len(index.gallery) - (query is None)), query)
    labels = np.asarray(images.searched[1])
    return (labels[found] == np.asarray(images.labels)[:, None]) & (found >= 0)


def _recall(first: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    """Return Recall@K of the ranks (Q,) of each query's first image of its class, 0 for none."""
    return {int(k): 100.0 * float(((first > 0) & (first <= k)).mean()) for k in ks}


def _first(hits: np.ndarray) -> np.ndarray:
    """Return (Q,) the rank of the first hit, 0 where there is none."""
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)


def recall_at_k(
    query: ArrayLike,
    query_labels: ArrayLike,
    ks: Sequence[int],
    gallery: ArrayLike | None = None,
    gallery_labels: ArrayLike | None = None,
    factory: str = "Flat",
    search: str = "",
    device: str | None = None,
) -> dict[int, float]:
    """Return Recall@K: the share of queries with an image of their class among their K nearest.

    An exact search counts (:mod:`ranks`) and costs the same for every K.

    Args:
        query, query_labels: (Q, D) embeddings and (Q,).
        gallery, gallery_labels: (G, D) and (G,); by default the queries, each one's own excluded.
        factory, search, device: of :class:`Index`.

    Returns:
        K -> Recall@K in percent. A K beyond the gallery counts the whole gallery.

    Raises:
        ValueError: what :meth:`RetrievalSet.check` and :class:`Index` refuse.
    """
    images = RetrievalSet(query, query_labels, gallery, gallery_labels)
    images.check(ks)
    searched, _ = images.searched
    if factory == "Flat" and not search:
        return _recall(first_ranks(*images, device), ks)
    index = Index(searched, factory, search, device)
    return _recall(_first(_hits(images, max(ks), index)), ks)


class Scores(NamedTuple):
    """What :func:`evaluate` returns: percentages of all queries, and values of each (Q,)."""

    recall: dict[int, float]
    r_precision: float
    map_at_r: float
    right: np.ndarray  # whether the nearest image is of the query's class
    average_precision: np.ndarray  # AP@R; NaN where the class has no other image


def evaluate(images: RetrievalSet, ks: Sequence[int], index: Index) -> Scores:
    """Return Recall@K, R-precision and MAP@R (Musgrave et al. 2020).

    One search for as many neighbors as a class has images; Recall@K of a larger K by counting.

    With R the number of gallery images of the query's class: R-precision is the share of them
    among the R nearest; MAP@R is the mean over r = 1 ... R of (precision at r if the r-th is of the
    class, else 0). Queries with R = 0 fail in Recall@K and are left out of the other two.

    Args:
        index: of the images that are searched.

    Raises:
        ValueError: what :meth:`RetrievalSet.check` refuses.
    """
    images.check(ks)
    relevant = relevant_images(images.labels, images.searched[1], images.gallery is None)[2]
    depth = max(1, relevant.max()) if index.exact else max(*ks, relevant.max())
    hits = _hits(images, depth, index)
    first, some = _first(hits), relevant > 0
    if index.exact and max(ks) > depth:
        first = np.maximum(first, first_ranks(*images, index.device, chosen=first == 0))
    recall, right = _recall(first, ks), hits[:, 0]
    average = np.full(len(hits), np.nan)
    hits, relevant = hits[some], relevant[some]
    rank = np.arange(1, hits.shape[1] + 1)
    hits = hits & (rank <= relevant[:, None])
    average[some] = (np.cumsum(hits, axis=1) / rank * hits).sum(axis=1) / relevant
    r_precision = map_at_r = float("nan")
    if some.any():
        r_precision = 100.0 * float((hits.sum(axis=1) / relevant).mean())
        map_at_r = 100.0 * float(average[some].mean())
    return Scores(recall, r_precision, map_at_r, right, average)

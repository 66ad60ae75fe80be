"""Retrieval judged: Recall@K, R-precision and MAP@R, exact, by Euclidean distance. Pure functions on arrays.

Each query ranks the gallery by distance; ties go to the lower gallery index. Where no gallery is given the queries
are the gallery, and each query's own image is left out, by its index and not by its distance: a duplicate image at
distance zero stays. faiss finds the candidates, a chunk of queries at a time; no N x N matrix exists.

Galleries beyond memory: embeddings may be memory maps (``numpy.load(..., mmap_mode="r")``), of which a chunk at a time is
read, and ``factory`` names an index of faiss that holds less than all of them (``"IVF4096,PQ32"``) or searches less
(``"IVF4096,Flat"``, ``"HNSW32"``). Such an index is approximate: :func:`overlap` tells what it misses.
"""

from collections.abc import Sequence

import faiss
import numpy as np
import torch

CHUNK = 1024  # queries searched at a time
FEW = 64  # queries whose candidates' embeddings are gathered at a time, on a GPU
BLOCK = 65_536  # gallery embeddings read at a time
TRAINING = 100_000  # embeddings, at most, that an approximate index is trained on
SPARE = 8  # candidates fetched beyond K, so that ties at the border can be put in order


class OnDevice:
    """The exact index on a GPU, by torch; like faiss's, it expands ||q - g||^2 = ||g||^2 - 2 q.g + ||q||^2.

    Args:
        gallery: (G, D) float32.

    Raises:
        ValueError: an embedding is NaN or Inf.
    """

    def __init__(self, gallery: np.ndarray, device: str):
        self.gallery = torch.from_numpy(np.ascontiguousarray(gallery)).to(device)
        self.squares = self.gallery.square().sum(dim=1)
        if not self.squares.isfinite().all():
            raise ValueError("an embedding is NaN or Inf")

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances (Q, k) of the k nearest, nearest first, and their indices (Q, k)."""
        query = torch.from_numpy(query).to(self.gallery.device)
        near, ids = torch.addmm(self.squares, query, self.gallery.T, alpha=-2).topk(
            k, largest=False
        )
        return (near + query.square().sum(dim=1, keepdim=True)).cpu().numpy(), ids.cpu().numpy()

    def distances(self, query: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Squared distances (Q, k), taken directly, of the queries to the embeddings ``ids`` (Q, k); a few queries at a time."""
        query, ids = (torch.from_numpy(x).to(self.gallery.device).split(FEW) for x in (query, ids))
        return (
            torch.cat(
                [
                    (self.gallery[i] - q[:, None]).square().sum(dim=2)
                    for q, i in zip(query, ids, strict=True)
                ]
            )
            .cpu()
            .numpy()
        )


def index_of(
    gallery: np.ndarray, factory: str = "Flat", search: str = "", device: str | None = None
) -> "faiss.Index | OnDevice":
    """A Euclidean index of (G, D) float32 embeddings, trained and filled a chunk at a time.

    Args:
        factory: as ``faiss.index_factory`` reads it. ``"Flat"`` is exact and holds every embedding in memory.
        search: faiss's search-time settings, as ``"nprobe=16"`` for IVF or ``"efSearch=64"`` for HNSW.
        device: where torch searches a ``"Flat"`` index; without it, faiss searches on the CPU.

    Raises:
        ValueError: faiss does not know the factory or the settings, or an embedding is NaN or Inf.
    """
    if device is not None:
        if factory != "Flat" or search:
            raise ValueError(f"index {factory!r} is searched on the CPU: leave device out")
        return OnDevice(gallery, device)
    try:
        index = faiss.index_factory(gallery.shape[1], factory)
        if not index.is_trained:
            index.train(np.ascontiguousarray(gallery[:: -(-len(gallery) // TRAINING)]))
        for start in range(0, len(gallery), BLOCK):
            part = np.ascontiguousarray(gallery[start : start + BLOCK])
            if not np.isfinite(part).all():
                raise ValueError("an embedding is NaN or Inf")
            index.add(part)
        if search:
            faiss.ParameterSpace().set_index_parameters(index, search)
    except RuntimeError as problem:
        raise ValueError(
            f"faiss refuses index {factory!r} with {search!r}: {problem}".splitlines()[0]
        ) from None
    return index


def nearest(
    query: np.ndarray,
    k: int,
    gallery: np.ndarray | None = None,
    factory: str = "Flat",
    search: str = "",
    device: str | None = None,
) -> np.ndarray:
    """The k nearest gallery images of each query, ties by index.

    faiss expands ||q - g||^2 and so blurs ties; its candidates are put in order again by distances taken directly.
    Where the border of the candidates is itself a tie, more of them are fetched.

    Args:
        query: (Q, D) float32.
        k: at most the gallery's size (less one, where the queries are the gallery).
        gallery: (G, D) float32; without it, the queries themselves, each query's own index left out.
        factory, search, device: as :func:`index_of` has them.

    Returns:
        (Q, k) int64 indices into the gallery, nearest first; -1 where an approximate index found fewer than k.

    Raises:
        ValueError: k is too large, an embedding is NaN or Inf, or faiss refuses the index.
    """
    query = np.ascontiguousarray(query, dtype=np.float32)
    own = gallery is None
    gallery = query if own else np.ascontiguousarray(gallery, dtype=np.float32)
    available = len(gallery) - own
    if not 1 <= k <= available:
        raise ValueError(
            f"k must lie between 1 and the {available} gallery images of a query, got {k}"
        )
    if not own and not all(
        np.isfinite(query[i : i + CHUNK]).all() for i in range(0, len(query), CHUNK)
    ):
        raise ValueError("an embedding is NaN or Inf")
    index = index_of(gallery, factory, search, device)
    result = np.empty((len(query), k), dtype=np.int64)
    for start in range(0, len(query), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(query)))
        fetched = min(k + own + SPARE, len(gallery))
        while len(rows):
            ids, ordered, settled = _ranked(
                index, query[rows], gallery, k, fetched, rows if own else None
            )
            settled |= fetched == len(gallery) or factory != "Flat"
            result[rows[settled]] = np.take_along_axis(ids, ordered, axis=1)[settled, :k]
            rows, fetched = rows[~settled], min(4 * fetched, len(gallery))
    return result


def _ranked(index, query, gallery, k, fetched, own_rows):
    """Candidates (q, fetched), their order by (distance, index), and whether the first k cannot change any more."""
    approximate, ids = index.search(query, fetched)
    if isinstance(index, OnDevice):
        exact = index.distances(query, ids)
    else:
        exact = np.stack(
            [np.square(gallery[i] - q).sum(axis=1) for i, q in zip(ids, query, strict=True)]
        )
    absent = ids < 0  # an approximate index found no more
    if own_rows is not None:
        absent |= ids == own_rows[:, None]
    exact[absent], ids = np.inf, np.where(absent, -1, ids)
    ordered = np.lexsort((ids, exact), axis=1)
    kth = np.take_along_axis(exact, ordered[:, k - 1 : k], axis=1)[:, 0]
    # What faiss did not fetch is no nearer than its last candidate, up to the rounding of its expansion.
    rounding = 1e-5 * (np.square(query).sum(axis=1) + kth)
    return ids, ordered, approximate[:, -1] - rounding > kth


def overlap(
    query: np.ndarray,
    k: int,
    gallery: np.ndarray,
    factory: str,
    search: str = "",
    sample: int = 1000,
) -> float:
    """What an approximate index finds of the exact k nearest, in percent, over an even sample of the queries.

    The exact ones are found a block of the gallery at a time, so that it need not fit into memory.
    """
    some = np.ascontiguousarray(query[:: -(-len(query) // sample)], dtype=np.float32)
    distances, exact = np.full((len(some), k), np.inf, np.float32), np.full((len(some), k), -1)
    for start in range(0, len(gallery), BLOCK):
        block = np.ascontiguousarray(gallery[start : start + BLOCK], dtype=np.float32)
        further, ids = faiss.knn(some, block, min(k, len(block)))
        distances, exact = np.hstack([distances, further]), np.hstack([exact, ids + start])
        order = np.argsort(distances, axis=1, kind="stable")[:, :k]
        distances, exact = (
            np.take_along_axis(distances, order, axis=1),
            np.take_along_axis(exact, order, axis=1),
        )
    found = nearest(some, k, gallery, factory, search)
    return 100.0 * float(np.mean([np.isin(e, f).mean() for e, f in zip(exact, found, strict=True)]))


def recall_at_k(
    query: np.ndarray,
    query_labels: np.ndarray,
    ks: Sequence[int],
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
    factory: str = "Flat",
    search: str = "",
    device: str | None = None,
) -> dict[int, float]:
    """Recall@K: the share of queries with at least one image of their own class among their K nearest.

    Args:
        query: (Q, D) embeddings.
        query_labels: (Q,).
        ks: each K.
        gallery, gallery_labels: (G, D) and (G,); without them the queries are the gallery, each image's own excluded.
        factory, search, device: as :func:`index_of` has them.

    Returns:
        K -> Recall@K in percent. A K beyond the gallery counts the whole gallery.
    """
    return judge(query, query_labels, ks, gallery, gallery_labels, False, factory, search, device)[
        "recall"
    ]


def judge(
    query,
    query_labels,
    ks,
    gallery=None,
    gallery_labels=None,
    precision: bool = True,
    factory: str = "Flat",
    search: str = "",
    device: str | None = None,
) -> dict:
    """Recall@K and, from the same search, R-precision and MAP@R (Musgrave et al. 2020), all in percent.

    With R the number of gallery images of the query's class: R-precision is the share of them among the R nearest;
    MAP@R is the mean over r = 1 ... R of (precision at r if the r-th is of the class, else 0). Queries whose class
    has no gallery image (R = 0) count as failures of Recall@K and are left out of the other two.

    Args: as :func:`recall_at_k`.

    Returns:
        ``{"recall": {K: percent}, "r_precision": percent, "map_at_r": percent}`` and, of each query, ``"right"`` (Q,): its nearest
        image is of its class, and ``"ap_at_r"`` (Q,): what MAP@R is the mean of, NaN where R = 0.
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
    found = nearest(query, min(deepest, size), gallery, factory, search, device)
    hits = (gallery_labels[found] == query_labels[:, None]) & (found >= 0)
    result = {"recall": {int(k): 100.0 * float(hits[:, :k].any(axis=1).mean()) for k in ks}}
    if precision:
        result["right"], result["ap_at_r"] = hits[:, 0], np.full(len(hits), np.nan)
        some = relevant > 0
        hits, relevant = hits[some], relevant[some]
        rank = np.arange(1, hits.shape[1] + 1)
        hits = hits & (rank <= relevant[:, None])
        precisions = np.cumsum(hits, axis=1) / rank
        result["ap_at_r"][some] = (precisions * hits).sum(axis=1) / relevant
        result["r_precision"] = (
            100.0 * float((hits.sum(axis=1) / relevant).mean()) if some.any() else float("nan")
        )
        result["map_at_r"] = (
            100.0 * float(result["ap_at_r"][some].mean()) if some.any() else float("nan")
        )
    return result


def first_ranks(
    query: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
) -> np.ndarray:
    """(Q,) int32: the rank, from 1, of each query's first image of its own class, ties by index; 0 where its class has none.

    Args: as :func:`recall_at_k`.
    """
    own = gallery is None
    gallery = torch.from_numpy(np.ascontiguousarray(query if own else gallery, dtype=np.float32))
    labels = torch.as_tensor(query_labels if own else gallery_labels)
    ranks = []
    for rows in torch.arange(len(query)).split(FEW):
        some = torch.from_numpy(np.ascontiguousarray(query[rows.numpy()], dtype=np.float32))
        d = torch.cdist(some, gallery, compute_mode="donot_use_mm_for_euclid_dist")
        if own:
            d[torch.arange(len(rows)), rows] = torch.inf
        right = torch.where(
            labels == torch.as_tensor(query_labels[rows.numpy()])[:, None], d, torch.inf
        )
        place = right.argmin(dim=1, keepdim=True)  # the first one of a tie
        nearest_right = right.gather(1, place)
        before = (d < nearest_right) | (d == nearest_right) & (torch.arange(len(gallery)) < place)
        ranks.append(torch.where(nearest_right[:, 0].isfinite(), before.sum(dim=1) + 1, 0))
    return torch.cat(ranks).int().numpy()

"""Recall@K, R-precision and MAP@R, exact, by Euclidean distance.

Ties go to the lower gallery index. Without a gallery each query is searched among the others: its
own image is left out by its index, so a duplicate at distance zero stays. One product of matrices
gives the distances of a block of queries, up to rounding; what that leaves open is decided by
distances in float64, taken directly. Embeddings are arrays, or tensors of any type on any device.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mdr_core.evaluation.full_float32 import full_float32

KS = (1, 2, 4, 8)
ROUNDING = 1e-5  # of ||q||^2 + d^2, at 512 dimensions: the most that the product is off by
LEAST, MOST = 1e-36, 1e37  # squared distances that float32 holds with all of its digits
BLOCK, GPU_BLOCK, PAIRS = 2**22, 2**27, 2**11  # distances at a time; those taken directly


class RetrievalSet(NamedTuple):
    """Queries (Q, ...) and a gallery (G, ...), if any: images, crops or embeddings, with labels."""

    query: Any
    labels: Any
    gallery: Any = None
    gallery_labels: Any = None

    def map(self, function: Callable[[Any], Any]) -> "RetrievalSet":
        """Replace the queries and the gallery, if any, by ``function`` of them."""
        gallery = None if self.gallery is None else function(self.gallery)
        return self._replace(query=function(self.query), gallery=gallery)


def embeddings_and_labels(embeddings: Any, labels: Any) -> tuple[Tensor, np.ndarray]:
    """Return embeddings (N, D), float64 if they are, else float32, and labels (N,), if they fit.

    Raises:
        ValueError: they don't, an embedding is NaN or Inf, or a label is missing.
    """
    if not isinstance(embeddings, Tensor):
        embeddings = torch.from_numpy(np.require(embeddings, requirements=["C", "W"]))
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu()
        labels = labels.double() if labels.is_floating_point() else labels
    x, y = embeddings.detach(), np.asarray(labels)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        shapes = f"{tuple(x.shape)} and {y.shape}"
        raise ValueError(f"give embeddings (N, D) with labels (N,), one for each: got {shapes}")
    if any(label is None or label != label for label in y.tolist()):
        raise ValueError("a label is missing (NaN or None): leave its image out")
    return x.to(torch.promote_types(x.dtype, torch.float32)), y


class Ranking:
    """Embeddings made ready for searching, a block of queries after the other.

    The columns of a block are the gallery, class by class, and centered: far from the origin the
    product would round more. ``relevant`` (Q,): how many images each query should find.

    Raises:
        ValueError: it cannot be computed, or would be a number without a meaning.
    """

    def __init__(self, images: RetrievalSet, ks: Sequence[int]):
        if (images.gallery is None) != (images.gallery_labels is None):
            raise ValueError("give gallery and gallery_labels together, or neither")
        self.query, labels = embeddings_and_labels(*images[:2])
        device, own = self.query.device, images.gallery is None
        self.gallery, of_gallery = embeddings_and_labels(*images[:2] if own else images[2:])
        dims = self.query.shape[1], self.gallery.shape[1]
        if dims[0] != dims[1]:
            raise ValueError("queries have {} dimensions and the gallery {}".format(*dims))
        names, numbers = np.unique(np.concatenate([labels, of_gallery]), return_inverse=True)
        all_kinds = torch.from_numpy(numbers).to(device)
        self.kinds, kinds = all_kinds[: len(labels)], all_kinds[len(labels) :]
        self.relevant = kinds.bincount(minlength=len(names))[self.kinds] - int(own)
        if not (self.relevant > 0).any():
            raise ValueError("no query has another image of its class to find: are labels right?")
        if not len(ks) or min(ks) < 1 or max(ks) > len(kinds) - own:
            raise ValueError(f"K must lie between 1 and {len(kinds) - own}, got {list(ks)}")
        self.gallery = self.gallery.to(device)
        self.column_kinds, self.index = kinds.sort(stable=True)
        self.own = self.index.argsort() if own else None  # each query's column
        self.rounding = 2 * ROUNDING * max(dims[0] / 512, 1) ** 0.5  # of two distances
        self.center = self.gallery.mean(dim=0)
        self.columns = (self.gallery[self.index] - self.center).float()
        self.squares = self.columns.square().sum(dim=1)
        self.query_squares = (self.query - self.center).float().square().sum(dim=1, keepdim=True)
        if not self.squares.max() + self.query_squares.max() < MOST:
            raise ValueError("an embedding is NaN, Inf or too large to be squared in float32")

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield queries (R,) that can be answered, and d^2 - ||q||^2 (R, G), up to rounding."""
        rows = self.kinds.argsort(stable=True)
        rows = rows[self.relevant[rows] > 0]
        block = BLOCK if rows.device.type == "cpu" else GPU_BLOCK
        for some in rows.split(max(block // len(self.squares), 1)):
            queries = (self.query[some] - self.center).float()
            with full_float32():
                near = torch.addmm(self.squares, queries, self.columns.T, alpha=-2)
            if self.own is not None:
                near.scatter_(1, self.own[some][:, None], torch.inf)
            yield some, near

    def in_order(self, rows: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pairs (R, G)'s row and column (P,), by distance, then index; each row's first."""
        flat = pad(chosen.flatten(), (0, -chosen.numel() % 8))
        word = flat.view(torch.int64).nonzero().flatten()  # eight at a time: ten times as fast
        some, byte = flat.view(-1, 8)[word].nonzero(as_tuple=True)
        place = 8 * word[some] + byte
        row, column = place // chosen.shape[1], place % chosen.shape[1]
        index = self.index[column]
        pairs = zip(rows[row].split(PAIRS), index.split(PAIRS), strict=True)
        d = [(self.query[q].double() - self.gallery[g].double()).square().sum(1) for q, g in pairs]
        order = index.argsort(stable=True)
        for key in (torch.cat(d), row):
            order = order[key[order].argsort(stable=True)]
        first = torch.searchsorted(row, torch.arange(len(rows), device=row.device))
        return row, column[order], first

    def rank(self, rows: Tensor, near: Tensor) -> Tensor:
        """Return (R,) the rank of each query's nearest image of its class; near is then spoilt."""
        kinds, wanted = self.column_kinds, self.kinds[rows]
        start, stop = torch.searchsorted(kinds, torch.stack([wanted[0], wanted[-1] + 1])).tolist()
        right = kinds[start:stop] == wanted[:, None]
        limit = near[:, start:stop].where(right, torch.inf).amin(dim=1, keepdim=True)
        room = self.rounding * (2 * self.query_squares[rows] + limit) + LEAST
        before = torch.lt(near, limit - room, out=torch.empty_like(near))  # floats: twice as fast
        near.add_(before, alpha=10 * MOST)
        row, column, first = self.in_order(rows, near <= limit + room)
        place = torch.arange(len(row), device=row.device)
        place = place.where(kinds[column] == wanted[row], len(row))
        found = torch.full_like(first, len(row)).scatter_reduce(0, row, place, "amin")
        return (before.sum(dim=1).long() + found - first + 1).int()

    def nearest(self, rows: Tensor, near: Tensor, k: int) -> Tensor:
        """Return (R, k) the columns of the nearest images, in order."""
        limit = near.topk(k, largest=False).values[:, -1:]
        room = self.rounding * (2 * self.query_squares[rows] + limit) + LEAST
        _, column, first = self.in_order(rows, near <= limit + room)
        return column[first[:, None] + torch.arange(k, device=first.device)]


def first_ranks(
    query: Any, labels: Any, gallery: Any = None, gallery_labels: Any = None, ks: Sequence = (1,)
) -> np.ndarray:
    """Return (Q,) int32 the rank, from 1, of each query's nearest image of its class; 0: none."""
    ranking = Ranking(RetrievalSet(query, labels, gallery, gallery_labels), ks)
    ranks = torch.zeros_like(ranking.kinds, dtype=torch.int32)
    for rows, near in ranking.blocks():
        ranks[rows] = ranking.rank(rows, near)
    return ranks.cpu().numpy()


def recall(ranks: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    """Return Recall@K in percent, given :func:`first_ranks`."""
    return {int(k): 100.0 * float(((ranks > 0) & (ranks <= k)).mean()) for k in ks}


def recall_at_k(
    embeddings: Any, labels: Any, ks: Sequence = KS, gallery: Any = None, gallery_labels: Any = None
) -> dict[int, float]:
    """Return Recall@K in percent: how many queries have an image of their class among K nearest.

    Args:
        embeddings, labels: (Q, D) and (Q,), the queries.
        gallery, gallery_labels: (G, D) and (G,); by default the queries, each one's own excluded.

    Raises:
        ValueError: they do not fit together, or are NaN, Inf or beyond float32; a K is larger than
            the gallery; no query has an image to find.
    """
    return recall(first_ranks(embeddings, labels, gallery, gallery_labels, ks), ks)


class Scores(NamedTuple):
    """What :func:`evaluate` returns: percentages of all queries, and values of each (Q,)."""

    recall: dict[int, float]
    r_precision: float
    map_at_r: float
    right: np.ndarray  # whether the nearest image is of the query's class
    average_precision: np.ndarray  # AP@R; NaN where the class has no other image


def evaluate(images: RetrievalSet, ks: Sequence = KS) -> Scores:
    """Return Recall@K, R-precision and MAP@R (Musgrave et al. 2020).

    With R the number of gallery images of the query's class: R-precision is the share of them
    among the R nearest; MAP@R is the mean over r = 1 ... R of (precision at r if the r-th is of the
    class, else 0). Queries with R = 0 fail in Recall@K and are left out of the other two.
    It refuses what :func:`recall_at_k` does.
    """
    ranking = Ranking(images, ks)
    ranks = torch.zeros_like(ranking.kinds, dtype=torch.int32)
    average, precision = ranks.new_full((2, len(ranks)), torch.nan, dtype=torch.float64)
    for rows, near in ranking.blocks():
        r = ranking.relevant[rows]
        place = torch.arange(1, int(r.max()) + 1, device=r.device)
        kinds = ranking.column_kinds[ranking.nearest(rows, near, len(place))]
        hits = ((kinds == ranking.kinds[rows, None]) & (place <= r[:, None])).double()
        precision[rows] = hits.sum(dim=1) / r
        average[rows] = (hits.cumsum(dim=1) / place * hits).sum(dim=1) / r
        ranks[rows] = ranking.rank(rows, near)
    first, r_precision, map_at_r = ranks.cpu().numpy(), precision.nanmean(), average.nanmean()
    found = recall(first, ks), 100 * r_precision.item(), 100 * map_at_r.item()
    return Scores(*found, first == 1, average.cpu().numpy())


def nearest(query: Any, k: int, gallery: Any = None) -> np.ndarray:
    """Return (Q, k) the nearest gallery images' indices, in order, of embeddings (Q, D), (G, D)."""
    alike = [None if x is None else np.zeros(len(x)) for x in (query, gallery)]
    ranking = Ranking(RetrievalSet(query, alike[0], gallery, alike[1]), (k,))
    found = [ranking.nearest(rows, near, k) for rows, near in ranking.blocks()]
    return ranking.index[torch.cat(found)].cpu().numpy()

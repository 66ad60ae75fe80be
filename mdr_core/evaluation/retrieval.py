"""Recall@K, R-precision and MAP@R, exact, by Euclidean distance.

Ties go to the lower gallery index. Without a gallery a query is left out by index, its duplicates
are not. A product of matrices gives a block of distances, up to rounding; what that leaves open is
decided in float64. Embeddings are arrays, or any tensors.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, backends
from torch.nn.functional import pad

KS = (1, 2, 4, 8)
ROUNDING = 1e-5  # of ||q||^2 + d^2, at 512 dimensions: the most that the product is off by
LEAST, MOST = 1e-36, 1e37  # squared distances that float32 holds with all of its digits
BLOCK, GPU_BLOCK, PAIRS = 2**22, 2**27, 2**11  # distances at a time; those taken directly
OPERATIONS: list[Any] = [backends.cuda.matmul, backends.cudnn.conv]  # type: ignore[attr-defined]
OPERATIONS += [backends.mkldnn.matmul, backends.mkldnn.conv]  # type: ignore[attr-defined]


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Compute without autocast, another default type, or TF32, which keeps 10 bits of 23."""
    with contextlib.ExitStack() as stack:
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        for each in OPERATIONS:
            stack.callback(setattr, each, "fp32_precision", each.fp32_precision)
            each.fp32_precision = "ieee"
        yield


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
    """Return embeddings (N, D) in float32, or float64 if they are, and labels (N,), all there."""
    if not isinstance(embeddings, Tensor):
        embeddings = torch.from_numpy(np.require(embeddings, requirements=["C", "W"]))
    y = np.asarray(labels.tolist() if isinstance(labels, Tensor) else labels)
    shape = tuple(embeddings.shape)
    if len(shape) != 2 or y.shape != shape[:1]:
        raise ValueError(f"give embeddings (N, D) with labels (N,): got {shape} and {y.shape}")
    if any(label is None or label != label for label in y.tolist()):
        raise ValueError("a label is missing (NaN or None): leave its image out")
    return embeddings.detach().to(torch.promote_types(embeddings.dtype, torch.float32)), y


class Ranking:
    """Search a gallery, in columns class by class, for a block of queries at a time."""

    def __init__(self, images: RetrievalSet, ks: Sequence[int]):
        if (images.gallery is None) != (images.gallery_labels is None):
            raise ValueError("give gallery and gallery_labels together, or neither")
        self.query, labels = embeddings_and_labels(*images[:2])
        device, own = self.query.device, images.gallery is None
        self.gallery, of_gallery = embeddings_and_labels(*images[:2] if own else images[2:])
        dim, of_images = self.query.shape[1], self.gallery.shape[1]
        if dim != of_images:
            raise ValueError(f"queries have {dim} dimensions and the gallery {of_images}")
        names, numbers = np.unique(np.concatenate([labels, of_gallery]), return_inverse=True)
        self.kinds, kinds = torch.from_numpy(numbers).to(device).tensor_split([len(labels)])
        self.relevant = kinds.bincount(minlength=len(names))[self.kinds] - int(own)  # to be found
        if not (self.relevant > 0).any():
            raise ValueError("no query has another image of its class to find: are labels right?")
        if not len(ks) or min(ks) < 1 or max(ks) > len(kinds) - own:
            raise ValueError(f"K must lie between 1 and {len(kinds) - own}, got {list(ks)}")
        self.gallery = self.gallery.to(device)
        self.column_kinds, self.index = kinds.sort(stable=True)
        self.own = self.index.argsort() if own else None  # each query's column
        self.rounding = 2 * ROUNDING * max(dim / 512, 1) ** 0.5  # of two distances
        self.center = self.gallery.mean(dim=0)  # far from it the product would round more
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
        flat = pad(chosen.flatten(), (0, -chosen.numel() % 8)).view(-1, 8)
        word = flat.view(torch.int64).nonzero()[:, :1]  # eight at a time: ten times as fast
        place = (8 * word + torch.arange(8, device=word.device))[flat[word[:, 0]]]
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
        hit = (kinds[column] == wanted[row]).nonzero().flatten()
        found = hit[torch.searchsorted(row[hit], torch.arange(len(rows), device=row.device))]
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

    Queries are (Q, D) with labels (Q,), the gallery (G, D) with (G,); by default the other queries.
    ValueError: shapes that do not fit, NaN, Inf or beyond float32, a K larger than the gallery, or
    queries none of which has an image to find.
    """
    return recall(first_ranks(embeddings, labels, gallery, gallery_labels, ks), ks)


class Scores(NamedTuple):
    """What :func:`evaluate` returns: values of each query (Q,), and percentages of all."""

    ranks: np.ndarray  # as :func:`first_ranks`
    r_precision: float
    map_at_r: float
    average_precision: Tensor  # AP@R; NaN where the class has no other image


def evaluate(images: RetrievalSet) -> Scores:
    """Return ranks, R-precision and MAP@R (Musgrave et al. 2020); refuse as recall_at_k does.

    With R the number of gallery images of the query's class: R-precision is their share of the R
    nearest; MAP@R the mean over r = 1 ... R of (precision at r if the r-th is of the class, else
    0). Queries with R = 0 are left out of these two.
    """
    ranking = Ranking(images, (1,))
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
    r_precision, map_at_r = (100 * values.nanmean().item() for values in (precision, average))
    return Scores(ranks.cpu().numpy(), r_precision, map_at_r, average.cpu())


def nearest(query: Any, k: int, gallery: Any = None) -> np.ndarray:
    """Return (Q, k) the nearest gallery images' indices, in order, of embeddings (Q, D), (G, D)."""
    of_gallery = None if gallery is None else np.zeros(len(gallery))
    ranking = Ranking(RetrievalSet(query, np.zeros(len(query)), gallery, of_gallery), (k,))
    found = [ranking.nearest(rows, near, k) for rows, near in ranking.blocks()]
    return ranking.index[torch.cat(found)].cpu().numpy()

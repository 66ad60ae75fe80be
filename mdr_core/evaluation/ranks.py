"""The rank of each query's nearest image of its class: Recall@K follows from it for every K.

The rank is one more than the number of gallery images before that image. These are counted, in
tiles of one product of matrices. Nothing is sorted and no list of neighbors is kept. The expansion
||q - g||^2 = ||q||^2 - 2 q.g + ||g||^2 blurs near-ties: one or two images a query are within its
rounding of the nearest image of the class. Distances in float64, taken directly, decide these.
Ties go to the lower gallery index.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

ROUNDING = 1e-5  # of ||q||^2 + d^2, at 512 dimensions: the most that the expansion is off by
TILE = {"cpu": 2**24, "cuda": 2**27}  # distances at a time; the latter has not been tried
PAIRS = 2**13  # distances taken directly at a time


def relevant_images(
    query_labels: ArrayLike, labels: ArrayLike, own: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number the classes of the gallery and count each query's images.

    Args:
        query_labels, labels: (Q,) and (G,), the gallery's.
        own: the gallery is the queries, and each is left out of its own images.

    Returns:
        (G,) each image's class; (Q,) each query's, where its class is in the gallery; (Q,) how many
        images of the gallery are of the query's class.
    """
    names, classes = np.unique(np.asarray(labels), return_inverse=True)
    wanted = np.asarray(query_labels)
    found = np.searchsorted(names, wanted).clip(max=len(names) - 1)
    count = np.bincount(classes)[found] - own
    return classes, found, np.where(names[found] == wanted, count, 0)


def first_ranks(
    query: ArrayLike,
    query_labels: ArrayLike,
    gallery: ArrayLike | None = None,
    gallery_labels: ArrayLike | None = None,
    device: str | None = None,
    chosen: np.ndarray | None = None,
) -> np.ndarray:
    """Return (Q,) int32 the rank, from 1, of each query's nearest image of its class.

    Ties go to the lower index. The rank is 0 where the query's class has no other image.

    Args:
        query, query_labels: (Q, D) embeddings and (Q,).
        gallery, gallery_labels: (G, D) and (G,); by default the queries, each one's own excluded.
        device: where torch computes, by default the CPU.
        chosen: (Q,) bool, the queries to rank, by default all; others get 0.

    Raises:
        ValueError: an embedding is NaN or Inf.
    """
    own = gallery is None
    labels = query_labels if gallery_labels is None else gallery_labels
    classes, of_query, relevant = relevant_images(query_labels, labels, own)
    if chosen is not None:
        relevant = np.where(chosen, relevant, 0)
    place = torch.device(device or "cpu")
    queries = on(place, query)
    columns = Columns.of(queries if own else on(place, gallery), torch.from_numpy(classes))
    if not (columns.squares.isfinite().all() and queries.isfinite().all()):
        raise ValueError("an embedding is NaN or Inf")
    by_kind = of_query.argsort(kind="stable")
    rows = torch.from_numpy(by_kind[relevant[by_kind] > 0]).to(place)
    kinds = torch.from_numpy(of_query).to(place)
    size = max(TILE[place.type] // len(classes), 1)
    column = columns.image.argsort()  # of each image
    ranks = torch.zeros(len(queries), dtype=torch.int32, device=place)
    for some in rows.split(size) if len(rows) else ():
        before = columns.before(queries[some], kinds[some], column[some] if own else None)
        ranks[some] = before.int() + 1
    return ranks.cpu().numpy()


def on(place: torch.device, embeddings: ArrayLike | None) -> Tensor:
    return torch.from_numpy(np.require(embeddings, np.float32, ["C", "W"])).to(place)


class Columns(NamedTuple):
    """The gallery, class by class: the images of a few classes are neighboring columns of a tile.

    Embeddings are centered, since far from the origin the expansion would round more.
    """

    images: Tensor  # (G, D), in the gallery's own order
    image: Tensor  # (G,) of each column
    kind: Tensor  # (G,) the class of each column
    center: Tensor  # (D,) the mean
    centered: Tensor  # (G, D) the columns' images − center
    squares: Tensor  # (G,) their squared norms

    @classmethod
    def of(cls, images: Tensor, classes: Tensor) -> "Columns":
        """Return the columns of images (G, D) and their classes (G,)."""
        kind, index = classes.to(images.device).sort(stable=True)
        center = images.mean(dim=0)
        centered = images[index] - center
        return cls(images, index, kind, center, centered, centered.square().sum(dim=1))

    def before(self, queries: Tensor, kind: Tensor, own: Tensor | None) -> Tensor:
        """Return (R,) how many images come before each query's nearest one of its class.

        Args:
            queries: (R, D). kind: (R,) their classes, in order.
            own: (R,) the columns that are the queries themselves, to leave out.
        """
        q = queries - self.center
        tile = torch.addmm(self.squares, q, self.centered.T, alpha=-2)  # d^2 - ||q||^2
        if own is not None:
            tile.scatter_(1, own[:, None], torch.inf)
        ends = torch.stack([kind[0], kind[-1] + 1])
        start, stop = torch.searchsorted(self.kind, ends).tolist()
        right = self.kind[start:stop] == kind[:, None]
        nearest = tile[:, start:stop].where(right, torch.inf).amin(dim=1, keepdim=True)
        rounding = ROUNDING * max(q.shape[1] / 512, 1) ** 0.5
        room = 2 * rounding * (2 * q.square().sum(dim=1, keepdim=True) + nearest)
        surely, near = tile < nearest - room, tile <= nearest + room
        row, column = (near ^ surely).nonzero(as_tuple=True)
        right = self.kind[column] == kind[row]
        count = tile.copy_(surely).sum(dim=1).long()  # of floats: four times as fast as of bools
        return count + decided(queries, self.images, row, self.image[column], right)


def decided(queries: Tensor, images: Tensor, row: Tensor, index: Tensor, right: Tensor) -> Tensor:
    """Return (R,) how many of some images come before the query's nearest one of its class.

    Args:
        queries: (R, D). images: (G, D).
        row, index: (P,) pairs of a query and an image, the nearest one of its class among them.
        right: (P,) whether the image is of the query's class.
    """
    d = torch.cat(
        [
            (queries[r].double() - images[i].double()).square().sum(dim=1)
            for r, i in zip(row.split(PAIRS), index.split(PAIRS), strict=True)
        ]
    )
    first = d.new_full((len(queries),), torch.inf)
    first = first.scatter_reduce(0, row, d.where(right, torch.inf), "amin")[row]
    lowest = index.new_full((len(queries),), len(images))
    tied = index.where(right & (d == first), len(images))
    lowest = lowest.scatter_reduce(0, row, tied, "amin")[row]
    before = (d < first) | (d == first) & (index < lowest)
    return index.new_zeros(len(queries)).index_add_(0, row, before.long())

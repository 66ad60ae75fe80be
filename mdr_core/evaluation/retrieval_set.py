"""Queries and the gallery that they are searched in, with their labels."""

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np

Array = TypeVar("Array")


class RetrievalSet(NamedTuple, Generic[Array]):
    """Queries (N, ...) with labels (N,), and the gallery (G, ...) with labels (G,), if any.

    They are images, crops or embeddings.
    """

    query: Array
    labels: Array
    gallery: Array | None = None
    gallery_labels: Array | None = None

    @property
    def searched(self) -> tuple[Array, Array]:
        """The gallery and its labels, or the queries and theirs."""
        if self.gallery is not None and self.gallery_labels is not None:
            return self.gallery, self.gallery_labels
        if self.gallery is not None or self.gallery_labels is not None:
            raise ValueError("give gallery and gallery_labels together, or neither")
        return self.query, self.labels

    def check(self, ks: Sequence[int] = (1,)) -> None:
        """Refuse embeddings and labels by which Recall@K would be a number without a meaning.

        Raises:
            ValueError: embeddings are not (N, D), of one D, or labels not (N,): one-hot, say.
                No query has an image of its class to find. A K is below 1, or there is none.
        """
        dims = []
        for name, (rows, labels) in (("query", self[:2]), ("gallery", self.searched)):
            shape, of_labels = np.asarray(rows).shape, np.asarray(labels).shape
            if len(shape) != 2 or of_labels != shape[:1]:
                raise ValueError(
                    f"{name} must be embeddings (N, D) with labels (N,), one number for each: got "
                    f"{shape} and {of_labels}"
                )
            dims.append(shape[1])
        if dims[0] != dims[1]:
            raise ValueError(f"queries have {dims[0]} dimensions and the gallery {dims[1]}")
        classes, counts = np.unique(np.asarray(self.searched[1]), return_counts=True)
        several = classes[counts > (self.gallery is None)]  # a query does not find itself
        if not np.isin(np.asarray(self.labels), several).any():
            raise ValueError("no query has another image of its class to find: are labels right?")
        if not len(ks) or min(ks) < 1:
            raise ValueError(f"ks must hold numbers of at least 1, got {list(ks)}")

    def map(self, function: Callable[[Array, Array], Array]) -> "RetrievalSet[Array]":
        """Replace queries and gallery by ``function(images, labels)``."""
        query, gallery = function(self.query, self.labels), self.gallery
        return self._replace(
            query=query, gallery=None if gallery is None else function(*self.searched)
        )

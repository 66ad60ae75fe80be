"""A reproduction of Multi-level Distance Regularization (Kim and Park, AAAI 2021).

``from mdr_core import MDR`` imports torch alone; each other name imports what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "1.0.0"
__all__ = ["MDR", "ImageSearch", "normalize_by_mean_distance", "recall_at_k"]

if TYPE_CHECKING:
    from mdr_core.evaluation.retrieval import recall_at_k
    from mdr_core.regularizer import MDR, normalize_by_mean_distance
    from mdr_core.search import ImageSearch
else:

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = {"recall_at_k": "evaluation.retrieval", "ImageSearch": "search"}
        return getattr(import_module(f"mdr_core.{home.get(name, 'regularizer')}"), name)

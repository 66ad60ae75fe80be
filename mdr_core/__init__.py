"""Multi-level Distance Regularization for Deep Metric Learning (Kim and Park, AAAI 2021), reproduced.

``from mdr_core import MDR`` imports torch alone; each of the other names imports what it needs.
"""

import importlib

_HOMES = {
    "MDR": "regularizer",
    "normalize_by_mean_distance": "regularizer",
    "recall_at_k": "evaluation.retrieval",
    "ImageSearch": "search",
}
__all__ = [*_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

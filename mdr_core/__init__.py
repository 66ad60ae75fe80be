"""A reproduction of Multi-level Distance Regularization (Kim and Park, AAAI 2021).

``from mdr_core import MDR`` imports torch alone; each other name imports what it needs.
"""

import importlib

_MODULES = {
    "MDR": "regularizer",
    "normalize_by_mean_distance": "regularizer",
    "recall_at_k": "evaluation.retrieval",
    "ImageSearch": "search",
}
__all__ = [*_MODULES]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)

"""Compute in float32, whatever the caller has set."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import backends

OPERATIONS: list[Any] = [backends.cuda.matmul, backends.cudnn.conv]  # type: ignore[attr-defined]
OPERATIONS += [backends.mkldnn.matmul, backends.mkldnn.conv]  # type: ignore[attr-defined]


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Compute without autocast, another default type, or TF32, which keeps 10 bits of 23."""
    default, before = torch.get_default_dtype(), [each.fp32_precision for each in OPERATIONS]
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        try:
            torch.set_default_dtype(torch.float32)
            for each in OPERATIONS:
                each.fp32_precision = "ieee"
            yield
        finally:
            torch.set_default_dtype(default)
            for each, precision in zip(OPERATIONS, before, strict=True):
                each.fp32_precision = precision

"""The benchmarks' literal ways compute what ours do."""

import pytest
import torch

from benchmarks import distances, recall
from mdr_core.regularizer import MDR


def test_the_literal_mdr_is_mdr():
    x = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
    found = distances.literal_mdr(x, torch.tensor([-3.0, 0.0, 3.0])).item()
    assert found == pytest.approx(MDR()(x).item(), rel=1e-5)


def test_every_query_finds_what_the_literal_loop_finds():
    table = recall.measure([1005])
    assert table["queries equal to it, %"].tolist() == [100.0]

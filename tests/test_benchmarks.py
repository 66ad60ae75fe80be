"""The benchmarks run, at a small size, and their literal ways compute what ours do."""

import pytest
import torch

from benchmarks import distances, recall, throughput, timing
from mdr_core.regularizer import MDR
from tests.processes import SERVER


@pytest.fixture
def served(monkeypatch):
    """Fresh processes come from the tests' server, where the benchmarks start each from nothing."""
    monkeypatch.setattr(timing.multiprocessing, "get_context", lambda method: SERVER)


def test_the_literal_mdr_is_mdr():
    x = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
    assert distances.literal_mdr(x, torch.tensor([-3.0, 0.0, 3.0])).item() == pytest.approx(
        MDR()(x).item(), rel=1e-5
    )


def test_every_way_is_measured(served):
    table = distances.measure([16])
    assert len(table) == 5 and (table.milliseconds > 0).all()


def test_every_query_finds_what_the_literal_loop_finds():
    table = recall.measure([1005])
    assert table["queries equal to it, %"].tolist() == [100.0]


def test_the_loop_is_fed_in_every_way(monkeypatch):
    monkeypatch.setattr(throughput, "IMAGES", 16)
    monkeypatch.setattr(throughput.os, "sched_getaffinity", lambda pid: {0})  # one worker
    table = throughput.measure([("resnet18", 32, 40, 8, 2)], rounds=1)
    assert table["fed from"].tolist() == ["fixed tensor", "store", "files", "fixed tensor, no MDR"]

"""The suite's settings: one thread for each process, one run store for all tests, and the long tests first.

Two processes share the tests (pytest-xdist). ``pytest -m ""`` runs those marked ``long``, too; ``pytest -n 0`` runs all in one process.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
os.environ.update(dict.fromkeys(THREADS, "1"))  # before torch and numpy are imported; every process that a test starts inherits it

LONG_FIRST = ("test_notebooks", "test_distributed", "test_workers", "test_runs", "test_same_numbers", "test_benchmarks")
APART = ("test_notebooks", "test_workers", "test_runs", "test_same_numbers")  # files whose tests share no fixture: any process takes any test


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # the process that starts the others, which inherit both
        os.environ["MDR_TEST_STORE"] = tempfile.mkdtemp(prefix="mdr-tests-")
        os.environ["MDR_CACHE"] = os.path.join(os.environ["MDR_TEST_STORE"], "cache")


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["MDR_TEST_STORE"], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist then reads the marks
def pytest_collection_modifyitems(items):
    """Keep a file's tests in one process, so that its fixtures are made once; a test's own mark goes before."""
    rank = {name: place for place, name in enumerate(LONG_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    for item in items:
        if item.path.stem not in APART:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session")
def store() -> Path:
    """A run store that all tests of a suite share: equal runs are trained once."""
    return Path(os.environ["MDR_TEST_STORE"]) / "runs"

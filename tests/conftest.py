"""The suite's settings: one thread a process, one run store for all tests, long tests first.

Two processes share the tests; ``pytest -m ""`` runs those marked ``long``, too, ``-n 0`` in one.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# before torch and numpy are imported; every process that a test starts inherits it
os.environ.update(dict.fromkeys(THREADS, "1"))
sys.modules["rfc3987_syntax"] = None  # which nbformat imports, slowly, and does without

LONG_FIRST = ("notebooks", "distributed", "workers", "runs", "same_numbers")
APART = (  # tests that share no fixture of their file, so that any process may take any of them
    "tests/test_notebooks.py",
    "tests/test_workers.py",
    "tests/test_runs.py",
    "tests/test_same_numbers.py",
)


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # the process that starts the others, which inherit both
        os.environ["MDR_TEST_STORE"] = tempfile.mkdtemp(prefix="mdr-tests-")
        os.environ["MDR_CACHE"] = os.path.join(os.environ["MDR_TEST_STORE"], "cache")
        os.environ["MDR_RUNS"] = os.path.join(os.environ["MDR_TEST_STORE"], "runs")


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["MDR_TEST_STORE"], ignore_errors=True)


def pytest_collection_modifyitems(items):
    rank = {name: place for place, name in enumerate(LONG_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem.removeprefix("test_"), len(rank)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep a file's tests in one process, so that its fixtures are made once.

    (xdist's own ``loadgroup`` does nothing under pytest 9.2.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(APART) else nodeid.split("::")[0]

    return ByFile(config, log)


@pytest.fixture(scope="session")
def store() -> Path:
    """A run store that all tests of a suite share: equal runs are trained once."""
    return Path(os.environ["MDR_TEST_STORE"]) / "runs"


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=found, args=["--no-sandbox"])

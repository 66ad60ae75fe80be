"""Runs side by side: in processes on this machine and on a Dask cluster; one is killed."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from mdr_core import profiles
from mdr_core.errors import StudyError
from mdr_core.runs import local
from mdr_core.runs.run import records
from tests.processes import INTERRUPTED, started

TINY = profiles.QUICK.replace(
    dataset="drawn",
    weights="random",
    backbone="small_resnet_narrow",
    epochs=2,
    iterations=4,
    train_images=60,
)
GRID = [TINY.replace(seed=seed) for seed in range(8)]
LONG = [config.replace(epochs=200) for config in GRID[:2]]


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """The folder of this machine's runs, which is empty, for two processes."""
    monkeypatch.setenv("MDR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MDR_JOBS", "2")
    return tmp_path / "runs"


def train(grid) -> None:
    records(grid, committed_too=False)


def ended(root: Path) -> int:
    return len(list(root.glob("*/run.json")))


def children_of(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for each in lists for child in each.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def all_end(children: list[int]) -> None:
    """Two at least, and none is left."""
    deadline = time.time() + 20
    while any(map(alive, children)) and time.time() < deadline:
        time.sleep(0.05)
    assert len(children) >= 2 and not any(map(alive, children))


def test_a_killed_process_is_told_and_the_next_grid_ends_but_for_a_run_that_fails(root):
    def kill_one():
        while len(list(root.glob("*/checkpoint.pt"))) < 2:
            time.sleep(0.02)
        for pid in children_of(os.getpid())[-2:]:
            os.kill(pid, signal.SIGKILL)

    threading.Thread(target=kill_one, daemon=True).start()
    with pytest.raises(StudyError, match="a process died.*drawn, loss triplet.*seed.*ask again"):
        train(LONG)
    assert not ended(root) and list(root.glob("*/checkpoint.pt"))
    with pytest.raises(StudyError, match="the loss became NaN or Inf"):
        train([TINY.replace(epochs=1, lr=1e30), *GRID[:2]])  # at once, on the same machine
    assert ended(root) == 2
    with pytest.raises(StudyError, match="unknown backbone"):  # before anything is trained
        train([GRID[5], TINY.replace(backbone="resnet19")])
    assert ended(root) == 2


def test_interrupted_the_processes_end_and_what_is_finished_stays(root):
    """Ctrl-C as a notebook's kernel gets it: SIGINT to the one process."""
    with started(train, [*GRID[:2], *LONG]) as process:
        while not ended(root) and process.is_alive():
            time.sleep(0.02)
        children = children_of(process.pid)
        os.kill(process.pid, signal.SIGINT)
        process.join(30)
        assert process.exitcode == INTERRUPTED
    all_end(children)
    assert 1 <= ended(root) <= 2


def dask_worker(address: str, folder: Path) -> None:
    from distributed.cli.dask_worker import main

    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(folder)]
    main([address, *options], standalone_mode=False)


@pytest.fixture
def scheduler():
    """The address of a Dask scheduler without workers, over loopback."""
    from dask.distributed import LocalCluster

    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def test_a_grid_over_a_cluster_survives_a_worker(root, scheduler, tmp_path, monkeypatch):
    """One of two workers is killed in the middle: all runs are there, none trained twice."""
    monkeypatch.setenv("MDR_SCHEDULER", scheduler)
    grid, seen = GRID[:4], {}  # run.json -> when it was first seen to be written

    def watch(pid: int) -> None:
        while len(seen) < len(grid):
            for path in set(root.glob("*/run.json")) - set(seen):
                seen[path] = path.stat().st_mtime_ns
                if len(seen) == 2:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    with (
        started(dask_worker, scheduler, tmp_path / "one") as one,
        started(dask_worker, scheduler, tmp_path / "other"),
    ):
        watcher = threading.Thread(target=watch, args=(one.pid,), daemon=True)
        watcher.start()
        found = records(grid, committed_too=False)
        watcher.join(timeout=5)
        assert not one.is_alive()
    assert [record["config"]["seed"] for record in found] == list(range(len(grid)))
    assert {path: path.stat().st_mtime_ns for path in root.glob("*/run.json")} == seen
    assert not list(root.glob("*/checkpoint.pt"))


def test_two_processes_that_want_one_run_train_it_once(root):
    with started(local.train, GRID[0]) as one, started(local.train, GRID[0]) as other:
        one.join(120)
        other.join(120)
    assert one.exitcode == other.exitcode == 0 and ended(root) == 1
    assert not list(root.glob("*.lock"))

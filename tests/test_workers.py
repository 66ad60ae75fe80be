"""Runs on local processes, on a Dask cluster, and on processes that share a run; one is killed."""

import contextlib
import functools
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import dask.distributed
import pytest

from mdr_core.errors import StudyError
from mdr_core.runs import executors, grids, store
from mdr_core.runs.store import RunStore
from mdr_core.study import profiles
from tests.processes import INTERRUPTED, die_first, die_or_write, started

TINY = profiles.QUICK.replace(
    weights="random", backbone="small_resnet_narrow", epochs=2, iterations=4, train_images=100
)
GRID = [TINY.replace(seed=s) for s in range(8)]


def test_a_process_that_dies_takes_only_its_own_run_with_it(tmp_path):
    with (
        pytest.raises(
            StudyError,
            match="the process that trained drawn, loss triplet.* seed 1 died.*of the 5.*ask again",
        ),
        executors.Processes(2, 1) as executor,
    ):
        work = functools.partial(die_or_write, tmp_path)
        executors.train_all(work, dict.fromkeys(GRID[:5], False), executor)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "2", "3", "4"]


def test_the_others_finish_when_a_run_fails_and_the_failure_is_reported(tmp_path):
    grid = [TINY.replace(epochs=1, lr=1e30), TINY.replace(epochs=1), TINY.replace(epochs=1, seed=1)]
    with pytest.raises(StudyError, match="the loss became NaN or Inf"):
        grids.records(grid, RunStore(tmp_path), jobs=2, progress=False)
    assert len(list(tmp_path.glob("*/run.json"))) == 2
    with pytest.raises(StudyError, match="unknown backbone"):  # before anything is trained
        grids.records(
            [TINY.replace(seed=5), TINY.replace(backbone="resnet19")],
            RunStore(tmp_path),
            progress=False,
        )
    assert len(list(tmp_path.glob("*/run.json"))) == 2


def test_interrupted_the_processes_end_and_what_is_finished_stays(tmp_path):
    """Ctrl-C as a notebook's kernel gets it: SIGINT to the one process."""
    with started(grids.records, GRID, RunStore(tmp_path), 2) as process:
        while not list(tmp_path.glob("*/run.json")) and process.is_alive():
            time.sleep(0.02)
        children = children_of(process.pid)
        os.kill(process.pid, signal.SIGINT)
        process.join(30)
        assert process.exitcode == INTERRUPTED
    all_end(children)
    done = len(list(tmp_path.glob("*/run.json")))
    assert 1 <= done < len(GRID) and all(
        store.stored(p.parent) for p in tmp_path.glob("*/run.json")
    )


def children_of(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for each in lists for child in each.read_text().split()]


def all_end(children: list[int]) -> None:
    """Two at least, and none is left."""
    deadline = time.time() + 10
    while any(alive(p) for p in children) and time.time() < deadline:
        time.sleep(0.05)
    assert len(children) >= 2 and not any(alive(p) for p in children)


@pytest.mark.long
def test_terminated_the_command_line_ends_its_processes(tmp_path):
    script = (  # as python -m mdr_core, where no run is committed: those are not trained
        "import pathlib, runpy, sys; from mdr_core.study import train; "
        "train.REPOSITORY = pathlib.Path(sys.argv[-1]); "
        "runpy.run_module('mdr_core', None, '__main__')"
    )
    command = [sys.executable, "-c", script, "train", "--jobs", "2", "--output-root"]
    process = subprocess.Popen([*command, str(tmp_path)], stderr=subprocess.DEVNULL)
    while len(list(tmp_path.glob("*/checkpoint.pt"))) < 2 and process.poll() is None:
        time.sleep(0.05)
    children = children_of(process.pid)
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    all_end(children)


def alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def dask_worker(address: str, folder: Path) -> None:
    """``dask worker``."""
    from distributed.cli.dask_worker import main

    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    main(
        [
            address,
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--local-directory",
            str(folder),
        ],
        standalone_mode=False,
    )


@pytest.fixture
def alone():
    """A Dask scheduler without workers, over loopback: its address and its process."""
    command = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        address = next(line.split()[-1] for line in process.stderr if "Scheduler at:" in line)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield address, process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def scheduler(alone, tmp_path_factory):
    """A Dask scheduler's address, and the process numbers of its two workers."""
    address, folder = alone[0], tmp_path_factory.mktemp("dask")
    with (
        started(dask_worker, address, folder) as one,
        started(dask_worker, address, folder) as other,
    ):
        yield address, [one.pid, other.pid]


def test_a_grid_over_a_cluster_survives_a_worker(scheduler, tmp_path):
    """One of two workers is killed in the middle: 6 results, none trained twice to its end."""
    (address, pids), grid = scheduler, GRID[:6]

    ended = {}  # run.json -> when it was first seen to be written

    def watch():
        while len(ended) < len(grid):
            for path in set(tmp_path.glob("*/run.json")) - set(ended):
                ended[path] = path.stat().st_mtime_ns
                if len(ended) == 2:
                    os.kill(pids[0], signal.SIGKILL)
            time.sleep(0.01)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    found = grids.records(
        grid, RunStore(tmp_path), progress=False, executor=executors.cluster(address)
    )
    watcher.join(timeout=5)
    assert [r["config"]["seed"] for r in found] == list(range(len(grid))) and not alive(pids[0])
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/run.json")} == ended and len(
        ended
    ) == len(grid)
    assert not list(tmp_path.glob("*/checkpoint.pt")) and not list(tmp_path.glob("*.corrupt*"))


def test_a_cluster_without_a_worker_is_told_as_often_as_the_last_one_goes(
    alone, tmp_path, monkeypatch, capsys
):
    """No worker; one that dies with the run; one that ends it; then the scheduler goes as well."""
    (address, scheduler), lines = alone, []
    monkeypatch.setattr(executors, "PATIENCE", 0.2)
    executor = executors.cluster(address)

    def until(count: int) -> None:
        deadline = time.time() + 60
        while len(lines) < count and time.time() < deadline:
            lines.extend(
                line for line in capsys.readouterr().err.splitlines() if "no worker" in line
            )
            time.sleep(0.05)
        assert len(lines) == count

    def train(work, runs):
        with contextlib.suppress(StudyError):
            ended.append(executors.train_all(work, runs, executor))

    ended, folder = [], tmp_path / "dask"
    work = functools.partial(die_first, tmp_path)
    training = threading.Thread(target=train, args=(work, {GRID[0]: False}), daemon=True)
    training.start()
    until(1)
    with started(dask_worker, address, folder) as worker:
        worker.join(60)
        until(2)
    with started(dask_worker, address, folder):
        training.join(60)
    assert ended == [{GRID[0]: 0}]
    told = f"no worker is connected to the Dask scheduler at {address}: 1 run.s. wait until dask "
    assert all(re.match(told + f"worker {address} starts one", line) for line in lines)
    threading.Timer(0.5, scheduler.kill).start()
    with pytest.raises(StudyError, match="the Dask scheduler has gone while drawn.* ask again"):
        executors.train_all(work, {GRID[1]: False}, executor)


def test_a_cluster_and_processes_that_share_a_run_are_not_both_had(tmp_path):
    with pytest.raises(StudyError, match="give a scheduler or processes, not both"):
        grids.records([TINY], RunStore(tmp_path), executor=executors.Here(), processes=2)


def test_no_scheduler_there_is_said_in_one_line(monkeypatch):
    client = dask.distributed.Client
    monkeypatch.setattr(
        dask.distributed, "Client", lambda address, timeout: client(address, timeout="1s")
    )  # it would try for 10 s
    with pytest.raises(StudyError, match="no Dask scheduler answers at tcp://127.0.0.1:1"):
        executors.cluster("tcp://127.0.0.1:1")


def test_two_processes_train_a_run_together(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # torchrun leaves a folder there
    config = TINY.replace(epochs=1, batch_size=16, mdr_weight=0.2)
    [record] = grids.records([config], RunStore(tmp_path / "runs"), progress=False, processes=2)
    assert record["provenance"]["processes"] == 2 and record["history"][-1]["epoch"] == 1


@pytest.mark.long
def test_when_one_of_the_runs_that_two_processes_share_fails_the_other_is_trained(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    config = TINY.replace(epochs=1, batch_size=16, mdr_weight=0.2)
    with pytest.raises(StudyError, match="the loss became NaN or Inf"):
        grids.records(
            [config.replace(lr=1e30), config], RunStore(tmp_path), progress=False, processes=2
        )
    [stored] = tmp_path.glob("*/run.json")
    assert store.stored(stored.parent)["config"]["lr"] == config.lr


def test_what_a_shared_run_raises_is_told_and_the_next_is_trained(tmp_path, monkeypatch):
    """The short form of the test above: what each of torchrun's processes does, in one process."""

    class Torchrun:
        def __init__(self, command, **options):
            self.task = command[-1]

        def wait(self):
            return executors.main(self.task)

    monkeypatch.setattr(executors, "subprocess", SimpleNamespace(Popen=Torchrun))
    config = TINY.replace(epochs=1, batch_size=16)
    with pytest.raises(StudyError, match="the loss became NaN or Inf"):
        grids.records(
            [config.replace(lr=1e30), config], RunStore(tmp_path), progress=False, processes=2
        )
    [stored] = tmp_path.glob("*/run.json")
    assert store.stored(stored.parent)["config"]["lr"] == config.lr


def test_a_batch_that_processes_cannot_share_is_said_before_any_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "subprocess", None)
    for processes in (2, 7, 16, 10**6):
        with pytest.raises(StudyError, match=f"a batch of 15 .* evenly by {processes} processes"):
            grids.records(
                [TINY.replace(batch_size=15)],
                RunStore(tmp_path),
                progress=False,
                processes=processes,
            )


def test_processes_that_die_once_the_run_is_stored_cost_nothing(tmp_path, monkeypatch):
    class Torchrun:
        def __init__(self, command, **options):
            self.task = command[-1]

        def wait(self):
            store, config, files = pickle.loads(Path(self.task).read_bytes())
            if config.seed == 0:
                store.run(config, files)

    monkeypatch.setattr(executors, "subprocess", SimpleNamespace(Popen=Torchrun))
    config, store = TINY.replace(epochs=1), RunStore(tmp_path)
    assert grids.records([config], store, progress=False, processes=2)[0]["config"]["seed"] == 0
    with pytest.raises(StudyError, match="one of the 2 processes that trained drawn.* died"):
        grids.records([config.replace(seed=1)], store, progress=False, processes=2)


def train_together(folder: Path) -> None:
    os.environ["TMPDIR"] = tempfile.tempdir = str(
        folder
    )  # the name of what the processes are given: by it the test finds them
    grids.records([TINY.replace(epochs=500, batch_size=16)], RunStore(folder / "runs"), processes=2)


def test_interrupted_the_processes_of_a_shared_run_end(tmp_path):
    def at_work() -> list[int]:
        return [
            int(p.parent.name)
            for p in Path("/proc").glob("[0-9]*/cmdline")
            if alive(int(p.parent.name))
            and str(tmp_path).encode() in read(p)
            and b"mdr_core.runs.executors" in read(p)
        ]

    with started(train_together, tmp_path) as process:
        while not list(tmp_path.glob("runs/*/checkpoint.pt")) and process.is_alive():
            time.sleep(0.05)
        assert len(at_work()) >= 2
        os.kill(process.pid, signal.SIGINT)
        process.join(60)
        assert process.exitcode == INTERRUPTED
    assert not at_work()


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""

"""Runs side by side, on whatever there is: processes here, a cluster, or several GPUs for one run.

A list of runs goes to any executor of PEP 3148 (``concurrent.futures.Executor``). :class:`Processes` is the default;
``dask.distributed.Client("tcp://...").get_executor()`` is a cluster. Whatever becomes of one run, the others finish.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from joblib import cpu_count
from joblib.externals.loky import ProcessPoolExecutor

from mdr_core import distributed
from mdr_core.config import Config, from_dict
from mdr_core.errors import StudyError


class Processes(Executor):
    """Processes on this machine (joblib's loky, never fork), each its own pool: one that dies takes only its run with it.

    Args:
        jobs: processes.
        threads: of each, for torch and numpy.
    """

    def __init__(self, jobs: int, threads: int):
        self.environment = dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)
        )
        self.drivers, self.mine, self.pools = ThreadPoolExecutor(jobs), threading.local(), []

    def submit(self, function: Callable, /, *arguments) -> Future:
        return self.drivers.submit(self._on_own_process, function, arguments)

    def _on_own_process(self, function, arguments):
        if getattr(self.mine, "pool", None) is None:
            self.mine.pool = ProcessPoolExecutor(1, env=self.environment)
            self.pools.append(self.mine.pool)
        try:
            return self.mine.pool.submit(function, *arguments).result()
        except BrokenExecutor:
            self.mine.pool = None  # the next run gets a new one
            raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes; with ``cancel_futures`` at once, whatever they are at."""
        for pool in self.pools:
            pool.shutdown(wait=False, kill_workers=cancel_futures)
        self.drivers.shutdown(wait, cancel_futures=cancel_futures)


class Here(Executor):
    """This process, one run after the other."""

    def submit(self, function: Callable, /, *arguments) -> Future:
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as problem:  # noqa: BLE001 - whoever asks for the result meets it
            future.set_exception(problem)
        return future


def finish(
    work: Callable, items: list, executor: Executor, done: Callable[[Any], None] = lambda item: None
) -> dict:
    """item -> ``work(item)``, once all have finished. ``done`` is called with each as it ends, in whichever thread.

    Raises:
        StudyError: one failed, or its process died; the others have finished and are stored.
    """
    futures = {}
    try:
        for item in items:
            futures[item] = executor.submit(work, item)
            futures[item].add_done_callback(lambda _, item=item: done(item))
        wait(futures.values())
    except BaseException:  # Ctrl-C, say: whoever holds the executor ends its processes
        for future in futures.values():
            future.cancel()
        raise
    return {item: outcome(future, item, len(items)) for item, future in futures.items()}


def named(config: Config) -> str:
    return f"{config.dataset}, loss {config.loss}, mdr_weight {config.mdr_weight:g}, seed {config.seed}"


def outcome(future: Future, item: Config, count: int):
    problem = future.exception()
    if problem is None:
        return future.result()
    if isinstance(problem, StudyError):
        raise problem
    if (
        isinstance(problem, BrokenExecutor) or type(problem).__name__ == "KilledWorker"
    ):  # the latter is Dask's
        raise StudyError(
            f"the process that trained {named(item)} died (killed, or out of memory); of the {count} runs asked for the others are "
            "stored: ask again, and it goes on from its last epoch"
        ) from None
    raise problem


@contextlib.contextmanager
def local(jobs: int, threads: int) -> Iterator[Executor]:
    """Processes on this machine, or this one for ``jobs = 1``; when the caller is interrupted they end at once."""
    executor = Here() if jobs == 1 else Processes(jobs, threads)
    with warnings.catch_warnings():
        # loky replaces a process whose memory has grown, after its run, and warns that it did
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")
        try:
            yield executor
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
        executor.shutdown()


def cluster(address: str) -> Executor:
    """The executor of a Dask scheduler, ``tcp://host:port``. Its workers need this package and the run store's folder."""
    from dask.distributed import Client

    try:
        return Client(address, timeout="10s").get_executor(pure=False)
    except (OSError, ValueError) as problem:
        raise StudyError(
            f"no Dask scheduler answers at {address}: {problem}".splitlines()[0]
        ) from None


def together(
    config: Config, root: Path, data_root: str | None, processes: int, files: bool = False
) -> None:
    """Train a run on so many processes of this machine, a GPU each where there are GPUs. When the caller is interrupted they end.

    Raises:
        StudyError: what the run raised, or a process died.
    """
    with tempfile.TemporaryDirectory() as folder:
        task, output = Path(folder) / "task.json", Path(folder) / "output.txt"
        task.write_text(
            json.dumps(
                {
                    "config": config.to_dict(),
                    "root": str(root),
                    "data_root": data_root,
                    "files": files,
                }
            )
        )
        threads = str(max(cpu_count() // processes, 1))
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
            "-m",
            "mdr_core.runs.executors",
            str(task),
        ]
        with open(output, "w") as file:
            torchrun = subprocess.Popen(
                command, env={"OMP_NUM_THREADS": threads} | os.environ, stdout=file, stderr=file
            )
        try:
            code = torchrun.wait()
        except BaseException:
            torchrun.terminate()  # it ends its processes
            torchrun.wait()
            raise
        if code == 0:
            return
        said = task.with_suffix(".error")
        if said.exists():
            raise StudyError(said.read_text())
        # the last line of a traceback, or the signal that ended one; the others get a 15 from torchrun
        telling = re.compile(r"^(\[rank\d+\]: )?[\w.]*(Error|Exception)\b.*:|Signal (?!15 )\d+")
        lines = output.read_text(errors="replace").splitlines()
        why = next(
            (
                f": {line.strip()}"
                for line in lines
                if telling.search(line) and "ChildFailedError" not in line
            ),
            "",
        )
        raise StudyError(
            f"one of the {processes} processes that trained {named(config)} died (killed, or out of memory){why}; "
            "ask again, and it goes on from its last epoch"
        )


def main(task: str) -> int:
    """What torchrun starts for :func:`together`, once for each process."""
    from mdr_core.runs import grids

    values = json.loads(Path(task).read_text())
    distributed.join()
    try:
        grids.quiet_run(
            from_dict(values["config"]), values["root"], values["data_root"], values["files"]
        )
    except StudyError as problem:
        Path(task).with_suffix(".error").write_text(
            str(problem)
        )  # what one meets, all do, or the others cannot go on
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

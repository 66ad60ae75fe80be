"""Where runs are trained: in processes side by side, or one run on several processes.

A list of runs goes to any executor of PEP 3148 (``concurrent.futures.Executor``): by default to
:class:`Processes`, or to a cluster. Whatever becomes of one run, the others finish.
"""

import os
import pickle
import re
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from joblib import cpu_count
from joblib.externals.loky import ProcessPoolExecutor
from tqdm import tqdm

from mdr_core import distributed
from mdr_core.config import Config
from mdr_core.errors import StudyError
from mdr_core.runs.store import Record, RunStore

PATIENCE = 30.0  # seconds that runs wait for a cluster's first worker before a line says so


class Here(Executor):
    """This process, one run after the other."""

    def submit(self, function: Callable, /, *arguments: Any, **named: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments, **named))
        except Exception as problem:  # noqa: BLE001 - whoever asks for the result gets it
            future.set_exception(problem)
        return future


class Processes(ThreadPoolExecutor):
    """Processes on this machine (joblib's loky, never fork), each driven by a thread of its own.

    One that dies takes only its run with it. When a ``with`` block is interrupted, all end at once.

    ``threads``: of each process, for torch and numpy.
    """

    def __init__(self, jobs: int, threads: int):
        super().__init__(jobs)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        self.environment = dict.fromkeys(names, str(threads))
        self.of_thread = threading.local()
        self.pools: list[ProcessPoolExecutor] = []  # each has one process
        # loky replaces a process whose memory has grown, after its run, and warns that it did
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")

    def submit(self, function: Callable, /, *arguments: Any, **named: Any) -> Future:
        return super().submit(self._on_own_process, function, *arguments, **named)

    def _on_own_process(self, function: Callable, /, *arguments: Any, **named: Any) -> Any:
        if getattr(self.of_thread, "pool", None) is None:
            self.of_thread.pool = ProcessPoolExecutor(1, env=self.environment)
            self.pools.append(self.of_thread.pool)
        try:
            return self.of_thread.pool.submit(function, *arguments, **named).result()
        except BrokenExecutor:
            self.of_thread.pool = None  # the next run gets a new one
            raise

    def __exit__(self, kind: type[BaseException] | None, *problem: Any) -> None:
        for pool in self.pools:
            pool.shutdown(wait=False, kill_workers=kind is not None)
        self.shutdown(cancel_futures=kind is not None)


def cluster(address: str) -> Executor:
    """Return a Dask scheduler's executor; its workers have this package and see the run store."""
    from dask.distributed import Client

    try:
        return Client(address, timeout="10s").get_executor(pure=False)
    except (OSError, ValueError) as problem:
        cause = str(problem).partition("\n")[0]
        raise StudyError(
            f"no Dask scheduler answers at {address}: {cause}; start one, or leave scheduler out"
        ) from None


def train_all(
    train: Callable[[Config, bool], Record],
    runs: dict[Config, bool],
    executor: Executor,
    done: Callable[[Config], object] = lambda config: None,
) -> dict[Config, Record]:
    """Return the runs' records, once all have finished.

    Args:
        train: returns a run's record; called as :meth:`RunStore.run`.
        runs: whether each one's weights and embeddings are needed too.
        done: called with each configuration as its run ends.

    Raises:
        StudyError: one failed, or its process died; the others have finished and are stored.
    """
    futures: dict[Future, Config] = {}
    try:
        for config, files in runs.items():
            future = executor.submit(train, config, files)
            futures[future] = config
            future.add_done_callback(lambda ended: done(futures[ended]))
        wait_for(futures, executor)
    except BaseException:  # Ctrl-C, say: whoever holds the executor ends its processes
        for future, config in futures.items():
            if not future.cancel() and future.done() and (problem := future.exception()):
                tqdm.write(f"{described(config)} failed: {problem}", file=sys.stderr)
        raise
    found = {}
    for future, config in futures.items():
        if future.cancelled():
            raise StudyError(
                f"the Dask scheduler has gone while {described(config)} was to be trained; the "
                "runs that ended are stored: start it and ask again"
            )
        problem = future.exception()  # KilledWorker is Dask's
        if isinstance(problem, BrokenExecutor) or type(problem).__name__ == "KilledWorker":
            raise StudyError(
                f"the process that trained {described(config)} died (killed, or out of memory); of "
                f"the {len(runs)} runs asked for the others are stored: ask again, and it goes on "
                "from its last epoch"
            )
        if isinstance(problem, torch.OutOfMemoryError):
            raise StudyError(
                f"the GPU has too little memory for {described(config)}: train fewer runs at a "
                "time; asked again, it goes on from its last epoch"
            )
        found[config] = future.result()
    return found


def wait_for(futures: Iterable[Future], executor: Executor) -> None:
    """Return once all have ended; a line says where a cluster has no worker, or none any more."""
    client: Any = getattr(executor, "_client", None)  # Dask's
    told = False
    while left := wait(futures, None if client is None else PATIENCE).not_done:
        try:
            alone = not client.nthreads()
        except OSError:  # the scheduler has gone: Dask cancels what is left
            continue
        if alone and not told:
            address = client.scheduler.address
            line = f"no worker is connected to the Dask scheduler at {address}: {len(left)} run(s)"
            tqdm.write(f"{line} wait until dask worker {address} starts one", file=sys.stderr)
        told = alone


def described(config: Config) -> str:
    weight = f"mdr_weight {config.mdr_weight:g}"
    return f"{config.dataset}, loss {config.loss}, {weight}, seed {config.seed}"


def train_shared(processes: int, store: RunStore, config: Config, files: bool = False) -> Record:
    """Train a run on so many processes of this machine, a GPU each where there are GPUs.

    They end when the caller is interrupted. Raises StudyError: what the run raised, or one died.
    """
    with tempfile.TemporaryDirectory() as folder:
        task, output = Path(folder) / "task.pickle", Path(folder) / "output.txt"
        task.write_bytes(pickle.dumps((store, config, files)))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={processes}", "-m", "mdr_core.runs.executors", str(task)]
        environment = {"OMP_NUM_THREADS": str(max(cpu_count() // processes, 1))} | os.environ
        with open(output, "wb") as file:
            torchrun = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        try:
            torchrun.wait()
        except BaseException:
            torchrun.terminate()  # it ends its processes
            torchrun.wait()
            raise
        record = store.read(config, files)
        if record is not None:  # whatever became of the processes afterwards
            return record
        if (error := task.with_suffix(".error")).exists():
            raise StudyError(error.read_text(encoding="utf-8"))
        # a traceback's last line, or the signal that ended one; the others get 15 from torchrun
        telling = re.compile(r"^(\[rank\d+\]: )?[\w.]*(Error|Exception)\b.*:|Signal (?!15 )\d+")
        lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
        causes = [x for x in lines if telling.search(x) and "ChildFailedError" not in x]
        cause = f": {causes[0].strip()}" if causes else ""
        raise StudyError(
            f"one of the {processes} processes that trained {described(config)} died (killed, or "
            f"out of memory){cause}; ask again, and it goes on from its last epoch"
        )


def main(task: str) -> int:
    """Run what torchrun starts for :func:`train_shared`, once for each process."""
    store, config, files = pickle.loads(Path(task).read_bytes())
    distributed.join()
    try:
        store.run(config, files)
    except StudyError as problem:  # what one meets, all do, or the others cannot go on
        Path(task).with_suffix(".error").write_text(str(problem), encoding="utf-8")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""Processes that tests start, interrupt and kill.

They come from a server that has imported everything and computed nothing, so that each is up at
once: an import of the libraries takes seven seconds. No process that computes is ever forked.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

from mdr_core.config import Config

INTERRUPTED = 77  # exit code
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["mdr_core.runs.grids", "mdr_core.training"])


def die_or_write(folder: Path, config: Config, files: bool) -> None:
    """Kill the process that this runs in for seed 1; otherwise write the seed."""
    if config.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    (folder / str(config.seed)).touch()


def die_first(folder: Path, config: Config, files: bool) -> int:
    """Kill the process that this runs in first; then return the seed."""
    time.sleep(1)
    try:
        (folder / f"{config.seed} died").touch(exist_ok=False)
    except FileExistsError:
        return config.seed
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def heeding(ready: Event, work: Callable, arguments: tuple) -> None:
    """Heed SIGINT: a suite in the background ignores it, and so would the processes it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ready.set()
    try:
        work(*arguments)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@contextlib.contextmanager
def started(work: Callable, *arguments: object) -> Iterator[BaseProcess]:
    """Run ``work(*arguments)`` in a new process, which has imported ``work``'s module.

    The process is killed at the end, if it still runs then.
    """
    ready = SERVER.Event()
    process = SERVER.Process(target=heeding, args=(ready, work, arguments))
    process.start()
    try:
        assert ready.wait(120)
        yield process
    finally:
        process.kill()
        process.join()

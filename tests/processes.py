"""Processes that tests start, interrupt and kill. They are forked from a server that has imported everything, so each is up at once."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess

INTERRUPTED = 77  # exit code
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    [
        "mdr_core.runs.grids",
        "mdr_core.training",
        "mdr_core.evaluation.epoch",
        "mdr_core.data.dataset",
    ]
)


def die(name: str) -> str:
    """Kill the process that this runs in, where it is called ``dies``; elsewhere the name and the process's number."""
    if name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return name + str(os.getpid())


def heeding(work: Callable, arguments: tuple) -> None:
    """Heed SIGINT: a suite in the background ignores it, and so would the processes that it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        work(*arguments)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@contextlib.contextmanager
def started(work: Callable, *arguments) -> Iterator[BaseProcess]:
    """``work(*arguments)`` in a process of its own. It is killed at the end, if it still runs then."""
    process = FORKED.Process(target=heeding, args=(work, arguments))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()

"""Processes that tests start, interrupt and kill.

They come from a server that has imported everything and computed nothing, so that each is up at
once: an import of the libraries takes seven seconds. No process that computes is ever forked.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event

INTERRUPTED = 77  # exit code
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["mdr_core.runs.run", "mdr_core.training"])


def heeding(ready: Event, environment: dict, work: Callable, arguments: tuple) -> None:
    """Heed SIGINT: a suite in the background ignores it, and so would the processes it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ |= environment  # the server has that of its own beginning
    ready.set()
    try:
        work(*arguments)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@contextlib.contextmanager
def started(work: Callable, *arguments: object) -> Iterator[BaseProcess]:
    """Run ``work(*arguments)`` in a new process, which is killed at the end."""
    ready = SERVER.Event()
    process = SERVER.Process(target=heeding, args=(ready, dict(os.environ), work, arguments))
    process.start()
    try:
        assert ready.wait(120)
        yield process
    finally:
        process.kill()
        process.join()

"""Ways of doing the same, timed side by side in one process, and the memory that one of them takes
in a process of its own.
"""

import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import torch


def alternately(ways: dict[str, Callable], rounds: int = 7) -> dict[str, float]:
    """Median seconds of each way; they take turns, so that other work on the machine slows all
    alike. The first turn warms up.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, run in ways.items():
            began = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in taken.items()}


def _status(name: str) -> float:
    """A figure of /proc/self/status in MiB: VmRSS, the resident memory now; VmHWM, the most there
    was.
    """
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(f"{name}:")
    )
    return int(line.split()[1]) / 1024


def _grown(prepare: Callable, arguments: tuple) -> float:
    run = prepare(*arguments)
    if not Path("/proc/self/clear_refs").exists():  # not Linux
        return float("nan")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def peak_memory(prepare: Callable, *arguments) -> float:
    """By how many MiB the largest resident memory of a fresh process grows while it calls
    ``prepare(*arguments)()`` once.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_grown, prepare, arguments).result()


def peak_gpu_memory(run: Callable) -> float:
    """By how many MiB a GPU's allocated memory grows at most while ``run()`` is called once."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def machine() -> dict[str, str]:
    """What the figures depend on."""
    packages = ("torch", "torchvision", "timm", "faiss-cpu", "pytorch-metric-learning", "numpy")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none at hand"
    return {
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
        "GPU": device,
        "python": platform.python_version(),
    } | {p: version(p) for p in packages}

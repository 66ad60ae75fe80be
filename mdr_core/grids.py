"""Many runs at once: each trained once, side by side, and read as one table."""

import contextlib
import functools
import os
import warnings
from concurrent.futures import Executor
from pathlib import Path

import pandas as pd
from joblib import cpu_count

from mdr_core import workers
from mdr_core.config import Config, pretraining
from mdr_core.distributed import current
from mdr_core.errors import StudyError, unknown
from mdr_core.files import locked
from mdr_core.runs import dataset, key_of, run, usable


def quiet_run(config: Config, root, data_root, files: bool = False) -> dict:
    warnings.filterwarnings("ignore", message=".*classes and .* images here, officially.*")
    return run(config, root, data_root, files=files)


def records(configs: list[Config], root="runs", data_root=None, jobs: int | None = None, progress=True, files=False,
            executor: Executor | None = None, processes: int = 1) -> list[dict]:
    """All runs' records, in the order of ``configs``; each is trained once, however often it is named.

    Independent runs train in parallel processes (joblib's loky, never fork), the cores divided among them; on a GPU
    one after the other. What is stored already is read here, with no process started. Whatever becomes of one run, the
    others finish (except under torchrun, whose processes end together).

    Args:
        jobs: processes, a run each; by default one per core, one on a GPU.
        files: as :func:`run` has it.
        executor: of PEP 3148, to train on instead: a cluster's, whose workers see ``root`` (and ``data_root``) too.
        processes: that train a run together, a GPU each (mdr_core.distributed); the runs one after the other.
    """
    if (jobs or 0) < 0 or processes < 1:
        raise StudyError(f"jobs must not be negative and processes be at least 1, got {jobs} and {processes}")
    if executor and processes > 1:
        raise StudyError("processes that train a run together are this machine's: give a scheduler or processes, not both")
    root, data_root = Path(root).resolve(), data_root and str(Path(data_root).resolve())
    wanted = list(dict.fromkeys(configs))
    for name, size in dict.fromkeys((c.dataset, c.image_size) for c in wanted):
        dataset(name, data_root, size)  # decoded once, and a missing one is said at once
    work = functools.partial(quiet_run, root=root, data_root=data_root, files=files)
    if current().world > 1:  # torchrun has started this process: what fails here ends all of them
        known(wanted)
        return list(map(work, configs))
    found = {config: record for config in wanted if (record := ready(config, root, data_root, files))}
    missing = [config for config in wanted if config not in found]
    if missing:
        known(missing)
        first = list(dict.fromkeys(pretraining(c) for c in missing if c.weights == "classes"))
        gpu, cores = any(c.device != "cpu" for c in missing), cpu_count()
        jobs = jobs or (1 if gpu else min(cores, len(missing)))
        # glibc keeps the memory of large activations instead of giving it back after every step: about a tenth faster.
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**33))
        os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**34))
        if processes > 1:
            here, train = contextlib.nullcontext(workers.Here()), functools.partial(train_together, root, data_root, processes, files)
        else:
            here, train = contextlib.nullcontext(executor) if executor else workers.local(jobs, max(cores // jobs, 1)), work
        with here as given:
            workers.finish(work, first, given, progress=False)  # once, before those that start from them
            found |= workers.finish(train, missing, given, progress)
    return [found[config] for config in configs]


def ready(config: Config, root: Path, data_root: str | None, files: bool) -> dict | None:
    """A run's record, where it is stored with all that is needed."""
    folder = root / key_of(config, dataset(config.dataset, data_root, config.image_size).fingerprint)
    if not (folder / "run.json").exists():
        return None
    try:
        with locked(folder):
            return usable(folder, config, files)
    except OSError:  # a folder that may not be written: :func:`mdr_core.runs.run` says so
        return None


def train_together(root: Path, data_root: str | None, processes: int, files: bool, config: Config) -> dict:
    """A run, by processes that share it; then read back. What became of them once it was stored does not matter."""
    try:
        workers.together(config, root, data_root, processes, files)
    except StudyError:
        if not ready(config, root, data_root, files):
            raise
    return quiet_run(config, root, data_root, files)


def known(configs: list[Config]) -> None:
    """Refuse a backbone or a loss that does not exist before hours are spent on the others."""
    from mdr_core import losses, models

    for name in dict.fromkeys(c.backbone for c in configs):
        if name not in models.names():
            raise unknown("backbone", name, models.names())
    for name in dict.fromkeys(c.loss for c in configs):
        losses.make(name)


def run_all(configs: list[Config], root="runs", data_root=None, jobs: int | None = None, progress=True,
            labels: list[dict] | None = None, **where) -> pd.DataFrame:
    """All runs, as one tidy table: a row per run and epoch, with the run's key, configuration and figures.

    Args:
        configs, root, data_root, jobs, where (executor or processes): as :func:`records` has them.
        labels: for each configuration, further columns of its rows (what an experiment calls it).
    """
    labels = [{} for _ in configs] if labels is None else labels
    return frame([r | {"labels": own} for r, own in zip(records(configs, root, data_root, jobs, progress, **where), labels, strict=True)])


def frame(records: list[dict]) -> pd.DataFrame:
    """Records as a tidy table: a row per run and epoch. ``lr`` is the configuration's, ``epoch_lr`` what an epoch had of it."""
    rows = []
    for record in records:
        about = {"key": record["key"]} | {k: tuple(v) if isinstance(v, list) else v for k, v in record["config"].items()}
        labels = record.get("labels", {})
        rows += [about | labels | {"epoch_lr" if k == "lr" else k: v for k, v in row.items()} for row in record["history"]]
    return pd.DataFrame(rows)

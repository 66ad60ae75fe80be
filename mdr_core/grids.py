"""Many runs at once: each trained once, side by side, and read as one table."""

import contextlib
import functools
import os
import warnings
from concurrent.futures import Executor
from pathlib import Path

import pandas as pd

from mdr_core import workers
from mdr_core.config import Config
from mdr_core.distributed import current
from mdr_core.errors import unknown
from mdr_core.runs import dataset, key_of, pretraining, run


def quiet_run(config: Config, root, data_root, files: bool = False) -> dict:
    warnings.filterwarnings("ignore", message=".*classes and .* images here, officially.*")
    return run(config, root, data_root, files=files)


def records(configs: list[Config], root="runs", data_root=None, jobs: int | None = None, progress=True, files=False,
            executor: Executor | None = None, processes: int = 1) -> list[dict]:
    """All runs' records, in the order of ``configs``; each is trained once, however often it is named.

    Independent runs train in parallel processes (joblib's loky, never fork), the cores divided among them; on a GPU
    one after the other. What is stored already is read here, with no process started. Whatever becomes of one run, the
    others finish.

    Args:
        jobs: processes, a run each; by default one per core, one on a GPU.
        files: as :func:`run` has it.
        executor: of PEP 3148, to train on instead: a cluster's, whose workers see ``root`` (and ``data_root``) too.
        processes: that train a run together, a GPU each (mdr_core.distributed); the runs one after the other.
    """
    root, data_root = Path(root).resolve(), data_root and str(Path(data_root).resolve())
    wanted = list(dict.fromkeys(configs))
    for name, size in dict.fromkeys((c.dataset, c.image_size) for c in wanted):
        dataset(name, data_root, size)  # decoded once, and a missing one is said at once
    work = functools.partial(quiet_run, root=root, data_root=data_root, files=files)
    if current().world > 1:  # torchrun has started this process
        known(wanted)
        return list(map(work, configs))
    found = {}
    for config in wanted:
        folder = root / key_of(config, dataset(config.dataset, data_root, config.image_size).fingerprint)
        if (folder / "run.json").exists():
            found[config] = work(config)
    missing = [config for config in wanted if config not in found]
    if missing:
        known(missing)
        first = list(dict.fromkeys(pretraining(c) for c in missing if c.weights == "classes"))
        if processes != 1:
            found |= workers.finish(work, first, workers.Here(), progress=False)
            workers.together(missing, root, data_root, processes)
            return [found.get(config) or work(config) for config in configs]
        gpu, cores = any(c.device != "cpu" for c in missing), os.cpu_count() or 1
        jobs = jobs or (1 if gpu else min(cores, len(missing)))
        # glibc keeps the memory of large activations instead of giving it back after every step: about a tenth faster.
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**33))
        os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**34))
        here = contextlib.nullcontext(executor) if executor else workers.local(jobs, max(cores // jobs, 1))
        with here as given:
            workers.finish(work, first, given, progress=False)  # once, before those that start from them
            found |= workers.finish(work, missing, given, progress)
    return [found[config] for config in configs]


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
    """Records as a tidy table: a row per run and epoch."""
    rows = []
    for record in records:
        about = {"key": record["key"]} | {k: tuple(v) if isinstance(v, list) else v for k, v in record["config"].items()}
        rows += [about | record.get("labels", {}) | row for row in record["history"]]
    return pd.DataFrame(rows)

"""Many runs at once: each trained once, side by side, and read as one table."""

import contextlib
import functools
import os
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import pandas as pd
from joblib import cpu_count
from tqdm import tqdm

from mdr_core.config import Config, pretraining
from mdr_core.distributed import current
from mdr_core.errors import StudyError, unknown
from mdr_core.files import locked
from mdr_core.runs import executors, plan
from mdr_core.runs.store import dataset, key_of, run, usable

# what tables and figures read of a row, and so what a run that is not stored has as NaN
NUMBERS = (
    "test_recall@1",
    "test_recall@1_l2",
    "test_r_precision",
    "test_map_at_r",
    "train_recall@1",
    "held_out_recall@1",
    "pair_mean",
    "pair_std",
    "running_mean",
    "running_std",
    "centres_between",
    "centres_within",
    "centres_ratio",
    "centres_evenness",
)


def quiet_run(config: Config, root, data_root, files: bool = False) -> dict:
    warnings.filterwarnings("ignore", message=".*classes and .* images here, officially.*")
    return run(config, root, data_root, files=files)


def one_of(root: Path, data_root: str | None, whole: set[Config], config: Config) -> dict:
    """:func:`quiet_run`, with weights and embeddings for those in ``whole``."""
    return quiet_run(config, root, data_root, config in whole)


def records(
    configs: list[Config],
    root="runs",
    data_root=None,
    jobs: int | None = None,
    progress: bool | Callable[[Config], None] = True,
    files: bool | set[Config] = False,
    executor: Executor | None = None,
    processes: int = 1,
    train: bool = True,
) -> list[dict | None]:
    """All runs' records, in the order of ``configs``; each is trained once, however often it is named.

    Independent runs train in parallel processes (joblib's loky, never fork), the cores divided among them; on a GPU
    one after the other. What is stored already is read here, with no process started. Whatever becomes of one run, the
    others finish (except under torchrun, whose processes end together).

    Args:
        jobs: processes, a run each; by default one per core, one on a GPU.
        progress: show a bar over the runs to train, and say before how many they are and how long they take; or a function that is
            called with the configuration of each run as it ends.
        files: as :func:`run` has it, of all runs or of these alone.
        executor: of PEP 3148, to train on instead: a cluster's, whose workers see ``root`` (and ``data_root``) too.
        processes: that train a run together, a GPU each (mdr_core.distributed); the runs one after the other.
        train: False trains nothing: what is not stored is None.
    """
    if (jobs or 0) < 0 or processes < 1:
        raise StudyError(
            f"jobs must not be negative and processes be at least 1, got {jobs} and {processes}"
        )
    if executor and processes > 1:
        raise StudyError(
            "processes that train a run together are this machine's: give a scheduler or processes, not both"
        )
    root, data_root = Path(root).resolve(), data_root and str(Path(data_root).resolve())
    wanted = list(dict.fromkeys(configs))
    for name, size in dict.fromkeys((c.dataset, c.image_size) for c in wanted):
        dataset(name, data_root, size)  # decoded once, and a missing one is said at once
    whole = set(wanted if files is True else files or ())
    work = functools.partial(one_of, root, data_root, whole)
    if current().world > 1:  # torchrun has started this process: what fails here ends all of them
        known(wanted)
        return list(map(work, configs))
    found = {
        config: record
        for config in wanted
        if (record := ready(config, root, data_root, config in whole))
    }
    missing = [config for config in wanted if config not in found]
    if missing and train:
        known(missing)
        first = list(dict.fromkeys(pretraining(c) for c in missing if c.weights == "classes"))
        gpu, cores = any(c.device != "cpu" for c in missing), cpu_count()
        jobs = jobs or (1 if gpu else min(cores, len(missing)))
        if progress is True:
            tqdm.write(plan.line(len(wanted), missing, jobs), file=sys.stderr)
        # glibc keeps the memory of large activations instead of giving it back after every step: about a tenth faster.
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**33))
        os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**34))
        if processes > 1:
            here, one = (
                contextlib.nullcontext(executors.Here()),
                functools.partial(train_together, root, data_root, processes, whole),
            )
        else:
            here, one = (
                contextlib.nullcontext(executor)
                if executor
                else executors.local(jobs, max(cores // jobs, 1)),
                work,
            )
        with (
            here as given,
            tqdm(total=len(missing), unit="run", disable=progress is not True) as bar,
        ):
            executors.finish(work, first, given)  # once, before those that start from them
            found |= executors.finish(
                one, missing, given, progress if callable(progress) else lambda _: bar.update()
            )
    return [found.get(config) for config in configs]


def ready(config: Config, root: Path, data_root: str | None, files: bool) -> dict | None:
    """A run's record, where it is stored with all that is needed."""
    folder = root / key_of(
        config, dataset(config.dataset, data_root, config.image_size).fingerprint
    )
    if not (folder / "run.json").exists():
        return None
    try:
        with locked(folder):
            return usable(folder, config, files)
    except OSError:  # a folder that may not be written: :func:`mdr_core.runs.store.run` says so
        return None


def train_together(
    root: Path, data_root: str | None, processes: int, whole: set[Config], config: Config
) -> dict:
    """A run, by processes that share it; then read back. What became of them once it was stored does not matter."""
    try:
        executors.together(config, root, data_root, processes, config in whole)
    except StudyError:
        if not ready(config, root, data_root, config in whole):
            raise
    return one_of(root, data_root, whole, config)


def known(configs: list[Config]) -> None:
    """Refuse a backbone or a loss that does not exist before hours are spent on the others."""
    from mdr_core import losses
    from mdr_core.networks import backbones

    for name in dict.fromkeys(c.backbone for c in configs):
        if name not in backbones.names():
            raise unknown("backbone", name, backbones.names())
    for name in dict.fromkeys(c.loss for c in configs):
        losses.make(name)


def run_all(
    configs: list[Config],
    root="runs",
    data_root=None,
    jobs: int | None = None,
    progress=True,
    labels: list[dict] | None = None,
    **where,
) -> pd.DataFrame:
    """All runs, as one tidy table: a row per run and epoch, with the run's key, configuration and figures.

    Args:
        configs, root, data_root, jobs, where (executor, processes or train): as :func:`records` has them.
        labels: for each configuration, further columns of its rows (what an experiment calls it).
    """
    return frame(configs, records(configs, root, data_root, jobs, progress, **where), labels)


def frame(
    configs: list[Config], records: list[dict | None], labels: list[dict] | None = None
) -> pd.DataFrame:
    """Records as a tidy table: a row per run and epoch. ``lr`` is the configuration's, ``epoch_lr`` what an epoch had of it.

    A run that is not stored has one row, its last epoch's, without numbers (NaN); ``stored`` is False there.
    """
    rows = []
    for number, (config, record, own) in enumerate(
        zip(configs, records, labels or [{} for _ in configs], strict=True)
    ):
        about = (
            {"key": record["key"] if record else f"not run {number}", "stored": record is not None}
            | config.to_dict()
            | own
        )
        history = record["history"] if record else [{"epoch": config.epochs}]
        rows += [
            about | {"epoch_lr" if k == "lr" else k: v for k, v in row.items()} for row in history
        ]
    table = pd.DataFrame(rows)
    return table.reindex(columns=[*table, *(name for name in NUMBERS if name not in table)])

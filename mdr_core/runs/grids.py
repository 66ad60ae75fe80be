"""Many runs at once: each trained once, side by side, and read as one table."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from concurrent.futures import Executor

import pandas as pd
from joblib import cpu_count
from tqdm import tqdm

from mdr_core.config import Config, pretraining
from mdr_core.distributed import Share, current
from mdr_core.errors import StudyError, unknown
from mdr_core.runs import executors, plan
from mdr_core.runs.store import Record, RunStore

RECALLS = ("test_recall@1", "test_recall@1_l2", "train_recall@1", "held_out_recall@1")
DISTANCES = ("pair_mean", "pair_std", "running_mean", "running_std")
CENTERS = ("centres_between", "centres_within", "centres_ratio", "centres_evenness")
# what tables and figures read of a row, and so what a run that is not stored has as NaN
NUMBERS = (*RECALLS, "test_r_precision", "test_map_at_r", *DISTANCES, *CENTERS)


def records(
    configs: list[Config],
    store: RunStore,
    jobs: int | None = None,
    progress: bool | Callable[[Config], object] = True,
    files: bool | set[Config] = False,
    executor: Executor | None = None,
    processes: int = 1,
    train: bool = True,
) -> list[Record | None]:
    """Return all runs' records, in the order of ``configs``; each is trained once at most.

    Independent runs train in parallel processes, the cores divided among them; on a GPU one after
    the other. Stored runs are read here, with no process started. Whatever becomes of one run, the
    others finish (except under torchrun, whose processes end together).

    Args:
        jobs: processes, a run each; by default one per core, one on a GPU.
        progress: say how many runs are to train and how long they take, and show a bar over them;
            or a function that is called with the configuration of each run as it ends.
        files: weights and embeddings are needed too, of all runs or of these alone.
        executor: of PEP 3148, to train on instead: a cluster's, whose workers see the store too.
        processes: that train a run together, a GPU each; the runs one after the other.
        train: False trains nothing: a run that is not stored is None.

    Raises:
        StudyError: a bad setting, a dataset that is not here, a run that failed.
    """
    if (jobs or 0) < 0 or processes < 1:
        raise StudyError(
            f"jobs must not be negative and processes be at least 1, got {jobs} and {processes}"
        )
    if executor and processes > 1:
        raise StudyError(
            "processes that train a run together are this machine's: "
            "give a scheduler or processes, not both"
        )
    wanted = list(dict.fromkeys(configs))
    for config in {(c.dataset, c.image_size): c for c in wanted}.values():
        store.dataset(config)  # decoded once, and the error for a missing one comes at once
    whole = set(wanted if files is True else files or ())
    if current().world > 1:  # torchrun has started this process: what fails here ends all of them
        check_names(wanted)
        return [store.run(config, config in whole) for config in configs]
    found = {config: store.read(config, config in whole) for config in wanted}
    missing = {config: config in whole for config in wanted if found[config] is None}
    if missing and train:
        check_names(list(missing))
        for config in missing if processes > 1 else ():
            Share(world=processes).rows(config.batch_size)  # what cannot be shared is said here
        gpu, cores = any(c.device != "cpu" for c in missing), cpu_count()
        jobs = jobs or (1 if gpu else min(cores, len(missing)))
        if progress is True:
            tqdm.write(plan.line(len(wanted), list(missing), jobs), file=sys.stderr)
        # glibc then keeps the memory of large activations between steps: about a tenth faster
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**33))
        os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**34))
        work: Callable[[Config, bool], Record] = store.run
        if processes > 1:
            work = functools.partial(executors.train_shared, processes, store)
        place: contextlib.AbstractContextManager[Executor]
        if executor is not None:
            place = contextlib.nullcontext(executor)
        elif jobs == 1 or processes > 1:
            place = executors.Here()
        else:
            place = executors.Processes(jobs, max(cores // jobs, 1))
        first = {pretraining(c): True for c in missing if c.weights == "classes"}
        bar = tqdm(total=len(missing), unit="run", disable=progress is not True)
        done = progress if callable(progress) else lambda config: bar.update()
        with place as given, bar:
            executors.train_all(store.run, first, given)  # once, before those that start from them
            found |= executors.train_all(work, missing, given, done)
    return [found[config] for config in configs]


def check_names(configs: list[Config]) -> None:
    """Refuse an unknown backbone or loss before hours are spent on the other runs."""
    from mdr_core import drop_in, losses
    from mdr_core.networks import backbones

    for name in dict.fromkeys(c.backbone for c in configs):
        if name not in backbones.names():
            raise unknown("backbone", name, backbones.names())
    for loop, name in dict.fromkeys((c.loop, c.loss) for c in configs):
        if loop == "study":
            losses.make(name)
        elif name not in drop_in.LOSSES:
            raise unknown("loss of the drop-in loop", name, drop_in.LOSSES)


def frame(
    configs: list[Config], records: list[Record | None], labels: list[dict] | None = None
) -> pd.DataFrame:
    """Return the records as a tidy table: a row per run and epoch.

    ``lr`` is the configuration's, ``epoch_lr`` an epoch's. A run that is not stored has one row, of
    its last epoch, without numbers (NaN); ``stored`` is False there.

    Args:
        labels: further columns of each configuration's rows.
    """
    rows = []
    labels = labels or [{} for _ in configs]
    for number, (config, record, own) in enumerate(zip(configs, records, labels, strict=True)):
        key = record["key"] if record else f"not run {number}"
        about = {"key": key, "stored": record is not None} | config.to_dict() | own
        for row in record["history"] if record else [{"epoch": config.epochs}]:
            rows.append(about | {"epoch_lr" if k == "lr" else k: v for k, v in row.items()})
    table = pd.DataFrame(rows)
    return table.reindex(columns=list(dict.fromkeys([*table, *NUMBERS])))

"""``run(configs)``: each run is read where it is stored, else trained, and all are one table."""

import functools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.externals.loky.process_executor import BrokenProcessPool
from tqdm import tqdm

from mdr_core import losses
from mdr_core.config import Config, from_dict, pretraining
from mdr_core.errors import StudyError
from mdr_core.files import runs_root
from mdr_core.networks.backbones import check_backbone
from mdr_core.runs import committed, local
from mdr_core.runs.local import Train
from mdr_core.runs.names import edited, local_name
from mdr_core.runs.record import Record

OWN = {"loss": "loss_value", "lr": "epoch_lr"}  # an epoch's, whose names are a setting's, too
Job = tuple[Config, Train | None, bool]  # a run, who trains it, whether its files are needed


def run(configs: Sequence[Config], train: Train | None = None, **choice: Any) -> pd.DataFrame:
    """Return a row per run and epoch: its settings and the epoch's numbers as columns.

    Columns besides: ``run``, the place in ``configs``; ``key``; ``stored``, False for a run that is
    not there and was not trained, whose numbers are NaN; ``data``, the fingerprint of the images;
    ``loss_value`` and ``epoch_lr``, the epoch's.

    Args:
        train: another function that trains, with the arguments of :func:`mdr_core.training.train`;
            such runs have a label of their own as their setting ``loop``.
        choice: ``committed_too`` and ``missing_too`` as in :func:`records`.
    """
    return frame(configs, records(configs, train, **choice))


def records(
    configs: Sequence[Config],
    train: Train | None = None,
    committed_too: bool = True,
    missing_too: bool = True,
    files: Iterable[Config] = (),
) -> list[Record | None]:
    """Return the runs in the order of ``configs``, each trained once at most; None: not stored.

    Whatever becomes of one run, the others finish.

    Args:
        committed_too: take committed runs, before this machine's own.
        missing_too: train what is not stored.
        files: runs whose weights and embeddings are needed; a committed run has none.

    Raises:
        StudyError: a bad setting, absent data, a run that failed, a process that died; runs of one
            dataset name on two copies of the data.
    """
    wanted, files = list(dict.fromkeys(configs)), set(files)
    looked_up = [c for c in wanted if c not in files] if committed_too else []
    found = {config: record for config in looked_up if (record := committed.find(config))}
    if found:
        say_edited()
    left = [config for config in wanted if config not in found]
    jobs = [(config, train, config in files) for config in left]
    if missing_too or any(runs_root().glob("*/run.json")):  # else no image need be decoded
        found |= stored_here(jobs, must=missing_too)
    missing = [job for job in jobs if job[0] not in found]
    if missing and missing_too:
        counts = f"{len(wanted) - len(left)} committed, {len(left) - len(missing)} local"
        say(f"{len(wanted)} runs: {counts}, {len(missing)} to train")
        for config, *_ in missing:
            check(config, train)
        first = dict.fromkeys(pretraining(c) for c, *_ in missing if c.weights == "classes")
        train_all([(config, None, True) for config in first])  # once, before those that need them
        train_all(missing)
        found |= stored_here(missing, must=True)
    check_copies(found.values())
    return [found.get(config) for config in configs]


def say(line: str) -> None:
    """Tell a line, above any bar."""
    tqdm.write(line, file=sys.stderr)


@functools.cache
def say_edited() -> None:
    """Tell once where the code differs from the one that made the committed runs."""
    if line := edited():
        say(line)


def stored_here(jobs: list[Job], must: bool) -> dict[Config, Record]:
    """Return this machine's runs; without the data, and unless they ``must`` be there, none."""
    fingerprints: dict[tuple[str, int], str] = {}
    found: dict[Config, Record] = {}
    for config, train, files in jobs:
        images = config.dataset, config.image_size
        try:
            if images not in fingerprints:
                fingerprints[images] = local.dataset(config).fingerprint
        except StudyError:
            if must:
                raise
            continue
        if record := local.find(config, fingerprints[images], train, files):
            found[config] = record
    return found


def check(config: Config, train: Train | None) -> None:
    """Refuse an unknown backbone or loss before hours are spent on the other runs."""
    check_backbone(config.backbone)
    if train is None:
        losses.make(config.loss)
        if config.loop != "study":
            raise StudyError(f"loop {config.loop!r} needs its function: run(configs, train=...)")


def train_all(jobs: list[Job]) -> None:
    """Train runs side by side: on cores, on a GPU one after the other, or on a Dask cluster."""
    # glibc then keeps the memory of large activations between steps: about a tenth faster
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**33))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**34))
    problems: list[Exception | None] = []
    try:
        problems += tqdm(outcomes(jobs), total=len(jobs), unit="run", disable=not jobs)
    except KeyboardInterrupt:
        ended = sum((folder_of(job) / "run.json").exists() for job in jobs)
        say(f"interrupted: {ended} of {len(jobs)} runs are stored; the same command goes on")
        raise
    for problem in filter(None, problems):
        raise problem


def outcomes(jobs: list[Job]) -> Iterator[Exception | None]:
    """Yield what became of each run, as it ends: None where it is stored."""
    scheduler, cores = os.environ.get("MDR_SCHEDULER"), cpu_count()
    gpu = any(config.device != "cpu" for config, *_ in jobs)
    count = min(int(os.environ.get("MDR_JOBS") or (1 if gpu else cores)), len(jobs))
    if count <= 1 and not scheduler:
        yield from (attempt(*job) for job in jobs)
        return
    try:
        with place(scheduler, count, max(cores // max(count, 1), 1)):
            work = Parallel(return_as="generator_unordered", batch_size=1)
            yield from work(delayed(attempt)(*job) for job in jobs)
    except Exception as problem:
        if not isinstance(problem, BrokenProcessPool) and type(problem).__name__ != "KilledWorker":
            raise
        begun = [job for job in jobs if folder_of(job).exists()]
        names = [described(j[0]) for j in begun if not (folder_of(j) / "run.json").exists()]
        raise StudyError(
            f"a process died (killed, or out of memory) that trained {' or '.join(names)}; the "
            "runs that ended are stored: ask again, and these go on from their last epoch"
        ) from None


def place(scheduler: str | None, count: int, threads: int) -> parallel_config:
    """Return where joblib's processes run: on this machine, or on a Dask cluster's workers."""
    if not scheduler:
        return parallel_config("loky", n_jobs=count, inner_max_num_threads=threads)
    from dask.distributed import Client

    try:
        client = Client(scheduler, timeout="10s", set_as_default=False)
        client.wait_for_workers(1, timeout=30)
    except (OSError, ValueError, TimeoutError) as problem:
        why = str(problem).partition("\n")[0]
        raise StudyError(
            f"no Dask scheduler with a worker answers at {scheduler} ({why}): start dask scheduler "
            "and dask worker, or unset MDR_SCHEDULER"
        ) from None
    return parallel_config("dask", client=client, n_jobs=-1)


def attempt(config: Config, train: Train | None, files: bool) -> Exception | None:
    """Train a run in this process; return what it raised, since the other runs are to finish."""
    try:
        local.train(config, train, files)
    except Exception as problem:  # noqa: BLE001 - whoever asked for the runs raises it
        return problem
    return None


def folder_of(job: Job) -> Any:
    """Return the folder of a run of this machine, there or not."""
    config, train, _ = job
    return runs_root() / local_name(config, local.dataset(config).fingerprint, train)


def described(config: Config) -> str:
    """Return a run in a few words."""
    weight = f"mdr_weight {config.mdr_weight:g}"
    return f"{config.dataset}, loss {config.loss}, {weight}, seed {config.seed}"


def check_copies(found: Iterable[Record]) -> None:
    """Refuse runs of one dataset name on two copies of the data."""
    copies: dict[tuple[str, int], str] = {}
    for record in found:
        images = record["config"]["dataset"], record["config"]["image_size"]
        one, other = copies.setdefault(images, record["provenance"]["data"]), record["provenance"]
        if one != other["data"]:
            raise StudyError(
                f"the runs on {images[0]} are of two copies of the data ({one[:8]} and "
                f"{other['data'][:8]}), which cannot be compared: STORED=0 trains all on yours"
            )


def frame(configs: Sequence[Config], found: Sequence[Record | None]) -> pd.DataFrame:
    """Return the table of :func:`run`."""
    rows = []
    for number, (config, record) in enumerate(zip(configs, found, strict=True)):
        about = {"run": number, "key": record["key"] if record else f"not run {number}"}
        about |= {"stored": record is not None, "data": record and record["provenance"]["data"]}
        about |= (from_dict(record["config"]) if record else config).to_dict()
        for row in record["history"] if record else [{"epoch": config.epochs}]:
            rows.append(about | {OWN.get(name, name): value for name, value in row.items()})
    return pd.DataFrame(rows)

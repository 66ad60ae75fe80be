"""``run(configs)``: each run is read where it is stored, else trained, and all are one table."""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.externals.loky.process_executor import BrokenProcessPool
from tqdm import tqdm

from mdr_core import losses
from mdr_core.config import Config
from mdr_core.errors import StudyError
from mdr_core.files import runs_root
from mdr_core.networks.backbones import check_backbone
from mdr_core.runs import committed, local
from mdr_core.runs.local import Record, Train, edited, local_name

OWN = {"loss": "loss_value", "lr": "epoch_lr"}  # an epoch's, whose names are a setting's, too


def run(configs: Sequence[Config], train: Train | None = None, **choice: Any) -> pd.DataFrame:
    """Return a row per run and epoch: its settings and the epoch's numbers as columns.

    Columns besides: ``run``, the place in ``configs``; ``key``; ``stored``, False for a run that is
    nowhere, whose numbers are NaN; ``data``, the images' fingerprint; ``provenance``, a dict;
    ``loss_value`` and ``epoch_lr``, the epoch's. Arguments and errors as of :func:`records`; also
    a StudyError where runs of one dataset name are on two copies of the data.
    """
    rows = []
    for number, record in enumerate(records(configs, train, **choice)):
        about = {"run": number, "key": record["key"] if record else f"not run {number}"}
        made = record["provenance"] if record else {}
        about |= {"stored": bool(record), "data": made.get("data"), "provenance": made}
        about |= (Config(**record["config"]) if record else configs[number]).model_dump()
        for row in record["history"] if record else [{"epoch": configs[number].epochs}]:
            rows.append(about | {OWN.get(name, name): value for name, value in row.items()})
    table = pd.DataFrame(rows)
    for (images, _), copies in table.dropna(subset="data").groupby(["dataset", "image_size"]).data:
        if len(prints := [each[:8] for each in copies.unique()]) > 1:
            why = f"the runs on {images} are of several copies of the data ({', '.join(prints)})"
            raise StudyError(f"{why}, which cannot be compared: STORED=0 trains all on yours")
    return table


def records(
    configs: Sequence[Config],
    train: Train | None = None,
    committed_too: bool = True,
    missing_too: bool = True,
) -> list[Record | None]:
    """Return the runs in the order of ``configs``, each trained once at most; None: not stored.

    Whatever becomes of one run, the others finish.

    Args:
        train: another function that trains, with the arguments of :func:`mdr_core.training.train`;
            such runs have a label of their own as their setting ``loop``.
        committed_too: take committed runs, before this machine's own.
        missing_too: train what is not stored.

    Raises:
        StudyError: a bad setting, absent data, a run that failed, a process that died.
    """
    wanted = list(dict.fromkeys(configs))
    found = {c: record for c in wanted if committed_too and (record := committed.find(c))}
    say(edited() if found else "")
    left = [config for config in wanted if config not in found]
    texts = [] if missing_too else [p.read_text("latin-1") for p in runs_root().glob("*/run.json")]
    here = [c for c in left if missing_too or any(json.dumps(c.dataset) in t for t in texts)]
    found |= stored_here(here, train)  # of others the data need not be read
    missing = [config for config in left if config not in found]
    if missing and missing_too:
        say(f"{len(wanted)} runs: {len(wanted) - len(missing)} stored, {len(missing)} to train")
        for config in missing:  # before hours are spent on the others
            check_backbone(config.backbone)
            if train is None:
                losses.make(config.loss)
            if train is None and config.loop != "study":
                raise StudyError(f"loop {config.loop!r} needs its function: run(configs, train=…)")
        bar = tqdm(outcomes(missing, train), total=len(missing), unit="run")
        for problem in filter(None, list(bar)):
            raise problem
        found |= stored_here(missing, train)
        if not found.keys() >= {*missing}:
            raise StudyError("code or data changed while runs were trained: restart the kernel")
    return [found.get(config) for config in configs]


@functools.cache
def say(line: str) -> None:
    """Tell a line once."""
    if line:
        tqdm.write(line, file=sys.stderr)


def folders(configs: Sequence[Config], train: Train | None) -> dict[Config, Path]:
    """Return where this machine keeps a run, or would, of those whose data are here."""
    copies = {(config.dataset, config.image_size): config for config in configs}
    prints = dict[tuple[str, int], str]()
    for images, config in copies.items():
        with contextlib.suppress(StudyError):
            prints[images] = local.dataset(config).fingerprint
    here = [(config, prints.get((config.dataset, config.image_size))) for config in configs]
    return {c: runs_root() / local_name(c, data, train) for c, data in here if data}


def stored_here(configs: Sequence[Config], train: Train | None) -> dict[Config, Record]:
    """Return the runs that this machine has."""
    every = {config: local.read(folder) for config, folder in folders(configs, train).items()}
    return {config: record for config, record in every.items() if record}


def outcomes(configs: list[Config], train: Train | None) -> Iterator[Exception | None]:
    """Train runs, and yield what became of each as it ends: None where it is stored.

    They train side by side on cores, on a GPU one after the other, or on a Dask cluster.
    """
    scheduler, gpu = os.environ.get("MDR_SCHEDULER"), any(c.device != "cpu" for c in configs)
    asked = os.environ.get("MDR_JOBS") or ("1" if gpu else str(cpu_count()))
    if not asked.isdecimal():
        raise StudyError(f"MDR_JOBS must be a whole number, got {asked!r}")
    jobs = max(min(int(asked), len(configs)), 1)
    # a process that joblib keeps from an earlier call has that call's environment
    here = {} if scheduler else {k: v for k, v in os.environ.items() if k.startswith("MDR_")}
    try:
        if scheduler:
            from dask.distributed import Client

            client = Client(scheduler, timeout="10s", set_as_default=False)
            place = parallel_config("dask", client=client, n_jobs=-1)
        else:
            threads = cpu_count() // jobs or 1
            place = parallel_config("loky", n_jobs=jobs, inner_max_num_threads=threads)
        with place:
            work = Parallel(return_as="generator_unordered", batch_size=1)
            yield from work(delayed(attempt)(config, train, here) for config in configs)
    except (OSError, TimeoutError) as problem:
        why = f"{scheduler} has no Dask scheduler with a worker ({problem})".splitlines()[0]
        raise StudyError(f"{why}: start dask scheduler and dask worker") from None
    except Exception as problem:
        if not isinstance(problem, BrokenProcessPool) and type(problem).__name__ != "KilledWorker":
            raise
        begun = ", or ".join(
            f"{c.dataset}, loss {c.loss}, mdr_weight {c.mdr_weight:g}, seed {c.seed}"
            for c, folder in folders(configs, train).items()
            if folder.exists() and not (folder / "run.json").exists()
        )
        why = f"a process died (killed, or out of memory) that trained {begun}; the rest is stored"
        raise StudyError(f"{why}: ask again, and it goes on from its last epoch") from None


def attempt(config: Config, train: Train | None, environment: dict[str, str]) -> Exception | None:
    """Train a run in this process; return what it raised, since the other runs are to finish."""
    os.environ |= environment
    try:
        local.train(config, train)
    except Exception as problem:  # noqa: BLE001 - whoever asked for the runs raises it
        return problem
    return None

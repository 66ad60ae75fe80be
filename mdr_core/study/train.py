"""Train the runs of a profile, the headline first, with no notebook: ``python -m mdr_core train``.

What is committed is not trained again. Stopped or killed, it goes on where it was. Under torchrun
its processes train each run together.
"""

import argparse
import math
import signal
import sys
from pathlib import Path

from mdr_core import distributed
from mdr_core.config import Config
from mdr_core.errors import StudyError, unknown
from mdr_core.files import REPOSITORY, check_writable
from mdr_core.runs import executors, grids, plan
from mdr_core.runs.store import RunStore
from mdr_core.study import archive, evidence, profiles


class TimeIsUp(BaseException):  # no Exception: no run is to report it as its own failure
    """The minutes that were given have passed."""


def time_is_up(*signal_and_frame: object) -> None:
    raise TimeIsUp


def described(profile: str, config: Config) -> str:
    """Return a run in a line: how it differs from the triplet loss with seed 0, and its time."""
    plain = profiles.config(profile, config.dataset, profiles.TRIPLET).to_dict()
    own = [f"{k} {v}" for k, v in config.to_dict().items() if v != plain[k] and k != "device"]
    seconds = plan.seconds(config)
    time = f" ({plan.duration(seconds)})" if seconds else ""
    return f"{config.dataset}: {', '.join(own) or 'the triplet loss'}{time}"


def wanted(profile: str, dataset: str | None, store: RunStore, **changes) -> list[Config]:
    """Return the runs of a profile, or of one of its datasets, as far as stored ones decide."""
    configs = evidence.wanted(profile, store, **changes)
    return [c for c in configs if dataset in (None, c.dataset)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mdr_core train", description="Train the missing runs of a profile."
    )
    parser.add_argument("--profile", default="quick", help=", ".join(profiles.PROFILES))
    parser.add_argument("--dataset", help="only the runs on this one")
    parser.add_argument("--output-root", default=REPOSITORY / "runs", help="the run store")
    parser.add_argument("--data-root", help="where the datasets lie")
    parser.add_argument(
        "--jobs", type=int, help="runs at a time (default: one per core, one on a GPU)"
    )
    parser.add_argument("--minutes", type=float, help="stop then; the same command goes on later")
    parser.add_argument(
        "--pack", type=Path, help="a zip file for the runs that are not committed yet"
    )
    parser.add_argument("--device", help="cpu or cuda (default: the profile's)")
    parser.add_argument("--scheduler", help="of a Dask cluster to train on, as tcp://host:8786")
    given = parser.parse_args(argv)
    distributed.join()
    known = [*profiles.datasets(given.profile), *profiles.named(given.profile).more]
    if given.dataset and given.dataset not in known:
        raise unknown("dataset", given.dataset, known)
    if given.minutes is not None and not 0 < given.minutes < math.inf:
        raise StudyError(f"minutes must be positive, got {given.minutes:g}")
    if given.pack:
        check_writable(given.pack.parent, "--pack")
        if given.pack.is_dir():
            raise StudyError(f"--pack wants the name of a file, and {given.pack} is a folder")
    changes = {"device": given.device} if given.device else {}
    store = RunStore(given.output_root, given.data_root)
    executor = executors.cluster(given.scheduler) if given.scheduler else None
    committed, first = REPOSITORY / "reports" / given.profile, distributed.current().first
    if first and (committed / "runs.csv").exists():
        archive.put(committed, store)
    configs = wanted(given.profile, given.dataset, store, **changes)
    failed: Exception | None = None
    try:
        if given.minutes:
            signal.signal(signal.SIGALRM, time_is_up)
            signal.setitimer(signal.ITIMER_REAL, 60 * given.minutes)
        trained: list[Config] | None = None
        while configs != trained:
            if first:
                for config in configs:
                    if store.read(config) is None:
                        print(described(given.profile, config), file=sys.stderr)
            grids.records(configs, store, given.jobs, executor=executor)
            trained = configs
            configs = wanted(given.profile, given.dataset, store, **changes)  # decided by those
    except TimeIsUp:
        print(f"{given.minutes:g} minutes are over: the same command goes on", file=sys.stderr)
    except Exception as problem:  # noqa: BLE001 - of one run; the others are packed first
        failed = problem
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if given.pack and first:
        try:
            count = archive.pack(configs, store, given.pack, committed / "runs.csv")
            print(f"{count} runs packed into {given.pack}")
        except StudyError as problem:
            failed = failed or problem
    if failed:
        raise failed
    return 0

"""Train the runs of a profile, the headline first, with no notebook: ``python -m mdr_core train``.

Stopped or killed, it goes on where it was. Under torchrun its processes train each run together.
"""

import argparse
import sys

from mdr_core import distributed
from mdr_core.errors import StudyError, unknown
from mdr_core.files import REPOSITORY
from mdr_core.runs import executors, grids
from mdr_core.study import experiments, profiles


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mdr_core train", description=__doc__)
    parser.add_argument("--profile", default="quick", help=", ".join(profiles.PROFILES))
    parser.add_argument("--dataset", help="only the runs on this one")
    parser.add_argument("--output-root", default=REPOSITORY / "runs", help="the run store")
    parser.add_argument("--data-root", help="where the datasets lie")
    parser.add_argument("--jobs", type=int, help="processes, a run each (default: one per core)")
    parser.add_argument("--device", help="cpu or cuda (default: the profile's)")
    parser.add_argument("--scheduler", help="of a Dask cluster to train on, as tcp://host:8786")
    given = parser.parse_args(argv)
    try:
        distributed.join()
        known = profiles.datasets(given.profile)
        if given.dataset and given.dataset not in known:
            raise unknown("dataset", given.dataset, known)
        changes = {"device": given.device} if given.device else {}
        configs = experiments.everything(given.profile, **changes)
        configs = [c for c in configs if given.dataset in (None, c.dataset)]
        executor = executors.cluster(given.scheduler) if given.scheduler else None
        grids.records(configs, given.output_root, given.data_root, given.jobs, executor=executor)
    except StudyError as error:
        print(error, file=sys.stderr)
        return 2
    return 0

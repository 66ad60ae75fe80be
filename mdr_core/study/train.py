"""Train the runs of a profile, the headline first, with no notebook: ``python -m mdr_core train``.

What is committed or stored here is not trained again. Stopped or killed, it goes on where it was.
"""

import argparse
import math
import signal
import sys
from collections.abc import Sequence
from typing import Any

from mdr_core.config import Config
from mdr_core.errors import StudyError
from mdr_core.runs.local import Record
from mdr_core.runs.run import records
from mdr_core.study import drop_in, evidence, profiles


class TimeIsUp(BaseException):  # no Exception: no run is to report it as its own failure
    """The minutes that were given have passed."""


def time_is_up(*signal_and_frame: object) -> None:
    raise TimeIsUp


def described(profile: str, config: Config) -> str:
    """Return a run in a line: how it differs from the triplet loss with seed 0."""
    plain = profiles.config(profile, config.dataset, profiles.TRIPLET).to_dict()
    own = [f"{k} {v}" for k, v in config.to_dict().items() if v != plain[k]]
    return f"{config.dataset}: {', '.join(own) or 'the triplet loss'}"


def by_loop(configs: Sequence[Config], **choice: Any) -> list[Record | None]:
    """Return :func:`mdr_core.runs.run.records` of the study's loop's runs and of the library's."""
    found: dict[Config, Record | None] = {}
    for loop, train in {"study": None, "library": drop_in.train}.items():
        own = [config for config in configs if config.loop == loop]
        found |= zip(own, records(own, train, **choice), strict=True)
    return [found[config] for config in configs]


def missing(profile: str, choice: dict[str, bool]) -> list[Config]:
    """Return the runs of a profile that are not stored, as far as stored ones decide them."""
    wanted = evidence.wanted(profile)
    return [c for c, record in zip(wanted, by_loop(wanted, **choice), strict=True) if not record]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mdr_core train", description="Train the missing runs of a profile."
    )
    parser.add_argument("--profile", default="quick", help=", ".join(profiles.PROFILES))
    parser.add_argument("--minutes", type=float, help="stop then; the same command goes on later")
    given = parser.parse_args(argv)
    if given.minutes is not None and not 0 < given.minutes < math.inf:
        raise StudyError(f"minutes must be positive, got {given.minutes:g}")
    choice = profiles.choice(given.profile, train=False)
    try:
        if given.minutes:
            signal.signal(signal.SIGALRM, time_is_up)
            # again and again: what is raised in a collected object's end is not heard
            signal.setitimer(signal.ITIMER_REAL, 60 * given.minutes, 5)
        while left := missing(given.profile, choice):
            for config in left:
                print(described(given.profile, config), file=sys.stderr)
            by_loop(left, committed_too=False)  # they may decide what is trained next
    except TimeIsUp:
        print(f"{given.minutes:g} minutes are over: the same command goes on", file=sys.stderr)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return 0

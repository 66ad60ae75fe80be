"""The command line: ``python -m mdr_core COMMAND``, one of COMMANDS."""

import importlib
import signal
import sys

from mdr_core.errors import StudyError

COMMANDS = {
    "reports": ("report.render", "run the notebooks and render them as reports"),
    "compare": ("report.compare", "lay executed notebooks side by side, a row each"),
    "train": ("report.render:train", "train the runs of a profile that are stored nowhere"),
    "keep": ("runs.committed", "add a profile's runs on this machine to the committed ones"),
    "download": ("data.catalog", "fetch a dataset's official files"),
    "released": ("released", "evaluate the authors' released checkpoints"),
    "readme": ("report.index", "write the README's results anew from the committed runs"),
}


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in COMMANDS:
        print("usage: python -m mdr_core COMMAND [--help]")
        print(*(f"  {name:<9} {what}" for name, (_, what) in COMMANDS.items()), sep="\n")
        return 0 if argv[:1] in (["--help"], ["-h"]) else 2
    try:
        module, _, function = COMMANDS[argv[0]][0].partition(":")
        return getattr(importlib.import_module(f"mdr_core.{module}"), function or "main")(argv[1:])
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted: the same command goes on", file=sys.stderr)
        return 130
    except (StudyError, OSError) as problem:  # of a full disk, say
        print(problem, file=sys.stderr)
        return 2


if __name__ == "__main__":
    # a cluster's queue and timeout(1) send SIGTERM: its processes end with it, as after Ctrl-C
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main(sys.argv[1:]))

"""Kill a small grid at random moments, again and again, and see that nothing is lost.

``make soak``. Every SIGKILL is followed by a resume. Whenever the grid has ended, its results are
compared with those of a grid that was never interrupted, and no other file stays.
"""

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

from mdr_core import (
    profiles,
    training,  # noqa: F401 - a process that is to be killed has imported it
)
from mdr_core.config import Config
from mdr_core.files import sha256
from mdr_core.runs.run import records
from tests.processes import started

TINY = profiles.QUICK.replace(
    dataset="drawn", weights="random", backbone="small_resnet_narrow",
    epochs=4, iterations=4, train_images=60,
    mdr_weight=0.2,
)  # fmt: skip
GRID = [TINY.replace(seed=s) for s in range(3)] + [TINY.replace(normalization="l2", mdr_weight=0.0)]
CLOCK = {"seconds", "train_seconds"}


def train(grid: list[Config], root: Path) -> None:
    os.environ |= {"MDR_RUNS": str(root), "MDR_JOBS": "1"}
    records(grid, committed_too=False)


def results(root: Path) -> dict:
    """Return run -> its history without the clock, and its files' checksums."""
    found = {}
    for path in sorted(root.glob("*/run.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        history = [{k: v for k, v in row.items() if k not in CLOCK} for row in record["history"]]
        files = {p.name: sha256(p.read_bytes()) for p in path.parent.glob("*.safetensors")}
        found[path.parent.name] = (json.dumps(history), files)
    return found


def soak(kills: int, grid: list[Config] = GRID) -> str:
    """Return what was done.

    Raises:
        AssertionError: a result differs, or something stays behind.
    """
    draw, landed, ended = random.Random(0), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        whole, root = Path(folder) / "whole", Path(folder) / "killed"
        began = time.perf_counter()
        train(grid, whole)
        took, expected = time.perf_counter() - began, results(whole)
        assert len(expected) == len(grid)
        while landed < kills:
            with started(train, grid, root) as process:
                process.join(draw.uniform(0, took / 2))
                process.kill()
                process.join()
            if process.exitcode == -signal.SIGKILL:
                landed += 1
            else:  # the grid has ended before the moment came
                assert process.exitcode == 0
                ended += finished(root, expected)
        train(grid, root)
        ended += finished(root, expected)
        return (
            f"{landed} SIGKILLs, {ended} grids of {len(grid)} runs ended like the uninterrupted "
            f"one, in {time.perf_counter() - began:.0f} s"
        )


def finished(root: Path, expected: dict) -> int:
    assert results(root) == expected, "a result differs from the uninterrupted grid's"
    allowed = {"run.json", *(f"{n}.safetensors" for n in ("weights", "embeddings", "findings"))}
    stays = [p.relative_to(root) for p in root.rglob("*") if p.is_file() and p.name not in allowed]
    assert not stays, f"left behind: {stays}"
    shutil.rmtree(root)
    return 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started and killed
    print(soak(given.kills))

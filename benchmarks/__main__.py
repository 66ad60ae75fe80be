"""Measure side by side, print tables of ratios, keep them in benchmarks/results/: ``make bench``,
or ``python -m benchmarks recall``.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch

from benchmarks import distances, recall, throughput, timing, training_step

PARTS = {
    "throughput": throughput,
    "training_step": training_step,
    "distances": distances,
    "recall": recall,
}
ON_GPU = ("throughput", "distances", "recall")  # besides on the CPU, where there is a GPU
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split(":")[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all of them by default")
    chosen = parser.parse_args().parts or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose among {', '.join(PARTS)}")
    about = timing.machine() | {"measured": datetime.now(UTC).isoformat(timespec="minutes")}
    RESULTS.mkdir(exist_ok=True)
    gpu = [{"device": "cuda"}] if torch.cuda.is_available() else []
    for name in chosen:
        for where in [{}, *(gpu if name in ON_GPU else [])]:
            table = PARTS[name].measure(**where)
            heading = str(PARTS[name].__doc__).splitlines()[0]
            print(f"\n{heading}\n{table.to_string(index=False, float_format='{:.2f}'.format)}")
            table.assign(**{k: v for k, v in about.items() if k not in table}).to_csv(
                RESULTS / f"{name}-{'gpu' if where else 'cpu'}.csv", index=False
            )
    print("\n" + pd.Series(about).to_string())


if __name__ == "__main__":
    main()

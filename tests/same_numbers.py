"""Short trainings with recorded numbers: does edited code compute what the stored runs hold?

make same CHANGE="what changed"                       # train, compare, add a line to the versions
python -m tests.same_numbers "what changed" --new     # the numbers are meant to change: record them
"""

import argparse
import csv
import io
import json
import platform
import re
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from mdr_core import training
from mdr_core.config import Config
from mdr_core.data.dataset import load_dataset
from mdr_core.files import write
from mdr_core.runs import identity
from mdr_core.study import profiles

RECORDED = (
    Path(__file__).parent / "recorded" / "numbers.json"
)  # kind of CPU -> case -> a row per epoch
SHORT = profiles.QUICK.replace(weights="random", epochs=1, iterations=3, lr=1e-4, train_images=100)
PHOTO = SHORT.replace(
    backbone="resnet18", freeze_batch_norm=True, augment=True, flip=True, batch_size=16
)
LITE = profiles.PHOTOS.replace(
    dataset="drawn",
    crop=64,
    resize=72,
    dim=64,
    batch_size=32,
    epochs=1,
    iterations=20,
    lr=1e-5,
    train_images=100,
)
CASES = {
    "triplet": SHORT,
    "l2": SHORT.replace(normalization="l2"),
    "mdr": SHORT.replace(mdr_weight=0.6),
    "mdr over pairs, held out": SHORT.replace(
        mdr_weight=0.2, statistics="pairs", learn_levels=False, hold_out=5
    ),
    "contrastive with mdr": SHORT.replace(loss="contrastive", mdr_weight=0.2),
    "frozen batch norm, augmented": PHOTO.replace(mdr_weight=0.6),
    "EfficientNet-Lite0, L2": LITE.replace(normalization="l2"),
    "EfficientNet-Lite0, MDR": LITE.replace(mdr_weight=0.6),
}
SMOOTH = (
    "loss",
    "metric_loss",
    "mdr_loss",
    "running_mean",
    "running_std",
    "pair_mean",
    "pair_std",
    "positive_mean",
    "negative_mean",
    "centres_between",
    "centres_within",
    "lr",
)


def kind_of_cpu() -> str:
    """Instruction set and model: what decides how sums are rounded."""
    about = (
        Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if Path("/proc/cpuinfo").exists()
        else ""
    )
    model = [
        re.search(rf"^{name}\s*: (.+)$", about, re.MULTILINE)
        for name in ("model name", "cpu family", "model")
    ]
    named = " ".join(found[1] for found in model if found) or platform.processor()
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {named}"


def numbers(name: str) -> list[dict[str, float]]:
    """Return a case's history on a fifth of the drawn classes: SMOOTH, levels and Recall@1."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # how many there are changes the order of sums
    images = load_dataset("drawn")
    images = replace(
        images, train=images.train.of_classes(range(20)), test=images.test.of_classes(range(10))
    )
    history = training.train(CASES[name], images, training.start(CASES[name])).history
    torch.set_num_threads(threads)
    keep = {*SMOOTH, "test_recall@1"}
    keep |= {k for k in history[-1] if k.startswith("level_") and k != "level_share"}
    return [{k: v for k, v in row.items() if k in keep} for row in history]


def unequal(name: str) -> list[str]:
    """Return what differs from the recorded numbers by more than rounding.

    That is 1e-4 of the number on the kind of CPU where they were recorded, and 5e-3 (or 1e-3) on
    another. Recall@1 has two points, since a neighbor may change places.
    """
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    here = kind_of_cpu() in recorded
    expected = recorded[kind_of_cpu() if here else next(iter(recorded))][name]
    found, differ = numbers(name), []
    if len(found) != len(expected):
        return [f"{name}: {len(found)} epochs, recorded {len(expected)}"]
    for was, now in zip(expected, found, strict=True):
        for key, value in was.items():
            room = (
                2.0
                if "recall" in key
                else 1e-4 * abs(value) + 1e-7
                if here
                else max(5e-3 * abs(value), 1e-3)
            )
            if not abs(now[key] - value) <= room:
                differ.append(
                    f"{name}, epoch {was.get('epoch', '')}: {key} is {now[key]:.8g}, "
                    f"recorded {value:.8g}"
                )
    return differ


def checked() -> str:
    """Return what a line of code_versions.csv says it was compared on."""
    cuda = "not the CUDA path: there was no GPU"
    if torch.cuda.is_available():
        losses = [
            training.train(c, load_dataset("drawn"), training.start(c)).history[-1]["loss"]
            for c in on_both()
        ]
        assert abs(losses[1] - losses[0]) <= 0.02 * abs(losses[0]), (
            f"CUDA ends at loss {losses[1]}, the CPU at {losses[0]}"
        )
        cuda = f"the CUDA path on {torch.cuda.get_device_name()}, its loss within 2 % of the CPU's"
    return f"{len(CASES)} short trainings on {kind_of_cpu()}, one thread; {cuda}"


def on_both() -> list[Config]:
    return [CASES["mdr"].replace(device=device) for device in ("cpu", "cuda")]


def add_line(change: str, new: bool) -> str:
    """Add the present text's line to code_versions.csv; what was done."""
    lines = identity.code_versions()
    if identity.number_version() is not None:
        return f"the present code has its line already: number version {identity.number_version()}"
    last = max((int(line["numbers"]) for line in lines), default=1)
    line = identity.line_of(change, checked(), str(last + new), f"{datetime.now(UTC):%Y-%m-%d}")
    text = io.StringIO()
    writer = csv.DictWriter(text, line.keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows([*lines, line])
    write(identity.VERSIONS, text.getvalue())
    return (
        f"a line added to {identity.VERSIONS.name}: number version {line['numbers']}, "
        f"checked on {line['checked']}"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.same_numbers",
        description="Tell whether edited code computes the recorded numbers.",
    )
    parser.add_argument("change", help="what changed, for the line's reader")
    parser.add_argument(
        "--new",
        action="store_true",
        help="the numbers are meant to change: record them, under a new number version",
    )
    given = parser.parse_args(argv)
    if given.new:
        write(
            RECORDED, json.dumps({kind_of_cpu(): {name: numbers(name) for name in CASES}}, indent=1)
        )
    differ = [line for name in CASES for line in unequal(name)]
    if differ:
        print(
            *differ,
            "The code does not give the recorded numbers: no line was added. "
            "Where they are meant to change, use --new.",
            sep="\n",
            file=sys.stderr,
        )
        return 1
    print(add_line(given.change, given.new))
    return 0


if __name__ == "__main__":
    sys.exit(main())

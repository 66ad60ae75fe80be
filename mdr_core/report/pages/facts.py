"""A few facts about the runs of a report: data, network, length, cost."""

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from mdr_core.runs.local import Record

COPIES = {  # how a dataset's fingerprint begins -> what is special about that copy
    "c259421d94b7": "re-encoded copy, short side 160 px",
    "1b0e362345eb": "copy cut to the cars' boxes and squeezed to 160 px squares: "
    "not comparable with published numbers",
    "9a9051eb922b": "reduced copy, short side 128 px",
    "ed685ba64dc9": "stroke characters that the study draws itself",
}
About = Callable[[Record], dict[str, Any]]


def facts(records: Iterable[Record], about: About) -> list[tuple[str, str]]:
    """Return (what, how much): datasets, backbone, resolution, steps, λ, seeds, hardware, hours.

    Runs of no epochs count in the datasets alone, unless there are no others.

    Args:
        about: returns :func:`mdr_core.study.data_facts.facts_of` of the data that a run saw.
    """
    every = list(records)
    trained = [record for record in every if record["config"]["epochs"]] or every
    configs = pd.DataFrame([record["config"] for record in trained])
    first = {record["config"]["dataset"]: record for record in reversed(every)}
    found = [size_of(record, about) for record in reversed(first.values())]
    weights = {
        name: listed(rows.mdr_weight[rows.mdr_weight > 0], "{:g}")
        for name, rows in configs.groupby("dataset", sort=False)
    }
    each = [f"{weight} on {name}" for name, weight in weights.items() if weight]
    if len(set(weights.values())) == 1:
        each = [*weights.values()][:1]
    seconds = sum(epoch.get("seconds", 0.0) for run in trained for epoch in run["history"])
    steps = configs.epochs * configs.iterations
    seeds = configs.seed.nunique()
    where = configs.device.where(configs.device == "cuda", "CPU ").replace("cuda", "")
    devices = {kind + run["provenance"]["device"] for kind, run in zip(where, trained, strict=True)}
    return [
        *found,
        ("backbone", ", ".join(configs.backbone.unique())),
        ("resolution", f"{listed(configs.crop)} px"),
        ("training", f"{listed(steps, '{:,}')} steps of {listed(configs.batch_size)} images"),
        ("λ of MDR", "; ".join(each) or "none"),
        ("runs", f"{len(trained)}, {seeds} seed{'s' * (seeds > 1)}"),
        ("hardware", "; ".join(sorted(devices))),
        ("training time", duration(seconds)),
    ]


def duration(total: float) -> str:
    if total < 60:
        return f"{total:.0f} s"
    return f"{total / 60:.0f} min" if total < 5400 else f"{total / 3600:.1f} hours"


def size_of(record: Record, about: About) -> tuple[str, str]:
    """Return a dataset's name, and its size and what is special about the copy that a run saw."""
    dataset, seen = record["config"]["dataset"], about(record)
    classes = seen["train_classes"] + len(seen["test_classes"])
    size = f"{sum(seen['images'].values()):,} images, {classes:,} classes"
    special = COPIES.get(record["provenance"]["data"][:12])
    kind, _, path = dataset.partition(":")  # folder:PATH
    return f"{kind} {path.split('/')[-1]}".strip(), f"{size}; {special}" if special else size


def listed(values: pd.Series, spec: str = "{}") -> str:
    """Return the values that there are: ``0.6``, ``0.2, 0.6``, of more than four the range."""
    found = sorted(values.unique())
    if len(found) > 4:
        return f"{spec.format(found[0])} to {spec.format(found[-1])}"
    return ", ".join(map(spec.format, found))


def versions(records: Iterable[Record]) -> list[tuple[str, str]]:
    """Return (what, which): when the runs were trained, by which code and libraries, and where."""
    rows = []
    for record in records:
        about, config = record["provenance"], record["config"]
        libraries = [f"{name} {number}" for name, number in about["versions"].items()]
        row = {
            "trained": about["finished"][:10],
            "git commit": (about.get("commit") or "not recorded")[:12],
            "code": about["code"][:12],
            "data": f"{config['dataset'].split('/')[-1]} {about['data'][:12]}",
            "device": about["device"],
            "threads": about["threads"],
            "seed": config["seed"],
            "libraries": ", ".join(libraries),
        }
        rows.append(row)
    found = pd.DataFrame(rows)
    dates = sorted({found.trained.min(), found.trained.max()})
    each = {name: "; ".join(sorted(map(str, found[name].dropna().unique()))) for name in found}
    return list((each | {"trained": " to ".join(dates)}).items())

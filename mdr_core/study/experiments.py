"""Which runs each table and figure of the paper needs. A grid is a list of rows: a run's labels and its ``config``.

Notebooks that ask for the same run share it: the run store trains it once. ``python -m mdr_core train --profile
photos`` trains every run of a profile, the headline first, with no notebook; killed, it goes on where it was. Under torchrun
its processes train each run together.
"""

import argparse
import math
import sys
from pathlib import Path

import pandas as pd

from mdr_core import distributed
from mdr_core.config import Config
from mdr_core.errors import StudyError, unknown
from mdr_core.files import REPOSITORY
from mdr_core.runs import executors, grids
from mdr_core.runs.store import RunStore
from mdr_core.study import profiles
from mdr_core.study.profiles import METHODS

WITH, WITHOUT = "with MDR", "without MDR"

# What the ablations run on: one dataset of each profile, and there these backbones, losses and dimensions.
DATASET = {"quick": "drawn", "photos": "cub50", "paper": "cub200"}
ABLATION = {
    "quick": {},
    "photos": {"epochs": 4},
    "paper": {},
}  # Table 2 for so long, where that is not as long as Table 1
BACKBONES = {
    "quick": [
        "small_resnet_narrow",
        "small_resnet",
    ],  # small_resnet_wide is there, too: three more minutes
    "photos": ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"],
    "paper": ["bn_inception", "resnet18", "resnet50"],
}
LOSSES = [
    "triplet",
    "contrastive",
    "margin",
    "multi_similarity",
    "LiftedStructureLoss",
    "GeneralizedLiftedStructureLoss",
]
DIMENSIONS = {
    "quick": [8, 64, 128],
    "photos": [8, 64, 256, 1024],
    "paper": [8, 16, 32, 64, 128, 256, 512, 1024],
}
# name -> how the levels differ from the paper's (-3, 0, 3), learnt
LEVELS = {
    "1 level (0)": {"levels": (0.0,)},
    "2 levels (−3, 3)": {"levels": (-3.0, 3.0)},
    "3 levels (−3, 0, 3)": {},
    "5 levels (−3 … 3)": {"levels": (-3.0, -1.5, 0.0, 1.5, 3.0)},
    "start at (−1, 0, 1)": {"levels": (-1.0, 0.0, 1.0)},
    "start at (−2, 0, 2)": {"levels": (-2.0, 0.0, 2.0)},
    "fixed (−3, 0, 3)": {"learn_levels": False},
    "fixed (0)": {"levels": (0.0,), "learn_levels": False},
    "statistics over pairs": {"statistics": "pairs"},
}
STANDARD = "3 levels (−3, 0, 3)"
WEIGHTS = (0.1, 0.2, 0.6, 1.0)  # lambda
PASSES = 35  # over a reader's own images; Table 1's runs make 32 on the drawn characters and 36 to 46 on photographs


def checked(kind: str, names: list, known) -> list:
    """``names``, or the error that lists the known ones."""
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)
    return names


def table1(
    profile: str,
    datasets: list[str],
    methods: list[str],
    seeds: list[int],
    held_out: bool = False,
    **changes,
) -> list[dict]:
    """Table 1, Figures 3 and 4b: every method on every dataset. ``changes`` are fields of Config, here and below.

    ``held_out``: of the profile's own datasets alone, since for others it is not said how many classes to hold out.
    """
    datasets = [d for d in datasets if not held_out or d in profiles.datasets(profile)]
    return [
        {
            "dataset": d,
            "method": m,
            "seed": s,
            "config": profiles.config(profile, d, m, s, held_out, **changes),
        }
        for d in datasets
        for s in seeds
        for m in methods
    ]


def dagger(
    profile: str, datasets: list[str], methods: list[str], seeds: list[int], **changes
) -> list[dict]:
    """Table 1's rows marked †: trained and tested with 256x256 images. The paper profile's alone; elsewhere none."""
    if profile != "paper":
        return []
    return table1(
        profile,
        datasets,
        methods,
        seeds,
        **({"image_size": 293, "resize": 293, "crop": 256} | changes),
    )


def searches(profile: str, datasets: list[str], methods: list[str], **changes) -> list[dict]:
    """The runs that try each method's learning rates, where there is a search."""
    changes = {k: v for k, v in changes.items() if k != "lr"}
    return [
        {"dataset": d, "method": m, "config": c}
        for d in datasets
        for m in methods
        for c in profiles.search(profile, d, [m], **changes)
    ]


def pairs(
    profile: str, seeds: list[int], column: str, settings: dict[str, dict], changes: dict
) -> list[dict]:
    """Each setting with and without MDR, on the profile's ablation dataset."""
    return [
        {
            column: name,
            "method": label,
            "seed": s,
            "config": profiles.config(
                profile, DATASET[profile], method, s, **(ABLATION[profile] | changes | setting)
            ),
        }
        for name, setting in settings.items()
        for s in seeds
        for label, method in ((WITHOUT, "Triplet"), (WITH, "Triplet + MDR"))
    ]


def table2a(profile: str, backbones: list[str], seeds: list[int], **changes) -> list[dict]:
    """Table 2 (a): backbones with and without MDR."""
    return pairs(profile, seeds, "backbone", {b: {"backbone": b} for b in backbones}, changes)


def table2b(profile: str, losses: list[str], seeds: list[int], **changes) -> list[dict]:
    """Table 2 (b): losses with and without MDR."""
    return pairs(profile, seeds, "loss_name", {name: {"loss": name} for name in losses}, changes)


def table2c(
    profile: str, levels: list[str], weights: list[float], seeds: list[int], **changes
) -> list[dict]:
    """Table 2 (c): number, start and learning of the levels; then lambda, with 0 for no MDR at all."""
    settings = {name: LEVELS[name] for name in checked("level setting", levels, LEVELS)}
    settings |= {f"λ = {w:g}": {"mdr_weight": w} for w in (0.0, *weights)}
    return [
        {
            "setting": name,
            "method": WITH,
            "seed": s,
            "config": profiles.config(
                profile,
                DATASET[profile],
                "Triplet + MDR",
                s,
                **(ABLATION[profile] | changes | setting),
            ),
        }
        for name, setting in settings.items()
        for s in seeds
    ]


def figure4a(
    profile: str, dimensions: list[int], methods: list[str], seeds: list[int], **changes
) -> list[dict]:
    """Figure 4 (a): embedding dimensions, every method."""
    return [
        {
            "dimension": n,
            "method": m,
            "seed": s,
            "config": profiles.config(profile, DATASET[profile], m, s, **(changes | {"dim": n})),
        }
        for n in dimensions
        for s in seeds
        for m in methods
    ]


def your_images(
    profile: str,
    folder: Path,
    method: str,
    seeds: list[int],
    drawn: bool,
    data_root: str | None = None,
    processes: int = 1,
    **changes,
) -> list[dict]:
    """A folder of class folders, under the profile's settings; the batch is made as small as the folder needs, and so are the
    epochs, that each image is seen about PASSES times at most.

    Args:
        processes: that share a batch.
        drawn: the folder is :func:`mdr_core.example.drawn_folder`'s, for the small network; else EfficientNet-Lite0 and
            the photographs' settings serve, in the quick profile too.
    """
    place = folder.relative_to(REPOSITORY) if folder.is_relative_to(REPOSITORY) else folder
    name, base = f"folder:{place}", profiles.QUICK if drawn else profiles.OTHERS[profile]
    passes, base = PASSES / base.epochs, base.replace(**{"dataset": name} | changes)
    store = RunStore(data_root=data_root)
    batch, images = store.batch_size(base, processes), len(store.dataset(base).train.labels)
    few = (
        base.iterations
        if "iterations" in changes
        else min(base.iterations, math.ceil(passes * images / batch))
    )
    weight = changes.get("mdr_weight", 0.2 if drawn else 0.6)
    base = base.replace(batch_size=batch, iterations=few, **profiles.by_method(method, weight))
    return [
        {"dataset": name, "method": method, "seed": s, "config": base.replace(seed=s)}
        for s in seeds
    ]


def joined(*frames: pd.DataFrame, **columns) -> pd.DataFrame:
    """Tables below each other, some columns set anew."""
    return pd.concat(frames).assign(**columns)


def of_notebooks(profile: str, seeds: list[int] | None = None, **changes) -> dict[str, list[dict]]:
    """Notebook -> the runs of its report at its default parameters, ``your_images`` aside; the headline first.

    Args:
        seeds: Table 1's; the ablations take fewer.
        changes: fields of Config, as everywhere.
    """
    names, seeds = (
        profiles.datasets(profile),
        list(range(profiles.SEEDS)) if seeds is None else seeds,
    )
    few = seeds[: profiles.ABLATION_SEEDS]
    table = table1(profile, names, list(METHODS), seeds, **changes)
    found = {
        "recall_at_k": [
            *table,
            *table1(
                profile,
                names,
                list(METHODS),
                seeds[: profiles.HELD_OUT_SEEDS[profile]],
                True,
                **changes,
            ),
            *searches(profile, names, list(METHODS), **changes),
            *dagger(profile, names, list(METHODS), seeds, **changes),
        ],
        "ablation_backbones": table2a(profile, BACKBONES[profile], few, **changes),
        "ablation_losses": table2b(profile, LOSSES, few, **changes),
        "ablation_levels": table2c(profile, list(LEVELS), list(WEIGHTS), few, **changes),
        "embedding_dimension": figure4a(
            profile, DIMENSIONS[profile], list(METHODS), few, **changes
        ),
        "learning_curves": table,
        "mechanism": table,
        "class_centers": table,
        "retrieval_gallery": [row for row in table if row["seed"] == seeds[0]],
    }
    return found | {
        "claims": [row for name, grid in found.items() if name != "recall_at_k" for row in grid]
    }


WITH_FILES = (
    "class_centers",
    "retrieval_gallery",
    "claims",
)  # notebooks that read weights or embeddings, of the first seed of Table 1


def everything(profile: str, **changes) -> list[Config]:
    """Every run of a profile's reports at their default parameters, in the order of their weight."""
    return list(
        dict.fromkeys(
            row["config"] for grid in of_notebooks(profile, **changes).values() for row in grid
        )
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mdr_core train", description="Train every run of a profile."
    )
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--dataset", help="only the runs on this one")
    parser.add_argument("--output-root", default=REPOSITORY / "runs", help="the run store")
    parser.add_argument("--data-root", help="where the datasets lie")
    parser.add_argument("--jobs", type=int, help="processes, a run each (default: one per core)")
    parser.add_argument("--device", help="cpu or cuda (default: the profile's)")
    parser.add_argument("--scheduler", help="of a Dask cluster to train on, as tcp://host:8786")
    given = parser.parse_args(argv)
    try:
        distributed.join()
        executor = executors.cluster(given.scheduler) if given.scheduler else None
        changes = {"device": given.device} if given.device else {}
        if given.dataset:
            checked("dataset", [given.dataset], profiles.datasets(given.profile))
        configs = [
            c for c in everything(given.profile, **changes) if given.dataset in (None, c.dataset)
        ]
        store = RunStore(given.output_root, given.data_root)
        grids.records(configs, store, given.jobs, executor=executor)
    except StudyError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

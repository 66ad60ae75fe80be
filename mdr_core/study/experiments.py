"""Which runs each table and figure of the paper needs.

A grid is a list of rows: labels, a run's ``config``, and ``own``: its configuration without the
reader's changes. Notebooks that ask for the same run share it: the run store trains it once.
Everywhere ``changes`` are fields of Config.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdr_core.config import Config
from mdr_core.errors import unknown
from mdr_core.files import REPOSITORY
from mdr_core.runs import local
from mdr_core.study import profiles
from mdr_core.study.profiles import BEFORE, L2, LEVELS, MDR, METHODS, TRIPLET

WITH, WITHOUT = "with MDR", "without MDR"
PAIR = {WITHOUT: TRIPLET, WITH: MDR}
PASSES = 35  # over a user's own images; Table 1's runs make 32 to 46 over theirs


def table1(
    profile: str,
    datasets: list[str],
    methods: list[str],
    seeds: list[int],
    held_out: bool = False,
    **changes,
) -> list[dict]:
    """Return the runs of Table 1, Figure 3 and Figure 4 (b): every method on every dataset.

    Args:
        held_out: with training classes held out, on the profile's own datasets alone.
    """
    own = profiles.datasets(profile)
    return [
        {
            "dataset": dataset,
            "method": method,
            "seed": seed,
            "config": profiles.config(profile, dataset, method, seed, held_out, **changes),
            "own": profiles.config(profile, dataset, method, seed, held_out),
        }
        for seed in seeds
        for dataset in datasets
        for method in methods
        if dataset in own or not held_out
    ]


def dagger(
    profile: str, datasets: list[str], methods: list[str], seeds: list[int], **changes
) -> list[dict]:
    """Return Table 1's rows marked †, with images of 256 px: of the paper profile alone."""
    if profile != "paper":
        return []
    # 293 is this study's choice: the paper names the crop alone, and 256 / 293 is its 224 / 256
    larger = {"image_size": 293, "resize": 293, "crop": 256}
    return table1(profile, datasets, methods, seeds, **(larger | changes))


def stronger(profile: str, datasets: list[str], seeds: list[int], **changes) -> list[dict]:
    """Return the runs of stronger losses on L2-normalized embeddings, where the profile has any."""
    return [
        row | {"method": f"{loss} + L2"}
        for loss in profiles.named(profile).stronger
        for row in table1(profile, datasets, [L2], seeds, **(changes | {"loss": loss}))
    ]


LIBRARY = (  # loss of the library, method
    ("TripletMarginLoss", L2),
    ("TripletMarginLoss, semi-hard", L2),
    ("MultiSimilarityLoss", L2),
    ("TripletMarginLoss", MDR),
    ("MultiSimilarityLoss", MDR),
)


def drop_in(
    profile: str,
    dataset: str,
    seeds: list[int],
    methods: Sequence[tuple[str, str]] = LIBRARY,
    **changes,
) -> list[dict]:
    """Return the runs of the library's loop (:mod:`mdr_core.drop_in`): each loss and method."""
    rows = []
    for seed in seeds:
        for loss, method in methods:
            comma = "," * ("," in loss)
            name = loss + {L2: f"{comma} on L2", MDR: f"{comma} with MDR"}.get(method, "")
            library = {"loss": loss, "loop": "library"}
            [row] = table1(profile, [dataset], [method], [seed], **(changes | library))
            config = row["config"]  # the library's sampler wants as many images of every class
            whole = config.batch_size - config.batch_size % config.images_per_class
            row |= {"config": config.replace(batch_size=whole)}
            rows.append(row | {"method": name, "own": row["own"].replace(**library)})
    return rows


def searches(profile: str, datasets: list[str], methods: list[str], **changes) -> list[dict]:
    """Return the runs that try each method's learning rates, where the dataset has some to try."""
    settings = profiles.named(profile).settings
    return [
        row
        for dataset in datasets
        if dataset in settings
        for method in methods
        for rate in settings[dataset].rates
        for row in table1(profile, [dataset], [method], [0], True, **(changes | {"lr": rate}))
    ]


def ablation(
    profile: str,
    column: str,
    settings: dict[Any, dict[str, Any]],
    methods: dict[str, str],
    seeds: list[int],
    headline: list[int],
    changes: dict,
    dataset: str = "",
) -> list[dict]:
    """Return the runs of several settings, named in ``column``, each with several methods.

    ``settings`` maps a name to fields of Config, ``methods`` a label to a method.

    Args:
        headline: seeds of Table 1, taken too where a setting is Table 1's: each stored one counts.
        dataset: by default the profile's for ablations.
    """
    dataset = dataset or profiles.named(profile).ablation
    shorter = {} if column == "dimension" else profiles.named(profile).changes  # of Table 2
    rows = []
    for name, setting in settings.items():
        for seed in dict.fromkeys([*seeds, *headline]):
            headlines = [profiles.config(profile, dataset, own, seed) for own in METHODS]
            for label, method in methods.items():
                of_run = profile, dataset, method, seed
                config = profiles.config(*of_run, **(shorter | changes | setting))
                own = profiles.config(*of_run, **(shorter | setting))
                if seed in seeds or config in headlines:
                    labels = {column: name, "method": label, "seed": seed}
                    rows.append(labels | {"config": config, "own": own})
    return rows


def table2a(
    profile: str, backbones: list[str], seeds: list[int], headline: list[int], **changes
) -> list[dict]:
    """Return the runs of Table 2 (a): backbones with and without MDR."""
    settings = {name: {"backbone": name} for name in backbones}
    return ablation(profile, "backbone", settings, PAIR, seeds, headline, changes)


def table2b(
    profile: str, losses: list[str], seeds: list[int], headline: list[int], **changes
) -> list[dict]:
    """Return the runs of Table 2 (b): losses with and without MDR."""
    settings = {name: {"loss": name} for name in losses}
    return ablation(profile, "loss_name", settings, PAIR, seeds, headline, changes)


def table2c(
    profile: str,
    levels: list[str],
    weights: Mapping[str, Sequence[float]],
    seeds: list[int],
    headline: list[int],
    **changes,
) -> list[dict]:
    """Return the runs of Table 2 (c): levels by name; then λ by dataset, with 0 for no MDR."""
    for name in levels:
        if name not in LEVELS:
            raise unknown("level setting", name, LEVELS)
    settings: dict[str, dict] = {name: LEVELS[name] for name in levels}
    rows = ablation(profile, "setting", settings, {WITH: MDR}, seeds, headline, changes)
    for dataset, values in weights.items():
        settings = {f"λ = {weight:g}": {"mdr_weight": weight} for weight in (0.0, *values)}
        rows += ablation(
            profile, "setting", settings, {WITH: MDR}, seeds, headline, changes, dataset
        )
    return rows


def figure4a(
    profile: str,
    dimensions: list[int],
    methods: list[str],
    seeds: list[int],
    headline: list[int],
    **changes,
) -> list[dict]:
    """Return the runs of Figure 4 (a): embedding dimensions, every method."""
    settings = {size: {"dim": size} for size in dimensions}
    names = {method: method for method in methods}
    return ablation(profile, "dimension", settings, names, seeds, headline, changes)


def fillable(config: Config) -> int:
    """Return ``config.batch_size``, or as much of it as the training classes fill."""
    counts = local.dataset(config).train.labels.bincount()
    return min(config.batch_size, int(counts.clamp(max=config.images_per_class).sum()))


def your_images(
    profile: str,
    folder: Path,
    class_level: int,
    method: str,
    seeds: list[int],
    drawn: bool,
    **changes,
) -> list[dict]:
    """Return the runs on a folder of class folders, under the profile's settings.

    The batch is as small as the folder needs, and the epochs so short that each image is seen about
    PASSES times at most.

    Args:
        class_level: of nested folders, how many name the class; 0: all.
        drawn: the folder holds drawn characters, for the small network.
    """
    near = folder.is_relative_to(REPOSITORY.parent)  # then the run has no path of this machine
    place = Path(os.path.relpath(folder, REPOSITORY)) if near else folder
    level = f",class_level={class_level}" * (class_level > 0)
    base = profiles.QUICK if drawn else profiles.named(profile).others.config
    passes = PASSES / base.epochs
    base = base.replace(**({"dataset": f"folder:{place}{level}"} | changes))
    batch, images = fillable(base), len(local.dataset(base).train.labels)
    enough = min(base.iterations, math.ceil(passes * images / batch))
    iterations = changes.get("iterations", enough)
    weight = changes.get("mdr_weight", 0.2 if drawn else 0.6)
    base = base.replace(
        batch_size=batch, iterations=iterations, **profiles.by_method(method, weight)
    )
    labels = {"dataset": base.dataset, "method": method}
    configs = [base.replace(seed=seed) for seed in seeds]
    rows = [labels | {"seed": c.seed, "config": c, "own": c} for c in configs]
    if changes:
        unchanged = your_images(profile, folder, class_level, method, seeds, drawn)
        rows = [row | {"own": of["config"]} for row, of in zip(rows, unchanged, strict=True)]
    return rows


def of_notebooks(profile: str, seeds: list[int] | None = None, **changes) -> dict[str, list[dict]]:
    """Return notebook -> the runs of its report at its default parameters, the headline first.

    ``your_images`` aside, whose folder is its reader's. ``seeds``: Table 1's; others take fewer.
    """
    own, names, methods = profiles.named(profile), profiles.datasets(profile), list(METHODS)
    seeds = list(range(own.seeds)) if seeds is None else seeds
    both = seeds[: own.ablation_seeds], seeds
    table = table1(profile, names, methods, seeds, **changes)
    before = table1(profile, names, [BEFORE], seeds[:1], **changes)
    found = {
        "recall_at_k": [
            *table,
            *stronger(profile, names, seeds[:1], **changes),
            *table1(profile, names, methods, seeds[: own.held_out_seeds], True, **changes),
            *searches(profile, names, methods, **changes),
            *dagger(profile, names, methods, seeds, **changes),
        ],
        "ablation_levels": table2c(profile, list(own.levels), own.weights, *both, **changes),
        "ablation_backbones": table2a(profile, list(own.backbones), *both, **changes),
        "ablation_losses": table2b(profile, list(own.losses), *both, **changes),
        "embedding_dimension": figure4a(profile, list(own.dimensions), methods, *both, **changes),
        "learning_curves": table,
        "mechanism": table,
        "class_centers": [*table, *before],
        "retrieval_gallery": [row for row in table if row["seed"] == seeds[0]],
    }
    claims = [row for grid in found.values() for row in grid]
    if own.library_seeds:  # a full run of the library's loop is a reader's own wish
        found["drop_in"] = drop_in(profile, own.ablation, seeds[: own.library_seeds], **changes)
    return found | {"claims": claims}


def everything(profile: str, **changes) -> list[Config]:
    """Return every run of a profile's reports at their default parameters, the headline first."""
    grids = of_notebooks(profile, **changes).values()
    return list(dict.fromkeys(row["config"] for grid in grids for row in grid))

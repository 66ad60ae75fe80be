"""The runs that answer a reviewer, in the order of their worth: of the photos profile.

    python -m mdr_core train --profile photos       # lists them and trains what is missing

1. The epoch chosen on held-out classes, with five seeds.
2. Cars in miniature.
3. Is MDR more than cheap regularization? Six tries for each method, chosen by the best Recall@1 on
   held-out training classes. The winner of each is trained on all training classes.
4. The library's loop, with stronger losses.
"""

from collections.abc import Callable
from typing import Any

from mdr_core.config import Config
from mdr_core.runs.run import records
from mdr_core.study import experiments, profiles
from mdr_core.study.profiles import L2, MDR, METHODS, TRIPLET

PROFILE = "photos"
RATES = (1e-4, 5e-5, 2e-5)
WEIGHTS = (0.1, 0.2, 0.3)  # λ
SEEDS = (0, 1, 2)
LIBRARY = (  # loss, method
    ("TripletMarginLoss", L2),
    ("TripletMarginLoss", MDR),
    ("TripletMarginLoss", TRIPLET),
    ("MultiSimilarityLoss", L2),
    ("ProxyAnchorLoss", L2),
)
Recall = Callable[[Config], float | None]


def held_out_recall(config: Config) -> float | None:
    """Return a run's best Recall@1 on held-out classes; None where it is not stored."""
    [record] = records([config], missing_too=False)
    if record is None:
        return None
    return max(row["held_out_recall@1"] for row in record["history"] if row["epoch"] > 0)


def groups(recall: Recall = held_out_recall) -> dict[str, list[Config]]:
    """Return the runs of each group, as far as earlier ones have decided them.

    Args:
        recall: tells the best Recall@1 on held-out classes.
    """

    def cub(method: str, seed: int, held_out: bool = False, **changes: Any) -> Config:
        return profiles.config(PROFILE, "cub50", method, seed, held_out, **changes)

    def cars(method: str, seed: int, **changes: Any) -> Config:
        return profiles.config(PROFILE, "cars50", method, seed, **changes)

    chosen = [cub(method, seed, held_out=True) for seed in range(5) for method in METHODS]
    in_cars = [cars(method, seed) for seed in SEEDS for method in METHODS]
    in_cars.append(cars(MDR, 0, mdr_weight=0.6))
    tuned, winners = [], []
    for method in METHODS:
        tried, settings = tries(method, recall)
        tuned += tried
        if settings is not None:
            winners += [cub(method, seed, **settings) for seed in SEEDS]
            if method == MDR:
                settings |= {"levels": (0.0,), "learn_levels": False}
                winners += [cub(MDR, seed, **settings) for seed in SEEDS]
    library = [
        row["config"]
        for seed in SEEDS
        for row in experiments.drop_in(PROFILE, "cub50", [seed], LIBRARY)
    ]
    return {
        "held-out epoch": chosen,
        "Cars in miniature": in_cars,
        "tuned": [*tuned, *winners],
        "library's loop": library,
    }


def tries(method: str, recall: Recall) -> tuple[list[Config], dict[str, Any] | None]:
    """Return a method's tries on held-out classes, and the settings of the best one.

    First three learning rates. Then, at the best one, three strengths of another regularization:
    λ for MDR; for the others weight decay times 100 and 1000, and half the length. Until the first
    three are stored, the others are unknown; until all are, so are the best settings (None).
    """
    plain = profiles.config(PROFILE, "cub50", method, 0, True)
    settings: list[dict[str, Any]] = [{"lr": rate} for rate in RATES]
    for _ in range(2):
        tried = [plain.replace(**some) for some in settings]
        found = [recall(config) for config in tried]
        known = [value for value in found if value is not None]
        if len(known) < len(found):
            return tried, None
        best = settings[known.index(max(known))]
        if len(settings) == len(RATES):
            if method == MDR:
                second = [{"mdr_weight": weight} for weight in WEIGHTS]
            else:
                second = [{"weight_decay": plain.weight_decay * factor} for factor in (100, 1000)]
                second.append({"epochs": plain.epochs // 2})
            settings += [best | some for some in second]
    return tried, best


def wanted(profile: str) -> list[Config]:
    """Return the runs of a profile's pages, then of the groups, as far as they are decided."""
    configs = experiments.everything(profile)
    if profile == PROFILE:
        configs += [config for group in groups().values() for config in group]
    return list(dict.fromkeys(configs))

"""The study's three profiles, its methods, and the settings behind each: one table, no run script of its own."""

from pathlib import Path

from mdr_core.config import Config
from mdr_core.data.catalog import NAMES
from mdr_core.errors import unknown

PUBLISHED = (
    Path(__file__).parent / "published_recall.csv"
)  # published Recall@K in percent, each with its source
METHODS = ("Triplet", "Triplet + L2", "Triplet + MDR")
SEEDS, ABLATION_SEEDS = 5, 3  # 0, 1, ... of Table 1 and its figures; of the ablations
HELD_OUT_SEEDS = {
    "quick": 3,
    "photos": 1,
    "paper": 1,
}  # that are run once more, with training classes held out

QUICK = Config(
    dataset="drawn",
    image_size=32,
    crop=32,
    resize=32,
    augment=False,
    flip=False,
    backbone="small_resnet",
    weights="classes",
    dim=64,
    batch_size=60,
    images_per_class=4,
    epochs=10,
    iterations=40,
    lr=1e-3,
    lr_drops=(0.6, 0.8),
    train_images=750,
)
PHOTOS = Config(
    image_size=128,
    crop=96,
    resize=110,
    backbone="efficientnet_lite0",
    dim=256,
    batch_size=96,
    images_per_class=4,
    epochs=18,
    iterations=45,
    lr=1e-4,
    lr_drops=(0.6, 0.8),
    train_images=800,
)
PAPER = Config(device="cuda")
PRODUCTS = PAPER.replace(
    batch_size=256, images_per_class=3, lr=1e-4
)  # datasets of many classes with few images

# profile -> dataset -> settings, with the dataset's lambda, and how many training classes choose an epoch
PROFILES = {
    "quick": {"drawn": (QUICK, 0.2, 15)},
    "photos": {
        "cub50": (
            PHOTOS.replace(dataset="cub50", batch_size=80),
            0.6,
            5,
        )  # 80: what 20 classes can fill
    },
    "paper": {
        "cub200": (PAPER, 0.6, 20),
        "cars196": (PAPER.replace(dataset="cars196"), 0.2, 20),
        "sop": (PRODUCTS.replace(dataset="sop", ks=(1, 10, 100, 1000)), 0.1, 2264),
        "inshop": (PRODUCTS.replace(dataset="inshop", ks=(1, 10, 20, 30, 40)), 0.1, 799),
    },
}
OTHERS = {
    "quick": PHOTOS,
    "photos": PHOTOS,
    "paper": PAPER,
}  # for any other dataset, a folder of yours, say; lambda is 0.6
# By the released CUB-200 loader the last 20 of 100 training classes are held out; the others follow that share.

# The small search for a dataset's learning rate: every method tries the same ones, a run of the first seed each, at full
# length (a short one favours rates that spoil a long one), judged on held-out training classes.
SEARCHES = {"cub50": (1e-4, 3e-4)}


def datasets(profile: str) -> list[str]:
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    return list(PROFILES[profile])


def config(
    profile: str, dataset: str, method: str, seed: int = 0, held_out: bool = False, **changes
) -> Config:
    """The configuration of one run.

    Args:
        profile, method: names in PROFILES and METHODS.
        dataset: one of the profile's, or any other of :data:`mdr_core.data.catalog.NAMES`.
        held_out: keep some training classes from training, to choose the epoch on them (the profile's datasets alone).
        changes: fields of Config to set otherwise. ``mdr_weight`` acts on Triplet + MDR alone.

    Raises:
        StudyError: an unknown name or parameter; the message lists those that exist.
    """
    if dataset not in NAMES and not dataset.startswith("folder:"):
        raise unknown("dataset", dataset, NAMES)
    own = (
        PROFILES[profile]
        if dataset in datasets(profile)
        else {dataset: (OTHERS[profile].replace(dataset=dataset), 0.6, 0)}
    )
    base, weight, held = own[dataset]
    weight = changes.pop("mdr_weight", weight)
    return base.replace(
        **{"seed": seed, "hold_out": held if held_out else 0} | by_method(method, weight) | changes
    )


def by_method(method: str, weight: float) -> dict:
    """What sets the methods apart; ``weight`` is lambda, which acts on Triplet + MDR alone.

    Raises:
        StudyError: an unknown method; the message lists those that exist.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    return {
        "Triplet": {"mdr_weight": 0.0},
        "Triplet + L2": {"mdr_weight": 0.0, "normalization": "l2"},
        "Triplet + MDR": {"mdr_weight": weight},
    }[method]


def search(profile: str, dataset: str, methods=METHODS, **changes) -> list[Config]:
    """The runs of a dataset's search, none where its settings come from elsewhere."""
    rates = SEARCHES.get(dataset, ()) if dataset in datasets(profile) else ()
    return [
        config(profile, dataset, m, held_out=True, **{**changes, "lr": r})
        for r in rates
        for m in methods
    ]

"""The study's four profiles and its methods: what each trains, how long, and where."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from mdr_core.config import Config
from mdr_core.data.catalog import NAMES
from mdr_core.errors import StudyError, unknown

PUBLISHED = Path(__file__).parent / "published_recall.csv"  # Recall@K in percent, with its source
METHODS = TRIPLET, L2, MDR = ("Triplet", "Triplet + L2", "Triplet + MDR")
BEFORE = "Before fine-tuning"  # the network with ImageNet weights, or pretrained, and a new head
LOSSES = (
    "triplet", "contrastive", "margin", "multi_similarity",
    "LiftedStructureLoss", "GeneralizedLiftedStructureLoss",
)  # fmt: skip
STANDARD = "3 levels (−3, 0, 3)"
LEVELS: dict[str, dict] = {  # name -> how the levels differ from the paper's (−3, 0, 3), learned
    "1 level (0)": {"levels": (0.0,)},
    "2 levels (−3, 3)": {"levels": (-3.0, 3.0)},
    STANDARD: {},
    "5 levels (−3 … 3)": {"levels": (-3.0, -1.5, 0.0, 1.5, 3.0)},
    "start at (−1, 0, 1)": {"levels": (-1.0, 0.0, 1.0)},
    "start at (−2, 0, 2)": {"levels": (-2.0, 0.0, 2.0)},
    "fixed (−3, 0, 3)": {"learn_levels": False},
    "fixed (0)": {"levels": (0.0,), "learn_levels": False},
    "statistics over pairs": {"statistics": "pairs"},
}
WEIGHTS = (0.1, 0.2, 0.6, 1.0)  # λ


@dataclass(frozen=True)
class Setting:
    """How a dataset is trained.

    The released CUB-200 loader holds out the last 20 of 100 classes; others follow that share.
    """

    config: Config  # of the triplet loss alone
    mdr_weight: float = 0.6  # λ, of the runs with MDR
    held_out: int = 0  # training classes that choose an epoch
    rates: tuple[float, ...] = ()  # learning rates that each method tries on held-out classes
    tried: dict[str, list[dict]] = field(default_factory=dict)  # method -> fields of its tries
    chosen: dict[str, dict] = field(default_factory=dict)  # method -> fields of the best of them


@dataclass(frozen=True)
class Profile:
    """One size of the study."""

    purpose: str
    network: str
    time: str
    settings: dict[str, Setting]  # of each dataset
    others: Setting  # of any other dataset
    backbones: tuple[str, ...]
    dimensions: tuple[int, ...]
    weights: dict[str, tuple[float, ...]]  # dataset -> λ of Table 2 (c)
    losses: tuple[str, ...] = LOSSES
    levels: tuple[str, ...] = tuple(LEVELS)
    stronger: tuple[str, ...] = ()  # losses to compare with, on L2 embeddings
    changes: dict = field(default_factory=dict)  # how Table 2's runs differ
    seeds: int = 5  # of Table 1, from 0
    ablation_seeds: int = 3
    held_out_seeds: int = 1  # of the runs with held-out classes
    library_seeds: int = 0  # of the library's loop
    trains: bool = False  # without being asked to, and looks at no committed run
    more: dict[str, Setting] = field(default_factory=dict)  # datasets of no page by default
    folder: str = ""  # class folders in the data root for your_images; "": it draws some

    @property
    def ablation(self) -> str:
        """The dataset of Table 2 and Figure 4 (a)."""
        return next(iter(self.settings))


QUICK = Config(
    dataset="omniglot", image_size=32, crop=32, resize=32, augment=False, flip=False, affine=0.1,
    backbone="small_resnet", weights="characters", dim=64, batch_size=60, images_per_class=4,
    epochs=8, iterations=50, lr=4e-3, lr_drops=(0.6, 0.8), train_images=750,
)  # fmt: skip
PHOTOS = Config(
    image_size=128, crop=96, resize=110, backbone="tf_efficientnet_lite0", dim=256, batch_size=96,
    images_per_class=4, epochs=18, iterations=45, lr=1e-4, lr_drops=(0.6, 0.8), train_images=800,
)  # fmt: skip
PAPER = Config(device="cuda")
FULL = PAPER.replace(backbone="tf_efficientnet_lite0", epochs=10, iterations=500)  # half its steps
PRODUCTS = PAPER.replace(batch_size=256, images_per_class=3, lr=1e-4)  # few images a class
RATES, LENGTHS = (8e-3, 4e-3, 2e-3, 1e-3), (4, 8)  # tried in quick: epochs, and for MDR λ
PLAIN_TRIES = [{"epochs": length, "lr": rate} for length in LENGTHS for rate in RATES]
MDR_TRIES = [{"epochs": 8, "lr": rate, "mdr_weight": w} for w in (0.2, 0.6) for rate in RATES]
DIMENSIONS = (8, 16, 32, 64, 128, 256, 512, 1024)

PROFILES = {
    "quick": Profile(
        "see everything work on handwriting: eight alphabets of Omniglot",
        "a small residual network, 32 px", "12 to 30 minutes on two CPU cores",
        {"omniglot": Setting(  # Greek is held out
            QUICK, 0.2, 24, tried=dict.fromkeys((TRIPLET, L2), PLAIN_TRIES) | {MDR: MDR_TRIES}
        )},
        others=Setting(PHOTOS),
        backbones=("small_resnet_narrow", "small_resnet"), dimensions=(8, 64, 128),
        weights={"omniglot": WEIGHTS}, held_out_seeds=3, library_seeds=3, trains=True,
        more={"drawn": Setting(QUICK, 0.2, 15)},
    ),
    "photos": Profile(
        "photographs in miniature: the first 50 classes of CUB-200-2011",
        "EfficientNet-Lite0, 96 px, 810 steps", "9 to 13 hours on two CPU cores",
        # a batch of 80, since 20 classes cannot fill more when five are held out
        {"cub50": Setting(PHOTOS.replace(dataset="cub50", batch_size=80), 0.6, 5, (1e-4, 3e-4))},
        others=Setting(PHOTOS),
        backbones=tuple(f"tf_efficientnet_lite{size}" for size in range(3)),
        dimensions=(8, 64, 256, 1024), weights={"cub50": WEIGHTS}, changes={"epochs": 4},
        folder="groceries.zip", library_seeds=1,
        more={"cars50": Setting(PHOTOS.replace(dataset="cars50", batch_size=80), 0.2, 5)},
    ),
    "full": Profile(
        "the headline: both datasets whole",
        "EfficientNet-Lite0, 224 px, 5,000 steps",
        "165 s a run where two share an H100, 2.5 hours in all (estimated)",
        {"cub200": Setting(FULL, 0.6, 20),
         "cars196": Setting(FULL.replace(dataset="cars196"), 0.2, 20)},
        others=Setting(FULL),
        backbones=("tf_efficientnet_lite0", "tf_efficientnet_lite2"), dimensions=(8, 64, 512),
        weights={"cub200": (0.2, 0.6), "cars196": (0.1, 0.2, 0.6)},
        levels=("1 level (0)", STANDARD), seeds=3, ablation_seeds=1,
        stronger=("multi_similarity",),
    ),
    "paper": Profile(
        "the paper's own setting, for whoever has the datasets",
        "BN-Inception, 224 px, 10,000 steps", "not run here",
        {"cub200": Setting(PAPER, 0.6, 20),
         "cars196": Setting(PAPER.replace(dataset="cars196"), 0.2, 20),
         "sop": Setting(PRODUCTS.replace(dataset="sop", ks=(1, 10, 100, 1000)), 0.1, 2264),
         "inshop": Setting(PRODUCTS.replace(dataset="inshop", ks=(1, 10, 20, 30, 40)), 0.1, 799)},
        others=Setting(PAPER),
        backbones=("bn_inception", "resnet18.tv_in1k", "resnet50.tv_in1k"), dimensions=DIMENSIONS,
        weights={"cub200": WEIGHTS},
    ),
}  # fmt: skip


def named(profile: str) -> Profile:
    """Return a profile by name; an unknown one is a StudyError that lists those that exist."""
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    return PROFILES[profile]


def choice(profile: str, train: bool | None = None) -> dict[str, bool]:
    """Return which runs are read and trained, as :func:`mdr_core.runs.run.records` takes it.

    ``STORED=1`` takes committed runs first, ``STORED=0`` looks at none of them. By default quick
    trains its own, the other profiles take what is committed and train nothing.

    Args:
        train: whether missing runs are trained; None: by the profile, and with ``STORED=0``.
    """
    own, stored = named(profile), os.environ.get("STORED", "")
    if stored not in ("", "0", "1"):
        raise StudyError(f"STORED must be 0 or 1, got {stored!r}")
    trains = own.trains or stored == "0" if train is None else train
    return {"committed_too": stored != "0" and (stored == "1" or not own.trains),
            "missing_too": trains}  # fmt: skip


def datasets(profile: str) -> list[str]:
    """Return the names of a profile's datasets."""
    return list(named(profile).settings)


def config(
    profile: str, dataset: str, method: str, seed: int = 0, held_out: bool = False, **changes
) -> Config:
    """Return the configuration of one run.

    Args:
        dataset: any of :data:`mdr_core.data.catalog.NAMES`.
        held_out: keep some training classes from training, to choose the epoch on them.
        changes: fields of Config to set otherwise. ``mdr_weight`` acts on Triplet + MDR alone.

    Raises:
        StudyError: an unknown name or parameter; the message lists those that exist.
    """
    if dataset not in NAMES and not dataset.startswith("folder:"):
        raise unknown("dataset", dataset, NAMES)
    own = (named(profile).settings | named(profile).more).get(dataset) or named(profile).others
    about = {"dataset": dataset, "seed": seed, "hold_out": own.held_out if held_out else 0}
    about |= own.chosen.get(method, {})
    about |= by_method(method, changes.pop("mdr_weight", own.mdr_weight))
    untrained = {"epochs": 0, "device": "cpu"} if method == BEFORE else {}
    return own.config.replace(**(about | changes | untrained))


def tries(profile: str, dataset: str) -> dict[str, list[Config]]:
    """Return method -> its tries, of which the best on held-out classes is chosen, with seed 0."""
    return {
        method: [config(profile, dataset, method, held_out=True, **fields) for fields in tried]
        for method, tried in named(profile).settings[dataset].tried.items()
    }


def by_method(method: str, mdr_weight: float) -> dict:
    """Return the fields of Config that set a method apart. ``mdr_weight`` is λ of Triplet + MDR.

    Raises:
        StudyError: an unknown method; the message lists those that exist.
    """
    if method not in (*METHODS, BEFORE):
        raise unknown("method", method, METHODS)
    normalization = {"normalization": "l2"} if method == L2 else {}
    return {"mdr_weight": mdr_weight if method == MDR else 0.0} | normalization


def level_reach(config: Config) -> float:
    """Return how far a level can move in a run, in standard deviations of the distance.

    It is the sum of the learning rates: a step of Adam is about one learning rate long at most.
    """
    from mdr_core.training import learning_rate  # here: who names a run need not load the loop

    rates = [learning_rate(config, epoch) for epoch in range(1, config.epochs + 1)]
    return config.iterations * sum(rates)


def levels_stay(config: Config) -> str:
    """Return why a run cannot tell learned levels from fixed ones, nor the paper's, in words."""
    here, paper = level_reach(config), level_reach(PAPER)
    return (
        f"levels that lie 3 standard deviations apart can move by about {here:.2f} here, and by "
        f"{paper:.2f} under the paper's schedule, which does not test it either"
    )

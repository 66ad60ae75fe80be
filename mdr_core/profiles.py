"""The four profiles: what each trains, on which data, for how long.

A notebook opens with ``study = Study(profile=profile, ...)``: a profile with its reader's changes.
"""

import ast
import os
from dataclasses import dataclass, field
from typing import Any

from mdr_core.config import Config
from mdr_core.errors import StudyError, unknown

METHODS = TRIPLET, L2, MDR = ("Triplet", "Triplet + L2", "Triplet + MDR")
TITLES = {"cub200": "CUB-200-2011", "cars196": "Cars-196", "cub50": "CUB-50", "cars50": "Cars-50",
          "sop": "SOP", "inshop": "In-Shop", "omniglot": "Handwriting",
          "small_resnet": "small ResNet", "small_resnet_narrow": "narrow small ResNet",
          "multi_similarity": "multi-similarity"}  # fmt: skip
TITLES |= {f"tf_efficientnet_lite{size}": f"EfficientNet-Lite{size}" for size in range(3)}


@dataclass(frozen=True)
class Setting:
    """How one dataset is trained."""

    config: Config  # of the triplet loss alone
    mdr_weight: float  # λ of Triplet + MDR
    held_out: int = 0  # training classes that choose epochs and settings, where asked for
    few: bool = False  # its Table 1 has the seeds of an ablation


@dataclass(frozen=True)
class Profile:
    """One size of the study."""

    purpose: str
    network: str
    time: str
    settings: dict[str, Setting]  # of each dataset, the one of ablations first
    others: Setting  # of any other dataset
    seeds: int = 5  # of Table 1, from 0
    few: int = 3  # of ablations
    shorter: dict[str, Any] = field(default_factory=dict)  # how ablations train less
    trains: bool = False  # without being asked to, and looks at no committed run


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

PROFILES = {
    "quick": Profile(
        "a check of the code on handwriting (Omniglot), while the paper's claims are about "
        "photographs",
        "a small residual network, 32 px, 400 steps",
        "15 minutes on two CPU cores",
        {"omniglot": Setting(QUICK, 0.2, 24)},  # the letters of one alphabet are held out
        others=Setting(PHOTOS, 0.6), seeds=3, few=2, trains=True,
    ),
    "photos": Profile(
        "CUB-50 and Cars-50, the first 50 classes of CUB-200-2011 and of Cars-196",
        "EfficientNet-Lite0, 96 px, 810 steps; 180 in the ablations of losses, backbones, levels",
        "about 20 hours on two CPU cores",
        # a batch of 80, since 20 classes cannot fill more when five are held out
        {"cub50": Setting(PHOTOS.replace(dataset="cub50", batch_size=80), 0.6, 5),
         "cars50": Setting(PHOTOS.replace(dataset="cars50", batch_size=80), 0.2, 5, few=True)},
        others=Setting(PHOTOS, 0.6), shorter={"epochs": 4},
    ),
    "full": Profile(
        "CUB-200-2011 and Cars-196 whole, the headline", "EfficientNet-Lite0, 224 px, 5,000 steps",
        "165 s a run where two share an H100, 2.5 hours in all (estimated)",
        {"cub200": Setting(FULL, 0.6, 20),
         "cars196": Setting(FULL.replace(dataset="cars196"), 0.2, 20)},
        others=Setting(FULL, 0.6), seeds=3, few=1,
    ),
    "paper": Profile(
        "the paper's own setting, for whoever has the datasets",
        "BN-Inception, 224 px, 10,000 steps", "not run here",
        {"cub200": Setting(PAPER, 0.6, 20),
         "cars196": Setting(PAPER.replace(dataset="cars196"), 0.2, 20),
         "sop": Setting(PRODUCTS.replace(dataset="sop", ks=(1, 10, 100, 1000)), 0.1, 2264),
         "inshop": Setting(PRODUCTS.replace(dataset="inshop", ks=(1, 10, 20, 30, 40)), 0.1, 799)},
        others=Setting(PAPER, 0.6),
    ),
}  # fmt: skip


class Study:
    """A profile with its reader's changes, which a notebook's first cell passes by keyword.

    A value may be text, as papermill delivers it (``"1e-3"``, ``"[0, 1]"``). None, "" and empty
    stand for the profile's own. The notebook shows it: what differs from the profile.

    Args:
        profile: one of PROFILES.
        dataset: one alone, or class folders (``folder:PATH``).
        seeds: one run each.
        changes: fields of Config that all runs set otherwise.
        train: whether missing runs are trained; by default quick trains, and ``STORED=0`` does.
            ``STORED=1`` takes committed runs first, 0 none; by default quick takes none.

    Attributes:
        datasets: those of the pages, the one of ablations first.
        seeds, few: of Table 1, and of ablations.
        choice: what :func:`mdr_core.runs.run.run` takes: which runs are read and trained.
        changed: what differs from the profile, by parameter; empty: our conclusions hold.

    Raises:
        StudyError: a name or value that is not known; the message lists those that are.
    """

    def __init__(self, profile: str, dataset="", seeds=None, changes=None, train=None):
        if profile not in PROFILES:
            raise unknown("profile", profile, PROFILES)
        self.name, self.profile = profile, PROFILES[profile]
        self.changed: dict[str, Any] = {}
        self.datasets = [self.take("dataset", dataset, "")] if dataset else [*self.profile.settings]
        self.seeds = self.take("seeds", seeds, list(range(self.profile.seeds)))
        self.few = self.seeds[: self.profile.few] if not seeds else self.seeds
        self.changes = self.take("changes", changes, {})
        stored, train = os.environ.get("STORED", ""), value_of(train)
        if stored not in ("", "0", "1") or train not in (None, True, False):
            raise StudyError(f"STORED must be 0 or 1, got {stored!r}; train None, True or False")
        trains = self.profile.trains or stored == "0" if train is None else train
        takes = stored == "1" or (stored == "" and not self.profile.trains)
        self.choice = {"committed_too": takes, "missing_too": trains}

    def take(self, name: str, given: Any, own: Any) -> Any:
        """Return a parameter's value, or the profile's ``own`` where none is given; note which.

        ``own`` by profile is a dict with the profiles' names.
        """
        value = value_of(given)
        if isinstance(own, dict) and self.name in own:
            own = own[self.name]
        if value is None or value == "" or value == [] or value == own:
            return own
        kind = list | tuple if isinstance(own, list) else type(own)
        if isinstance(own, list | dict) and not isinstance(value, kind):
            raise StudyError(f"{name} must be a {type(own).__name__}, got {value!r}")
        self.changed[name] = value
        return value

    def config(self, method: str, dataset: str = "", seed: int = 0, **changes: Any) -> Config:
        """Return a run's configuration; ``changes`` are fields of Config, before the reader's.

        ``dataset`` is by default the one of ablations. ``mdr_weight`` acts on Triplet + MDR alone.
        """
        if method not in METHODS:
            raise unknown("method", method, METHODS)
        dataset = dataset or self.datasets[0]
        own = self.profile.settings.get(dataset, self.profile.others)
        values = {"dataset": dataset, "seed": seed, "mdr_weight": own.mdr_weight}
        values |= changes | self.changes
        values |= {"normalization": "l2"} if method == L2 else {}
        values |= {"mdr_weight": 0.0} if method != MDR else {}
        return own.config.replace(**values)

    def seeds_of(self, config: Config) -> list[int]:
        """Return the seeds of a configuration with seed 0: more where it is of Table 1."""
        own = self.profile.settings.get(config.dataset, self.profile.others)
        table_1 = config in [self.config(method, config.dataset) for method in METHODS]
        return self.seeds if table_1 and not own.few else self.few

    def title(self, dataset: str = "") -> str:
        """Return a name for readers, as :func:`title`, by default of the dataset of ablations."""
        return title(dataset or self.datasets[0])

    def held_out(self, dataset: str = "") -> int:
        """Return how many training classes choose epochs and settings on a dataset."""
        return self.profile.settings.get(dataset or self.datasets[0], self.profile.others).held_out

    def _repr_markdown_(self) -> str:
        about = f": {self.profile.purpose}. Network: {self.profile.network}"
        own = f"Profile *{self.name}*{'' if 'dataset' in self.changed else about}."
        changed = ", ".join(f"`{name} = {value!r}`" for name, value in self.changed.items())
        return f"{own} **Run with other parameters:** {changed}." if self.changed else own


def title(dataset: str) -> str:
    """Return the name for readers of a dataset, backbone or loss, or else its own."""
    return TITLES.get(dataset, dataset)


def value_of(given: Any) -> Any:
    """Return a parameter's value, of text what it is in Python, or else the text itself."""
    try:
        return ast.literal_eval(given) if isinstance(given, str) else given
    except (ValueError, SyntaxError):
        return given

"""A run's whole configuration: what is not in it cannot change a run's numbers."""

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Literal

from mdr_core.errors import StudyError, unknown

POSITIVE = ("image_size", "crop", "resize", "dim", "iterations", "batch_size", "images_per_class")
NOT_NEGATIVE = ("epochs", "hold_out", "mdr_weight", "level_weight", "lr", "weight_decay", "seed")
LEAST = dict.fromkeys((*POSITIVE, "ks"), 1) | dict.fromkeys((*NOT_NEGATIVE, "momentum"), 0)
LEAST |= {"lr_drops": 0, "train_images": 2}
BELOW = {"seed": 2**63, "momentum": 1, "lr_drops": 1}


@dataclass(frozen=True)
class Config:
    """A run's settings, by default the paper's (BN-Inception, CUB-200-2011); refused where bad."""

    # The data
    dataset: str = "cub200"  # a name that mdr_core.data.dataset.load_dataset knows
    image_size: int = 256  # images are held at this many pixels square (drawn characters: 32)
    crop: int = 224  # pixels of the crops that the network sees
    resize: int = 256  # a test image is resized to this, then its center is cropped
    flip: bool = True  # mirror training images at random
    augment: bool = True  # random resized crop; without it, the center crop
    hold_out: int = 0  # the last so many training classes are evaluated instead of trained on

    # The network
    backbone: str = "bn_inception"
    weights: str = "imagenet"  # or "random", a path, "classes" (of the run by `pretraining`)
    dim: int = 512  # of the embedding
    normalization: Literal["mean_distance", "l2", "none"] = "mean_distance"
    freeze_batch_norm: bool = True

    # The loss: L_metric + mdr_weight * L_MDR + level_weight * sum of squared levels
    loss: str = "triplet"  # or what mdr_core.losses.make knows, or your own: "module:Class"
    margin: float = 0.2  # of triplet and margin losses, in distances
    beta: float = 1.2  # of the margin loss, on the unit sphere; at mean distance one, 0.85
    mdr_weight: float = 0.0  # lambda: 0.6 on CUB, 0.2 on Cars, 0.1 on SOP, In-Shop; 0 is no MDR
    level_weight: float = 0.01  # nu
    levels: tuple[float, ...] = (-3.0, 0.0, 3.0)  # where the levels start
    learn_levels: bool = True
    momentum: float = 0.9  # of the running mean and standard deviation
    statistics: Literal["released", "pairs"] = "released"  # has zero diagonal; pairs: the paper's

    # The optimization
    batch_size: int = 128
    images_per_class: int = 4
    epochs: int = 100
    iterations: int = 100  # batches in an epoch
    lr: float = 5e-5  # Adam's, for network and levels alike
    weight_decay: float = 1e-5
    decay_levels: bool = True  # the weight decay acts on the levels too, as in the released code
    lr_drops: tuple[float, ...] = (0.4, 0.6, 0.8)  # after these shares of the epochs ...
    lr_factor: float = 0.2  # ... the learning rate is multiplied by this
    seed: int = 0
    loop: str = "study"  # a label of who trained: or "library", pytorch-metric-learning's

    # The evaluation, after every epoch
    ks: tuple[int, ...] = (1, 2, 4, 8)
    train_images: int = 2000  # at most, evenly spread, are evaluated; not in the paper

    # The machine
    device: Literal["cpu", "cuda"] = "cpu"  # cuda: in bfloat16, channels last

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = checked(field.name, field.type, getattr(self, field.name))
            check_range(field.name, value)
            object.__setattr__(self, field.name, value)
        if self.crop > self.resize:
            raise StudyError(f"crop must not exceed resize ({self.resize}), got {self.crop}")

    def replace(self, **changes: typing.Any) -> "Config":
        """Return a copy with some fields changed; an unknown name is refused."""
        return from_dict(self.to_dict() | changes)

    def to_dict(self) -> dict[str, typing.Any]:
        return dataclasses.asdict(self)


def from_dict(values: dict[str, typing.Any]) -> Config:
    """Return a Config of plain values, as JSON holds them; an unknown name is an error."""
    known = [field.name for field in dataclasses.fields(Config)]
    if unknown_names := [name for name in values if name not in known]:
        raise StudyError(f"unknown parameter {unknown_names[0]!r}: choose among {', '.join(known)}")
    return Config(**values)


def checked(name: str, kind: typing.Any, value: typing.Any) -> typing.Any:
    """Return ``value`` as ``kind``: integers pass as floats, lists as tuples, nothing else."""
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise unknown(name, value, typing.get_args(kind))
        return value
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple) or (not value and name != "lr_drops"):
            raise StudyError(f"{name} must be a list of at least one number, got {value!r}")
        return tuple(checked(name, typing.get_args(kind)[0], item) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise StudyError(f"{name} must be of type {kind.__name__}, got {value!r}")
    if kind is float and not math.isfinite(value):
        raise StudyError(f"{name} must be finite, got {value}")
    return value


def check_range(name: str, value: typing.Any) -> None:
    """Refuse a value, or one of a list, that is out of its setting's range."""
    for item in value if isinstance(value, tuple) else (value,):
        if name in LEAST and item < LEAST[name]:
            raise StudyError(f"{name} must be at least {LEAST[name]}, got {item}")
        if name in BELOW and item >= BELOW[name]:
            raise StudyError(f"{name} must be less than {BELOW[name]}, got {item}")


PRETRAINING = Config(  # what weights="classes" starts from: a run on other drawn characters
    dataset="drawn_pretraining", image_size=32, crop=32, resize=32, augment=False, flip=False,
    backbone="small_resnet", weights="random", dim=150, normalization="none",
    freeze_batch_norm=False, loss="classification", batch_size=120, epochs=12, iterations=60,
    lr=3e-3, lr_drops=(0.6, 0.8), train_images=600,
)  # fmt: skip


def pretraining(config: Config) -> Config:
    """Return the run whose backbone a run with ``weights="classes"`` starts from."""
    return PRETRAINING.replace(backbone=config.backbone)

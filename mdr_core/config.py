"""A run's whole configuration: what is not in it cannot change a run's numbers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from mdr_core.errors import StudyError, unknown

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Real = Annotated[float, Field(allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Config(BaseModel, frozen=True, extra="forbid"):
    """A run's settings, by default the paper's (BN-Inception, CUB-200-2011).

    A value may be text (``"1e-3"``). StudyError: an unknown name, or a value out of range.
    """

    # The data
    dataset: str = "cub200"  # a name that mdr_core.data.dataset.load_dataset knows
    image_size: Positive = 256  # images are held at this many pixels square (drawn characters: 32)
    crop: Positive = 224  # pixels of the crops that the network sees
    resize: Positive = 256  # a test image is resized to this, then its center is cropped
    flip: bool = True  # mirror training images at random
    augment: bool = True  # random resized crop; without it, the center crop
    affine: NotNegative = 0.0  # strength of random shifts, turns and shears of training images
    hold_out: Count = 0  # the last so many training classes are evaluated instead of trained on

    # The network
    backbone: str = "bn_inception"
    weights: str = "imagenet"  # or "random", a path, "characters" (of small networks)
    dim: Positive = 512  # of the embedding
    normalization: Literal["mean_distance", "l2", "none"] = "mean_distance"
    freeze_batch_norm: bool = True

    # The loss: L_metric + mdr_weight * L_MDR + level_weight * sum of squared levels
    loss: str = "triplet"  # or what mdr_core.losses.make knows, or your own: "module:Class"
    margin: Real = 0.2  # of triplet and margin losses, in distances
    beta: Real = 1.2  # of the margin loss, on the unit sphere; at mean distance one, 0.85
    mdr_weight: NotNegative = 0.0  # lambda: 0.6 on CUB, 0.2 on Cars; 0 is no MDR
    level_weight: NotNegative = 0.01  # nu
    levels: tuple[Real, ...] = Field((-3.0, 0.0, 3.0), min_length=1)  # where the levels start
    learn_levels: bool = True
    momentum: Share = 0.9  # of the running mean and standard deviation
    statistics: Literal["released", "pairs"] = "released"  # has zero diagonal; pairs: the paper's

    # The optimization
    batch_size: Positive = 128
    images_per_class: Positive = 4
    epochs: Count = 100
    iterations: Positive = 100  # batches in an epoch
    lr: NotNegative = 5e-5  # Adam's, for network and levels alike
    weight_decay: NotNegative = 1e-5
    decay_levels: bool = True  # the weight decay acts on the levels too, as in the released code
    lr_drops: tuple[Share, ...] = (0.4, 0.6, 0.8)  # after these shares of the epochs ...
    lr_factor: Real = 0.2  # ... the learning rate is multiplied by this
    seed: int = Field(0, ge=0, lt=2**63)
    loop: str = "study"  # a label of who trained: or "library", pytorch-metric-learning's

    # The evaluation, after every epoch
    ks: tuple[Positive, ...] = Field((1, 2, 4, 8), min_length=1)
    train_images: int = Field(2000, ge=2)  # at most, evenly spread, are evaluated; not in the paper

    # The machine
    device: Literal["cpu", "cuda"] = "cpu"  # cuda: in bfloat16, channels last

    def __init__(self, **values: Any):
        try:
            super().__init__(**values)
        except ValidationError as problem:
            first = problem.errors()[0]
            name, why = first["loc"][0], first["msg"].lower()
            if name not in Config.model_fields:
                raise unknown("parameter", name, Config.model_fields) from None
            raise StudyError(f"{name}: {why}, got {first['input']!r}") from None
        if self.crop > self.resize:
            raise StudyError(f"crop must not exceed resize ({self.resize}), got {self.crop}")

    def replace(self, **changes: Any) -> "Config":
        """Return a copy with some fields changed."""
        return Config(**self.model_dump() | changes)

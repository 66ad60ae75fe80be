"""Crops against Pillow's and torchvision's; configurations and profiles."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from mdr_core import config, training
from mdr_core.data import augmentation
from mdr_core.data.catalog import KNOWN
from mdr_core.errors import StudyError
from mdr_core.profiles import L2, MDR, METHODS, PROFILES, QUICK, TRIPLET, Study
from mdr_core.runs import committed

LANCZOS = Image.Resampling.LANCZOS


def test_crops_equal_pil_lanczos_within_a_grey_level():
    small = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    image = Image.fromarray(small).resize((128, 128), Image.Resampling.BICUBIC)
    tensor = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None]
    middle = augmentation.center_crop(tensor, 110, 96)
    one = lambda v: torch.tensor([float(v)])  # noqa: E731
    rows = augmentation.resample_matrix(one(20), one(67), one(20), one(87), 128, 96)
    columns = augmentation.resample_matrix(one(10), one(90), one(10), one(100), 128, 96)
    box = augmentation.resample(tensor.float(), rows, columns).round()
    for found, expected in (
        (middle, image.resize((110, 110), LANCZOS).crop((7, 7, 103, 103))),
        (box, image.crop((10, 20, 100, 87)).resize((96, 96), LANCZOS)),
    ):
        off = found[0].permute(1, 2, 0).numpy() - np.asarray(expected).astype(int)
        assert np.abs(off).max() <= 1


def test_images_are_shifted_turned_and_sheared_on_white_paper():
    images = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
    images[:, :, 10:20, 12:15] = 0
    one, same, still = (
        augmentation.random_affine(images, strength, torch.Generator().manual_seed(0))
        for strength in (0.1, 0.1, 0.0)
    )
    assert torch.equal(one, same) and not torch.equal(one[0], one[1])
    assert torch.allclose(still, images.float(), atol=0.1)
    ink = (255 - one).sum(dim=(1, 2, 3)) / (255.0 * 3 * 30)
    assert (ink > 0.5).all() and (ink < 2).all()
    assert (one[:, :, :3] > 254).all() and (one[:, :, -3:] > 254).all()


def test_boxes_are_distributed_as_torchvisions():
    ours = torch.stack(augmentation.random_boxes(4000, 128, torch.Generator().manual_seed(0)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        asked = torch.zeros(3, 128, 128), (0.16, 1.0), (0.75, 1.33)
        boxes = [RandomResizedCrop.get_params(*asked) for _ in range(4000)]
    theirs = torch.tensor(boxes).T.float()
    assert (ours.mean(dim=1) - theirs.mean(dim=1)).abs().max() < 2.5
    assert (ours.std(dim=1) - theirs.std(dim=1)).abs().max() < 2.0
    assert (ours[0] + ours[2] <= 128).all() and (ours[1] + ours[3] <= 128).all()


@pytest.mark.parametrize(
    "values, line",
    [
        ({"learning_rate": 1}, "unknown parameter 'learning_rate': choose one of affine"),
        ({"epochs": 1.5}, "epochs: .*valid integer.*got 1.5"),
        ({"crop": 300}, "must not exceed resize"),
        ({"lr": float("nan")}, "lr: .*finite"),
        ({"levels": []}, "levels: .*at least 1 item"),
        ({"momentum": 1.5}, "momentum: .*less than 1, got 1.5"),
        ({"device": "gpu"}, "device: .*'cpu' or 'cuda', got 'gpu'"),
        ({"seed": 2**70}, "seed: .*less than"),
        ({"train_images": 1}, "train_images: .*greater than or equal to 2"),
    ],
)
def test_a_configuration_is_strict(values, line):
    with pytest.raises(StudyError, match=line):
        config.Config(**values)


@pytest.mark.parametrize("decay, expected", [(True, 0.5), (False, 0.0)])
def test_levels_share_the_weight_decay_as_released_or_are_spared_it(decay, expected):
    settings = QUICK.replace(weights="random", weight_decay=0.5, decay_levels=decay)
    assert training.start(settings).optimizer.param_groups[1]["weight_decay"] == expected


def test_quick_trains_with_the_best_of_equally_many_tries_of_each_method():
    """By Recall@1 on held-out classes after the last epoch; of equals the one of the best epoch."""
    path = committed.REPORTS / "quick" / "runs.csv"
    every = [committed.from_rows(rows, path.parent) for rows in committed.table(path, 0).values()]
    study, found = Study("quick"), {method: [] for method in METHODS}
    for record in every:
        c = config.Config(**record["config"])
        if c.hold_out == study.held_out() and c.seed == 0:
            recalls = [row["held_out_recall@1"] for row in record["history"]]
            method = MDR if c.mdr_weight else L2 if c.normalization == "l2" else TRIPLET
            found[method].append((recalls[-1], max(recalls), c))
    for method, tried in found.items():
        assert len(tried) == 8
        assert max(tried, key=lambda t: t[:2])[2] == study.config(method, hold_out=24)


@pytest.mark.parametrize(
    "profile, name", [(p, d) for p in ("photos", "paper") for d in PROFILES[p].settings]
)
def test_a_held_out_run_has_classes_enough_to_fill_its_batch(profile, name):
    study = Study(profile)
    settings = study.config(TRIPLET, name, hold_out=study.held_out(name))
    classes = KNOWN[name].classes // 2 - settings.hold_out
    assert classes * settings.images_per_class >= settings.batch_size

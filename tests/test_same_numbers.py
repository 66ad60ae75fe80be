"""The code trains to the figures that were recorded when its present numbers were first stored.

A version of the code named in ``runs.SAME_NUMBERS`` shares an earlier version's runs: what this test compares must then
have been recorded by that earlier one. ``python -m tests.test_same_numbers`` records anew, where numbers are meant to change.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mdr_core import data, evaluation, profiles, training

RECORDED = Path(__file__).parent / "recorded" / "numbers.json"
SHORT = profiles.QUICK.replace(weights="random", epochs=1, iterations=3, lr=1e-4, train_images=100)
PHOTO = SHORT.replace(backbone="resnet18", freeze_batch_norm=True, augment=True, flip=True, batch_size=16)
CASES = {
    "triplet": SHORT,
    "l2": SHORT.replace(normalization="l2"),
    "mdr": SHORT.replace(mdr_weight=0.6),
    "mdr over pairs, held out": SHORT.replace(mdr_weight=0.2, statistics="pairs", learn_levels=False, hold_out=5),
    "contrastive with mdr": SHORT.replace(loss="contrastive", mdr_weight=0.2),
    "frozen batch norm, augmented": PHOTO.replace(mdr_weight=0.6),
}


def figures(name: str) -> list[dict]:
    """The history of a case on a fifth of the drawn classes: all that is a smooth function of the weights, and Recall@1."""
    images = data.load("drawn")
    images = replace(images, train=images.train.of_classes(range(20)), test=images.test.of_classes(range(10)))
    history = training.train(CASES[name], images, training.start(CASES[name])).history
    smooth = ("loss", "metric_loss", "mdr_loss", "running_mean", "running_std", "pair_mean", "pair_std", "positive_mean",
              "negative_mean", "centres_between", "centres_within", "test_recall@1", "lr")
    return [{k: v for k, v in row.items() if k in smooth or k.startswith("level_") and k != "level_share"} for row in history]


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_recorded(name):
    recorded = json.loads(RECORDED.read_text())[name]
    for found, expected in zip(figures(name), recorded, strict=True):
        for key, value in expected.items():  # another processor rounds otherwise, and a neighbour may change places
            tolerance = {"abs": 2.0} if "recall" in key else {"rel": 1e-3, "abs": 1e-6}
            assert found[key] == pytest.approx(value, **tolerance), key


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_images_sent_from_the_host_train_as_those_kept_on_the_gpu(monkeypatch):
    """As a dataset does that the GPU has no room for."""
    config, images, losses = PHOTO.replace(mdr_weight=0.6, device="cuda"), data.load("drawn"), []
    for room in (0.4, 0.0):
        monkeypatch.setattr(evaluation, "ROOM", room)
        losses.append(training.train(config, images, training.start(config)).history[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


if __name__ == "__main__":
    RECORDED.write_text(json.dumps({name: figures(name) for name in CASES}, indent=1))

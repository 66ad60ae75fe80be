"""The code trains to the recorded numbers, on a GPU wherever its images are kept."""

import pytest
import torch

from mdr_core import training
from mdr_core.data.dataset import load_dataset
from mdr_core.evaluation import epoch
from tests.same_numbers import CASES, PHOTO, unequal


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.long) if n == "EfficientNet-Lite0, L2" else n
        for n in CASES
    ],
)
def test_the_numbers_are_those_recorded(name):
    assert not unequal(name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_images_sent_from_the_host_train_as_those_kept_on_the_gpu(monkeypatch):
    """As a dataset does that the GPU has no room for."""
    config, images, losses = PHOTO.replace(mdr_weight=0.6, device="cuda"), load_dataset("drawn"), []
    for room in (0.4, 0.0):
        monkeypatch.setattr(epoch, "ROOM", room)
        losses.append(training.train(config, images, training.start(config)).history[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)

"""The embedded handwriting: alphabets apart, one of them held out, dark ink on white paper."""

import numpy as np
import pytest

from mdr_core.data import drawn_characters, omniglot
from mdr_core.data.dataset import load_dataset
from mdr_core.profiles import Study


@pytest.fixture(scope="module")
def handwriting():
    return load_dataset("omniglot", 32)


def alphabets(split):
    return {name.split(", character ")[0] for name in split.class_names}


def test_no_alphabet_is_in_both_splits(handwriting):
    train, test = handwriting.train, handwriting.test
    assert alphabets(train) == {*omniglot.TRAIN} and alphabets(test) == {*omniglot.TEST}
    for split, classes in ((train, 117), (test, 125)):
        assert split.labels.bincount().tolist() == [20] * classes


def test_the_classes_held_out_are_one_alphabet(handwriting):
    held_out = Study("quick").held_out("omniglot")
    left = handwriting.hold_out(held_out)
    assert alphabets(left.test) == {"Greek"} and "Greek" not in alphabets(left.train)


def test_images_are_the_drawings_made_small(handwriting):
    """The mean gray of each image is the paper's share of its drawing."""
    with np.load(omniglot.FILE) as content:
        ink = np.unpackbits(content["ink"], axis=1, count=105**2).mean(axis=1)
        greek = content["alphabet"][content["label"]] == "Greek"
    held_out = handwriting.hold_out(24).test.images
    assert held_out.shape == (480, 3, 32, 32)
    gray = held_out.double().mean(dim=(2, 3))
    assert (gray[:, :1] == gray).all()
    assert gray[:, 0].numpy() == pytest.approx(255 * (1 - ink[greek]), abs=1.5)
    whole = handwriting.test.images[:, 0]
    assert 0.05 < (whole < 128).double().mean() < 0.12
    assert (whole[:, [0, -1]] > 250).double().mean() > 0.95  # at the upper and lower edge


def test_characters_to_pretrain_on_are_drawn_as_their_version_says():
    """By the mean gray of some images, and of their upper left quarter; on any processor."""
    images = drawn_characters.draw("test")[0][:601:300].numpy().astype(float)
    means = [part.mean(axis=(1, 2, 3)) for part in (images, images[:, :, :16, :16])]
    recorded = {1: [[165.9, 190.53, 196.3], [168.37, 201.25, 195.4]]}[drawn_characters.DRAWING]
    assert np.array(means) == pytest.approx(np.array(recorded), abs=0.05)

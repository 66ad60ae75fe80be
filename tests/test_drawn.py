"""Characters to pretrain on: drawn from a seed, disjoint classes, families that look alike."""

import numpy as np
import torch

from mdr_core.data import drawn_characters
from mdr_core.data.dataset import Split, load_dataset


def test_the_same_seed_draws_the_same_bytes_and_another_does_not():
    for split in drawn_characters.IMAGES:
        images, labels, *_ = drawn_characters.draw(split)
        assert images.dtype == torch.uint8 and images.shape == (len(labels), 3, 32, 32)
        assert torch.equal(images, drawn_characters.draw(split)[0])
        assert not torch.equal(images, drawn_characters.draw(split, seed=1)[0])


def test_the_dataset_has_three_disjoint_parts():
    dataset, pretrain = load_dataset("drawn"), Split(*drawn_characters.draw("pretrain"))
    names = set()
    for split, each in ((pretrain, 20), (dataset.train, 10), (dataset.test, 20)):
        classes = len(split.class_names)
        assert torch.bincount(split.labels).tolist() == [each] * classes
        assert split.images.shape == (classes * each, 3, 32, 32)
        assert split.images.is_contiguous(memory_format=torch.channels_last)
        assert classes == (150 if split is pretrain else 75)
        assert not names & set(split.class_names)
        names |= set(split.class_names)
    family = lambda split: {name.split(",")[0] for name in split.class_names}  # noqa: E731
    assert not family(pretrain) & family(dataset.test)


def test_classes_of_a_family_look_more_alike_than_others():
    images, labels, names, _ = drawn_characters.draw("pretrain")
    images, labels = images.numpy(), labels.numpy()
    families = np.array([name.split(",")[0] for name in names])
    grey = images.astype(float).mean(axis=1)
    grey = (grey - grey.mean(axis=(1, 2), keepdims=True)) / grey.std(axis=(1, 2), keepdims=True)
    means = np.stack([grey[labels == c].mean(axis=0).ravel() for c in range(len(families))])
    alike = np.corrcoef(means)
    kin = families[:, None] == families
    np.fill_diagonal(kin, False)
    assert alike[kin].mean() > alike[families[:, None] != families].mean() + 0.2

"""The recorded distances and gradients against naive loops and against autograd."""

import numpy as np
import pytest
import torch

from mdr_core.config import Config
from mdr_core.data.dataset import Split
from mdr_core.evaluation import epoch
from mdr_core.losses import triplet_loss, triplets
from mdr_core.regularizer import normalize_by_mean_distance, pairwise_distances

LABELS = torch.arange(24) // 4


def embeddings(seed=0):
    return torch.randn(24, 6, generator=torch.Generator().manual_seed(seed)) + LABELS[:, None] * 0.3


def test_means_count_every_pair_once():
    row = epoch.batch_statistics(Config(), embeddings(), LABELS)
    x = normalize_by_mean_distance(embeddings())
    d = pairwise_distances(x)
    pairs = [(i, j) for i in range(24) for j in range(i)]
    assert row["pair_mean"] == pytest.approx(np.mean([d[i, j].item() for i, j in pairs]), rel=1e-5)
    same = [d[i, j].item() for i, j in pairs if LABELS[i] == LABELS[j]]
    assert row["positive_mean"] == pytest.approx(np.mean(same), rel=1e-5)


def test_the_triplet_gradient_is_autograds(monkeypatch):
    """|dL/dd| by the formula against autograd on the loss as a function of the distances."""
    monkeypatch.setattr(epoch, "DRAWS", 1)
    x = normalize_by_mean_distance(embeddings())
    d = pairwise_distances(x).requires_grad_()
    (a, p, n), exists = triplets(x, LABELS, torch.Generator().manual_seed(0))
    loss = (torch.relu(d[a, p] - d[a, n] + 0.2) * exists).sum() / exists.sum()
    loss.backward()
    found = epoch.triplet_gradient(x, d.detach(), LABELS, 0.2)
    assert torch.allclose(found, d.grad.abs(), atol=1e-6)
    ours = triplet_loss(x, torch.stack([a, p, n]), exists).item()
    assert loss.item() == pytest.approx(ours, rel=1e-4)


@pytest.mark.parametrize("each, wanted, classes", [(10, 70, 20), (2, 20, 10)])
def test_of_the_training_images_that_are_judged_each_can_find_another(each, wanted, classes):
    labels = torch.arange(200 // each).repeat_interleave(each)
    split = Split(torch.zeros(200, 3, 1, 1), labels, ("",) * len(labels.unique()), ("",) * 200)
    part = epoch.training_sample(split, Config(train_images=wanted))
    counts = part.labels.bincount()
    assert len(part.labels) <= 70 and int(counts[counts > 0].min()) >= 2
    assert len(part.labels.unique()) == classes

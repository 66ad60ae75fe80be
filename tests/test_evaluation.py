"""What an epoch's end records, against naive loops."""

import numpy as np
import pytest
import torch

from mdr_core.config import Config
from mdr_core.evaluation import epoch, retrieval
from mdr_core.evaluation.retrieval import RetrievalSet
from tests.test_retrieval import rankings


def embedded(seed=0, classes=6, each=(5, 9), dim=4):
    """(N, D) float32 and (N,) labels, in mixed order; an image has a duplicate in another class."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(*each, (classes,), generator=generator)
    labels = torch.arange(classes).repeat_interleave(counts)
    noise = 0.8 * torch.randn(len(labels), dim, generator=generator)
    x = torch.randn(classes, dim, generator=generator)[labels] + noise
    x[int(counts[0])] = x[0]
    order = torch.randperm(len(labels), generator=generator)
    return x[order], labels[order]


def test_findings_are_what_a_loop_finds():
    x, labels = embedded()
    found = epoch.findings(RetrievalSet(x, labels))
    for i, order in enumerate(rankings(x.numpy())):
        assert found["nearest"][i].tolist() == order[: epoch.NEIGHBORS].tolist()
    middle = x[labels == 2].mean(dim=0).tolist()
    assert found["centers"][2].tolist() == pytest.approx(middle, rel=1e-2, abs=1e-3)
    assert found["labels"].tolist() == labels.tolist()
    few = epoch.findings(RetrievalSet(x[:4], torch.tensor([0, 0, 1, 1]), *embedded(1)))
    assert few["nearest"].shape == (4, epoch.NEIGHBORS) and few["centers"].shape == (2, 4)


def test_the_numbers_by_class_add_up_to_those_of_all_queries():
    x, labels = embedded()
    found = retrieval.evaluate(RetrievalSet(x, labels))
    recall = retrieval.recall(found.ranks, [1])[1]
    row = epoch.by_class(labels, found, "_l2")
    queries = np.array(row["test_class_queries"])
    assert queries.tolist() == labels.bincount().tolist()
    assert 100 * sum(row["test_class_right_l2"]) / queries.sum() == pytest.approx(recall)
    precision = 100 * sum(row["test_class_ap_at_r_l2"]) / queries.sum()
    assert precision == pytest.approx(found.map_at_r, rel=1e-4)
    own = [bool(labels[order[0]] == labels[i]) for i, order in enumerate(rankings(x.numpy()))]
    assert row["test_class_right_l2"][3] == sum(np.array(own)[labels == 3])


def test_histograms_of_positive_and_negative_pairs_are_apart():
    x, labels = embedded()
    row = epoch.batch_statistics(Config(normalization="none"), x, labels)
    d, (i, j) = torch.pdist(x), torch.combinations(torch.arange(len(x))).T
    same, most = labels[i] == labels[j], epoch.FARTHEST
    edges = np.linspace(0, most, epoch.BINS + 1)
    for name, chosen in (("positive", same), ("negative", ~same)):
        counts = row[f"{name}_histogram"]
        expected = np.histogram((d[chosen] / d.mean()).clamp(max=most).numpy(), edges)[0]
        off = np.abs(np.cumsum(counts) - np.cumsum(expected)).max()
        assert off <= 1 and sum(counts) == int(chosen.sum())  # at an edge, by rounding


def test_labels_that_do_not_fit_are_refused_and_a_k_beyond_the_gallery_counts_all_of_it(
    monkeypatch,
):
    monkeypatch.setattr(epoch, "embed", lambda model, images: images)
    right = RetrievalSet(*embedded())
    wrong = right._replace(labels=right.labels[:1])  # would be broadcast
    names = ("test", "train", "batch")
    for name in names:
        with pytest.raises(ValueError, match="give embeddings"):
            epoch.evaluate(Config(), None, dict.fromkeys(names, right) | {name: wrong})
    row = epoch.evaluate(Config(ks=(1, 1000)), None, dict.fromkeys(names, right))
    assert row["test_recall@1000"] == row["train_recall@1000_l2"] == 100 > row["test_recall@1"]

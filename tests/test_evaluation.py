"""What an epoch's end records, against naive loops."""

import numpy as np
import pytest
import torch

from mdr_core import training
from mdr_core.config import Config
from mdr_core.evaluation import class_centers, epoch, pair_statistics, retrieval
from mdr_core.evaluation.retrieval import RetrievalSet
from mdr_core.regularizer import MDR


def embedded(seed=0, classes=6, each=(5, 9), dim=4):
    """(N, D) float32 and (N,) labels, in mixed order; an image has a duplicate in another class."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(*each, (classes,), generator=generator)
    labels = torch.arange(classes).repeat_interleave(counts)
    x = torch.randn(classes, dim, generator=generator)[labels] + 0.8 * torch.randn(
        len(labels), dim, generator=generator
    )
    x[labels == 1] = torch.where(
        torch.arange(int(counts[1]))[:, None] == 0, x[labels == 0][0], x[labels == 1]
    )
    order = torch.randperm(len(labels), generator=generator)
    return x[order], labels[order]


def ranked(x, labels, i, gallery=None, gallery_labels=None):
    """The gallery's labels by distance to a query, ties by index; its own image left out."""
    others = x if gallery is None else gallery
    own = labels if gallery is None else gallery_labels
    found = sorted(
        (float((others[j] - x[i]).double().norm()), j)
        for j in range(len(others))
        if gallery is not None or j != i
    )
    return [int(own[j]) for _, j in found], found


def test_findings_are_what_a_loop_finds():
    x, labels = embedded()
    found = epoch.findings(RetrievalSet(x, labels))
    for i in range(len(x)):
        order = ranked(x, labels, i)[1][: epoch.NEIGHBORS]
        assert found["nearest"][i].tolist() == [j for _, j in order]
        assert found["distances"][i].tolist() == pytest.approx(
            [d for d, _ in order], rel=2e-3, abs=1e-3
        )
    assert found["centers"][2].tolist() == pytest.approx(
        x[labels == 2].mean(dim=0).tolist(), rel=1e-2, abs=1e-3
    )
    assert found["labels"].tolist() == labels.tolist()
    kinds = {name: tensor.dtype for name, tensor in found.items()}
    assert kinds == {
        "centers": torch.float16,
        "distances": torch.float16,
        "nearest": torch.int32,
        "first_right": torch.int32,
        "labels": torch.int32,
    }
    few = epoch.findings(RetrievalSet(x[:4], torch.tensor([0, 0, 1, 1]), *embedded(1)))
    assert few["nearest"].shape == (4, epoch.NEIGHBORS) and few["centers"].shape == (2, 4)


def test_the_numbers_by_class_add_up_to_those_of_all_queries():
    x, labels = embedded()
    found = retrieval.evaluate(RetrievalSet(x, labels), [1])
    row = epoch.by_class(labels, found, "_l2")
    queries = np.array(row["test_class_queries"])
    assert queries.tolist() == labels.bincount().tolist()
    assert 100 * sum(row["test_class_right_l2"]) / queries.sum() == pytest.approx(found.recall[1])
    assert 100 * sum(row["test_class_ap_at_r_l2"]) / queries.sum() == pytest.approx(
        found.map_at_r, rel=1e-4
    )
    right = [ranked(x, labels, i)[0][0] == int(labels[i]) for i in range(len(x))]
    assert row["test_class_right_l2"][3] == sum(
        r for r, c in zip(right, labels.tolist(), strict=True) if c == 3
    )


def test_a_class_gives_as_many_images_as_asked_spread_evenly():
    labels = torch.tensor([0] * 9 + [1] * 2 + [2] * 4)[
        torch.randperm(15, generator=torch.Generator().manual_seed(0))
    ]
    kept = epoch.evenly(labels, 3)
    assert labels[kept].bincount().tolist() == [3, 2, 3] and kept.tolist() == sorted(kept.tolist())
    own = (labels == 0).nonzero().flatten().tolist()
    assert [own.index(i) for i in kept.tolist() if labels[i] == 0] == [2, 5, 8]
    assert epoch.evenly(labels, 99).tolist() == list(range(15))


def test_a_matched_gallery_has_as_many_images_of_a_class_as_the_training_gallery():
    x, labels = embedded(each=(8, 12))
    some = epoch.evenly(labels, 4)
    expected = retrieval.recall_at_k(x[some].numpy(), labels[some].numpy(), [1])[1]
    assert epoch.matched_recall(RetrievalSet(x, labels), 4) == expected
    assert expected != retrieval.recall_at_k(x.numpy(), labels.numpy(), [1])[1]
    gallery, of_gallery = embedded(1, each=(8, 12))
    some = epoch.evenly(of_gallery, 3)  # the fourth is the query itself
    expected = retrieval.recall_at_k(
        x.numpy(), labels.numpy(), [1], gallery[some].numpy(), of_gallery[some].numpy()
    )[1]
    assert epoch.matched_recall(RetrievalSet(x, labels, gallery, of_gallery), 4) == expected


def test_histograms_of_positive_and_negative_pairs_are_apart():
    x, labels = embedded()
    row = pair_statistics.batch_statistics(x, labels, MDR(), "none", None)
    d = torch.pdist(x)
    same = torch.stack(
        [labels[i] == labels[j] for i in range(len(x)) for j in range(i + 1, len(x))]
    )
    edges = np.linspace(0, pair_statistics.FARTHEST, pair_statistics.DISTANCE_BINS + 1)
    for name, chosen in (("positive", same), ("negative", ~same)):
        expected = np.histogram(
            (d[chosen] / d.mean()).clamp(max=pair_statistics.FARTHEST).numpy(), edges
        )[0]
        assert (
            np.abs(np.cumsum(row[f"{name}_histogram"]) - np.cumsum(expected)).max() <= 1
        )  # at an edge, by rounding
        assert sum(row[f"{name}_histogram"]) == int(chosen.sum())


def test_distances_within_a_class_are_those_of_its_pairs(monkeypatch):
    x, labels = embedded()
    found = class_centers.within_class_distances(x, labels)
    d = torch.pdist(x[labels == 4])
    assert found["distance"][4] == pytest.approx(d.mean().item(), rel=1e-4) and found["square"][
        4
    ] == pytest.approx(d.square().mean().item(), rel=1e-4)
    assert class_centers.within_class_distances(x[:1], torch.tensor([0])) == {
        "distance": [None],
        "square": [None],
    }
    monkeypatch.setattr(class_centers, "MOST_CLASSES", 3)
    assert class_centers.within_class_distances(x, labels)["distance"] == found["distance"][::2]


@pytest.mark.parametrize("classes, kept", [(200, [0, 1, 2, 3]), (201, [2, 3])])
def test_the_numbers_of_many_classes_stay_in_the_last_and_the_best_epoch(classes, kept):
    history = []
    for e, value in enumerate((99.0, 50.0, 70.0, 60.0)):  # epoch 0 is before any training
        row = {"epoch": e, "test_recall@1": value, "test_class_queries": [1] * classes}
        history = training.with_by_class([*history, row]) if e else [row]
    assert [row["epoch"] for row in history if "test_class_queries" in row] == kept
    assert [row["test_recall@1"] for row in history] == [99.0, 50.0, 70.0, 60.0]


def test_labels_that_do_not_fit_their_embeddings_are_refused_before_an_epoch_is_recorded():
    right = RetrievalSet(*embedded())
    wrong = right._replace(labels=right.labels[:1])  # would be broadcast
    for name in ("test", "train", "batch"):
        of_epoch = dict.fromkeys(("test", "train", "batch"), right) | {name: wrong}
        with pytest.raises(ValueError, match="one for each"):
            epoch.epoch_row(Config(), MDR(), of_epoch)

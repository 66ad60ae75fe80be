"""What an epoch's end records, against naive loops."""

import numpy as np
import pytest
import torch

from mdr_core import training
from mdr_core.config import Config
from mdr_core.evaluation import class_centers, epoch, pair_statistics, ranks, retrieval
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


def test_the_rank_of_the_first_right_image_is_the_loop_s():
    x, labels = embedded()
    for gallery in ((None, None), embedded(1)):
        expected = []
        for i in range(len(x)):
            order, _ = ranked(x, labels, i, *gallery)
            expected.append(order.index(int(labels[i])) + 1 if int(labels[i]) in order else 0)
        assert ranks.first_ranks(x, labels, *gallery).tolist() == expected
    alone = torch.cat([labels, torch.tensor([9])])
    assert ranks.first_ranks(torch.cat([x, x[:1]]), alone)[-1] == 0  # its class has no other image


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
    found = retrieval.evaluate(RetrievalSet(x, labels), [1], retrieval.Index(x))
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


def test_the_numbers_by_class_stay_in_the_last_and_the_best_epoch():
    history = [
        {"epoch": e, "test_recall@1": v, "test_class_right": [e]}
        for e, v in enumerate((99.0, 50.0, 70.0, 60.0))
    ]
    kept = []
    for row in history:  # as the epochs come; epoch 0 is before any training
        kept = training.with_by_class([*kept, row]) if row["epoch"] else [row]
    assert [("test_class_right" in row) for row in kept] == [False, False, True, True]
    assert [row["test_recall@1"] for row in kept] == [99.0, 50.0, 70.0, 60.0]


def wrong_sets():
    """Embeddings with labels that do not fit, and what is said of them."""
    x, labels = embedded()
    n = len(x)
    one_hot = torch.nn.functional.one_hot(labels)
    lengths = "must be embeddings .N, D. with labels .N,."
    yield lengths, RetrievalSet(x, labels[:-1])
    yield lengths, RetrievalSet(x, torch.cat([labels, labels]))
    yield lengths, RetrievalSet(x, one_hot)
    yield lengths, RetrievalSet(x, labels[:, None])
    yield lengths, RetrievalSet(x, labels[:1])  # would be broadcast
    yield lengths, RetrievalSet(x, labels[0])
    yield lengths, RetrievalSet(x[:, 0], labels)
    yield "gallery must be", RetrievalSet(x, labels, x, one_hot)
    yield "gallery must be", RetrievalSet(x, labels, x, labels[:1])
    yield "4 dimensions and the gallery 3", RetrievalSet(x, labels, x[:, :3], labels)
    yield "together, or neither", RetrievalSet(x, labels, x)
    nothing = "no query has another image of its class"
    yield nothing, RetrievalSet(x, torch.arange(n))
    yield nothing, RetrievalSet(x[:1], labels[:1])
    yield nothing, RetrievalSet(x[:0], labels[:0])
    yield nothing, RetrievalSet(x, labels, x, labels + 100)


@pytest.mark.parametrize("line, images", wrong_sets())
def test_labels_that_do_not_fit_their_embeddings_are_refused(line, images):
    with pytest.raises(ValueError, match=line):
        retrieval.recall_at_k(images.query, images.labels, [1], *images[2:])
    numpy = [None if part is None else part.numpy() for part in images]
    with pytest.raises(ValueError, match=line):
        retrieval.recall_at_k(*numpy[:2], [1], *numpy[2:])
    with pytest.raises(ValueError, match=line):
        retrieval.evaluate(images, [1], retrieval.Index(np.ones((2, 2))))
    right = RetrievalSet(*embedded())
    for name in ("test", "train", "batch"):
        of_epoch = dict.fromkeys(("test", "train", "batch"), right) | {name: images}
        with pytest.raises(ValueError, match=line):
            epoch.epoch_row(Config(), MDR(), of_epoch)


def test_a_k_below_one_is_refused():
    for ks in ([0], [1, -1], []):
        with pytest.raises(ValueError, match="ks must hold numbers of at least 1"):
            retrieval.recall_at_k(*embedded(), ks)

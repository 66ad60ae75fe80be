"""Distances of class centers against naive loops; the maps of centers."""

from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from mdr_core.evaluation import class_centers
from mdr_core.report import plots
from mdr_core.report.plots import class_centers as maps


def points(seed=0, classes=5, each=6):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    x = rng.normal(size=(classes, 3))[labels] * 2 + rng.normal(size=(len(labels), 3)) * 0.5
    return torch.from_numpy(x).float(), torch.from_numpy(labels)


def test_spread_is_what_loops_give():
    x, labels = points()
    assert np.allclose(
        class_centers.centers(x, labels),
        [x[labels == c].mean(dim=0).tolist() for c in range(5)],
        atol=1e-5,
    )
    x, labels = x.numpy(), labels.numpy()
    middle = [x[labels == c].mean(axis=0) for c in range(5)]
    norm = np.linalg.norm
    scale = np.mean([norm(a - b) for i, a in enumerate(x) for b in x[:i]])
    between = np.mean([norm(a - b) for i, a in enumerate(middle) for b in middle[:i]])
    within = np.mean([norm(a - middle[c]) for a, c in zip(x, labels, strict=True)])
    nearest = np.mean(
        [min(norm(a - b) for j, b in enumerate(middle) if j != i) for i, a in enumerate(middle)]
    )
    found = class_centers.class_distances(*points())
    assert found == pytest.approx(
        {
            "between": between / scale,
            "within": within / scale,
            "ratio": between / within,
            "evenness": nearest / between,
            "scale": scale,
        },
        rel=1e-5,
    )
    assert all(type(v) is float for v in found.values())  # a checkpoint is read with weights_only


def test_the_scale_alone_grows_with_the_embedding():
    x, labels = points()
    found = class_centers.class_distances(x, labels)
    assert class_centers.class_distances(7 * x, labels) == pytest.approx(
        found | {"scale": 7 * found["scale"]}, rel=1e-5
    )


def test_many_classes_are_thinned_evenly(monkeypatch):
    x, labels = points(classes=8)
    monkeypatch.setattr(class_centers, "MOST_CLASSES", 4)
    assert class_centers.class_distances(x, labels) == pytest.approx(
        class_centers.class_distances(x[labels % 2 == 0], labels[labels % 2 == 0] // 2)
    )


def test_the_picture_is_the_same_for_the_same_seed():
    middle = np.random.default_rng(0).normal(size=(12, 8))
    assert np.array_equal(maps.tsne(middle), maps.tsne(middle))
    assert np.isnan(maps.trust(middle[:2], middle[:2, :2]))  # each other's only neighbors


def test_a_map_that_keeps_the_neighbors_is_trusted_more_than_a_shuffled_one():
    plane = np.random.default_rng(0).normal(size=(20, 2))
    centers = np.hstack([plane, np.zeros((20, 3))])
    assert maps.trust(centers, 5 * plane) == 1
    assert maps.trust(centers, plane[::-1]) < 0.8


def test_maps_name_each_class_on_hover_and_its_trust_below():
    middle = np.random.default_rng(0).normal(size=(8, 5))
    names = tuple(f'<b>"Jay" & Tern\'s {i}' for i in range(8))
    for figure in maps.maps(middle, np.arange(8) % 2, ["Jay", "other"], names, "MDR"):
        text = plots.svg(figure, "map")
        title = "{http://www.w3.org/2000/svg}title"
        found = [element.text for element in ElementTree.fromstring(text).iter(title)]
        assert found == list(names)
        assert f"trustworthiness {maps.trust(middle, points_of(figure)):.2f}" in text


def points_of(figure):
    return np.concatenate([dots.get_offsets() for dots in figure.axes[0].collections])


def test_families_are_named_by_the_shared_word_and_the_small_ones_joined():
    names = ("Red Crow", "Fish Crow", "Pied Tern", "Elegant Tern", "Blue Jay")
    groups, titles = maps.families(np.array([0, 0, 1, 1, 2]), names, most=2)
    assert titles == ["Crow", "Tern", "other"] and groups.tolist() == [0, 0, 1, 1, 2]
    assert maps.families(np.array([1, 1]), ("GMC Terrain SUV 2012", "GMC Savana Van 2012"))[1] == [
        "GMC"
    ]
    assert maps.families(None, names)[1] == ["test class"]
    assert maps.families(np.array([3, 3]), ("family 03, character 1", "family 03, character 2"))[
        1
    ] == ["family 03"]

"""Distances of class centers against naive loops; the maps of centers."""

from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from mdr_core.evaluation import pair_statistics
from mdr_core.report import plots
from mdr_core.report.plots import class_centers as maps

MIDDLE = np.random.default_rng(0).normal(size=(12, 8))


def points(classes=5, each=6):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    x = rng.normal(size=(classes, 3))[labels] * 2 + rng.normal(size=(len(labels), 3)) * 0.5
    return torch.from_numpy(x).float(), torch.from_numpy(labels)


def test_spread_is_what_loops_give():
    x, labels = (tensor.numpy() for tensor in points())
    middle = [x[labels == c].mean(axis=0) for c in range(5)]
    assert np.allclose(pair_statistics.centers(*points()), middle, atol=1e-5)
    norm = np.linalg.norm
    scale = np.mean([norm(a - b) for i, a in enumerate(x) for b in x[:i]])
    between = np.mean([norm(a - b) for i, a in enumerate(middle) for b in middle[:i]])
    within = np.mean([norm(a - middle[c]) for a, c in zip(x, labels, strict=True)])
    nearest = [
        min(norm(a - b) for j, b in enumerate(middle) if j != i) for i, a in enumerate(middle)
    ]
    row = pair_statistics.class_distances(*points())
    found = {k.removeprefix("centres_"): v for k, v in row.items() if k.startswith("centres_")}
    values = (between / scale, within / scale, between / within, np.mean(nearest) / between, scale)
    names = ("between", "within", "ratio", "evenness", "scale")
    assert found == pytest.approx(dict(zip(names, values, strict=True)), rel=1e-5)
    assert all(type(v) is float for v in found.values())  # a checkpoint is read with weights_only


def test_maps_are_the_same_for_the_same_seed_and_trusted_as_far_as_they_keep_the_neighbors():
    assert np.array_equal(maps.tsne(MIDDLE), maps.tsne(MIDDLE))
    assert np.isnan(maps.trust(MIDDLE[:2], MIDDLE[:2, :2]))  # each other's only neighbors
    plane = np.random.default_rng(0).normal(size=(20, 2))
    centers = np.hstack([plane, np.zeros((20, 3))])
    assert maps.trust(centers, 5 * plane) == 1
    assert maps.trust(centers, plane[::-1]) < 0.8


def test_maps_name_each_class_on_hover_and_its_trust_below():
    names = tuple(f'<b>"Jay" & Tern\'s {i}' for i in range(8))
    for figure in maps.maps(MIDDLE[:8], np.arange(8) % 2, ["Jay", "other"], names, "MDR"):
        text = plots.svg(figure, "map")
        titles = ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}title")
        assert [element.text for element in titles] == list(names)
        drawn = np.concatenate([dots.get_offsets() for dots in figure.axes[0].collections])
        assert f"trustworthiness {maps.trust(MIDDLE[:8], drawn):.2f}" in text


def test_families_are_named_by_the_shared_word_and_the_small_ones_joined():
    names = ("Red Crow", "Fish Crow", "Pied Tern", "Elegant Tern", "Blue Jay")
    groups, titles = maps.families(np.array([0, 0, 1, 1, 2]), names, most=2)
    assert titles == ["Crow", "Tern", "other"] and groups.tolist() == [0, 0, 1, 1, 2]
    cars, drawn = "GMC {} 2012", "family 03, character {}"
    for of_family, family in ((cars, "GMC"), (drawn, "family 03")):
        both = (of_family.format("Terrain SUV"), of_family.format("Savana Van"))
        assert maps.families(np.array([1, 1]), both)[1] == [family]
    assert maps.families(None, names)[1] == ["test class"]

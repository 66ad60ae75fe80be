"""What pixels and pretrained features find: the floors in every table of Recall@1."""

import json

import pytest
import torch

from mdr_core.config import Config
from mdr_core.data.dataset import RetrievalDataset, Split, load_dataset
from mdr_core.profiles import PROFILES, QUICK, TRIPLET, Study
from mdr_core.runs import committed, facts

TINY = QUICK.replace(dataset="drawn", weights="random", ks=(1, 8))


def drawings(labels):
    """Return two drawings, each followed by itself at half the contrast, with these labels."""
    bright = 2 * torch.randint(0, 128, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    images = torch.stack([bright, bright // 2 + 60], dim=1).flatten(0, 1).to(torch.uint8)
    return Split(images, torch.tensor(labels), ("a", "b"), ("",) * 4)


@pytest.mark.parametrize(("labels", "found"), [([0, 0, 1, 1], 100.0), ([0, 1, 0, 1], 0.0)])
def test_pixels_find_the_same_drawing_at_half_the_contrast(labels, found):
    test = drawings(labels)
    scores = facts.floors(TINY, RetrievalDataset(test, test, ""))["pixels"]
    assert scores == {"test_recall@1": found, "test_recall@8": 100.0}


def test_the_gallery_is_searched_where_there_is_one():
    test, gallery = drawings([0, 0, 1, 1]), drawings([1, 1, 0, 0])
    scores = facts.floors(TINY, RetrievalDataset(test, test, "", gallery))
    assert scores["pixels"]["test_recall@1"] == scores["features"]["test_recall@1"] == 0.0


def test_features_depend_on_the_backbone_and_on_no_linear_layer():
    scores = facts.floors(TINY, data := load_dataset("drawn").hold_out(20))
    assert facts.floors(TINY.replace(dim=1, normalization="none"), data) == scores
    assert facts.floors(TINY.replace(backbone="small_resnet_narrow"), data) != scores


def test_floors_are_committed_or_computed_or_the_images_are_not_here(tmp_path, monkeypatch):
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path))
    monkeypatch.setattr(committed, "REPORTS", tmp_path.parent)
    known, absent = {"features": {"test_recall@1": 12.5}}, TINY.replace(dataset="cub50")
    about = {"cub50": {"floors": {facts.settings(absent): known}}}
    (tmp_path / "datasets.json").write_text(json.dumps(about))
    found = facts.floors_of(absent.replace(seed=3, mdr_weight=0.6))["test_recall@1"]
    assert found.dropna().to_dict() == {"Backbone features": 12.5} and "Pixels" in found
    assert facts.floors_of(absent.replace(crop=24)).isna().all(axis=None)
    assert facts.floors_of(TINY)["test_recall@1"]["Pixels"] > 80  # of drawn characters


@pytest.mark.parametrize("profile", ["photos", "full"])
def test_published_datasets_have_floors_above_chance(profile):
    about = json.loads((committed.REPORTS / profile / "datasets.json").read_text())
    runs = committed.table(committed.REPORTS / profile / "runs.csv", 0).values()
    configs = [Config(**committed.config_of(rows)) for rows in runs]
    configs += [Study(profile).config(TRIPLET, name) for name in PROFILES[profile].settings]
    for config in configs:
        of = about[config.dataset]
        rows = of["floors"][facts.settings(config)]
        pixels, features = (rows[floor]["test_recall@1"] for floor in ("pixels", "features"))
        assert 100 / len(of["test_classes"]) < pixels < 16 < 30 < features

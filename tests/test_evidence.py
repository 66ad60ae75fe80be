"""The trainings that answer a reviewer, in their order; Cars in miniature."""

from dataclasses import replace

import pytest

from mdr_core.data.catalog import find, listed
from mdr_core.errors import StudyError
from mdr_core.study import evidence, experiments, profiles
from mdr_core.study.profiles import L2, MDR, TRIPLET
from mdr_core.study.train import by_loop


def test_what_is_stored_decides_what_is_trained_next():
    stored = {}
    first = evidence.groups(stored.get)
    assert [len(runs) for runs in first.values()] == [15, 10, 9, 15]
    for method, rate in ((TRIPLET, 5e-5), (L2, 2e-5), (MDR, 1e-4)):
        for config in evidence.tries(method, stored.get)[0]:
            stored[config] = 50.0 + (config.lr == rate)
    second = evidence.groups(stored.get)["tuned"]
    assert len(second) == 18 and {c.hold_out for c in second} == {5}
    decays = [c for c in second if c.weight_decay > 1e-5]
    assert [(c.lr, round(c.weight_decay, 6)) for c in decays] == [
        (5e-5, 1e-3), (5e-5, 1e-2), (2e-5, 1e-3), (2e-5, 1e-2),
    ]  # fmt: skip
    assert [c.lr for c in second if c.epochs == 9] == [5e-5, 2e-5]
    assert [(c.lr, c.mdr_weight) for c in second[-3:]] == [(1e-4, w) for w in (0.1, 0.2, 0.3)]
    for config in second:
        stored.setdefault(config, 60.0 if config.mdr_weight == 0.2 else 40.0)
    last = evidence.groups(stored.get)["tuned"][18:]
    assert {(c.hold_out, c.epochs) for c in last} == {(0, 18)} and len(last) == 12
    assert [c.seed for c in last] == 4 * [0, 1, 2]
    assert {c.lr for c in last if c.normalization == "l2"} == {2e-5}
    assert [c.mdr_weight for c in last if c.mdr_weight] == 6 * [0.2]
    assert [c.levels for c in last if not c.learn_levels] == 3 * [(0.0,)]


def test_held_out_seeds_add_no_runs_of_the_library_loop(monkeypatch):
    more = replace(profiles.PROFILES["photos"], held_out_seeds=5)
    monkeypatch.setitem(profiles.PROFILES, "photos", more)
    assert len(experiments.of_notebooks("photos")["drop_in"]) == 5


@pytest.mark.parametrize("group", range(4))
def test_a_run_of_each_group_trains(tmp_path, monkeypatch, group):
    """Shortened, on drawn characters."""
    monkeypatch.setenv("MDR_RUNS", str(tmp_path))
    runs = list(evidence.groups(lambda config: 50.0).values())[group]
    short = {"dataset": "drawn", "image_size": 32, "crop": 32, "resize": 32, "dim": 8}
    short |= {"batch_size": 8, "images_per_class": 2, "iterations": 2, "epochs": 1}
    short |= {"backbone": "small_resnet_narrow", "weights": "random", "train_images": 60}
    config = runs[-1].replace(**short)
    [record] = by_loop([config])
    history = record["history"]
    assert [row["epoch"] for row in history] == [0, 1] and history[1]["test_class_queries"]
    if config.hold_out:
        assert evidence.held_out_recall(config) == history[1]["held_out_recall@1"]
        assert evidence.held_out_recall(config.replace(seed=9)) is None


def test_cars50_is_the_start_of_cars196():
    try:
        find("cars196")
    except StudyError:
        pytest.skip("Cars-196 is not here")
    part, whole = (listed(name)[1] for name in ("cars50", "cars196"))
    classes = [*whole.sort_values("number").name.unique()[:50]]
    assert [*part.sort_values("number").name.unique()] == classes
    assert classes[25] == "BMW ActiveHybrid 5 Sedan 2012"  # the first that tests
    assert len(part) == whole.name.isin(classes).sum()

"""A model kept with its index: saved, loaded, searched; and the folder that is drawn."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mdr_core.data import image_cache
from mdr_core.data.dataset import load_dataset
from mdr_core.errors import StudyError
from mdr_core.runs.store import RunStore
from mdr_core.search import ImageSearch
from mdr_core.study import drawn_folder, experiments


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn_folder, "CLASSES", 32)  # of 100 the tests would draw for seconds
        yield drawn_folder.make(tmp_path_factory.mktemp("drawn") / "folder")


def test_the_drawn_folder_is_written_once(folder):
    images = load_dataset(f"folder:{folder}", image_size=32)
    assert (
        len(images.train.class_names) == len(images.test.class_names) == drawn_folder.CLASSES // 2
    )
    before = sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*.png"))
    assert drawn_folder.make(folder.parent) == folder
    assert before == sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*.png"))


@pytest.mark.parametrize("zipped", [False, True])
def test_an_image_is_not_looked_up_among_images_that_it_is_one_of(folder, zipped, tmp_path):
    images = load_dataset(f"folder:{folder}", image_size=32)
    test = images.test
    kept_apart, own, searched = drawn_folder.new_image(folder, images, drawn=True)
    assert kept_apart.parent.name == own == test.class_names[-1] and searched is test
    if zipped:
        folder = Path(shutil.make_archive(str(tmp_path / "images"), "zip", folder))
    copy, own, searched = drawn_folder.new_image(folder, images, drawn=False)
    assert copy.parent.name == own == test.class_names[0]
    assert searched.paths == test.paths[1:] and torch.equal(searched.images, test.images[1:])
    own = image_cache.pixels(copy, 32, "copy")
    assert np.array_equal(own, test.images[0].permute(1, 2, 0).numpy())


def test_a_given_image_has_the_class_of_the_folder_it_lies_in(folder, tmp_path):
    images = load_dataset(f"folder:{folder}", image_size=32)
    test, learned = images.test, images.train
    _, own, searched = drawn_folder.new_image(folder, images, True, folder / test.paths[3])
    assert own == Path(test.paths[3]).parent.name and test.paths[3] not in searched.paths
    assert len(searched.paths) == len(test.paths) - 1
    _, own, searched = drawn_folder.new_image(folder, images, True, folder / learned.paths[3])
    assert own == Path(learned.paths[3]).parent.name and searched.paths == test.paths
    elsewhere = tmp_path / "mine.png"
    assert drawn_folder.new_image(folder, images, True, elsewhere)[:2] == (elsewhere, "")


def test_all_classes_of_a_folder_train(folder):
    half, every = (load_dataset(f"{kind}folder:{folder}", image_size=32) for kind in ("", "all:"))
    assert every.train.class_names == half.train.class_names + half.test.class_names
    assert every.train.labels.bincount().tolist() == [drawn_folder.IMAGES] * drawn_folder.CLASSES
    for label, path in zip(every.train.labels.tolist(), every.train.paths, strict=True):
        assert Path(path).parent.name == every.train.class_names[label]
    count = len(half.train.labels)
    assert torch.equal(every.train.images[count:], half.test.images)
    assert every.test.class_names == half.test.class_names


def test_an_example_is_taken_from_the_data_root_alone(tmp_path):
    assert drawn_folder.example("food.zip", str(tmp_path)) is None
    (tmp_path / "food.zip").touch()
    assert drawn_folder.example("food.zip", str(tmp_path)) == tmp_path / "food.zip"
    assert drawn_folder.example("", str(tmp_path)) is None


def test_saved_loaded_and_searched(folder, tmp_path, monkeypatch):
    row = experiments.your_images(
        "quick",
        folder,
        0,
        "Triplet + MDR",
        [0],
        True,
        RunStore(),
        weights="random",
        epochs=1,
        iterations=2,
    )[0]
    assert row["config"].mdr_weight == 0.2 and row["config"].batch_size == 60
    record = RunStore(tmp_path / "runs").run(row["config"], files=True)
    images = load_dataset(row["config"].dataset, image_size=32)
    kept = ImageSearch.of_run(record, tmp_path / "runs", images.test).save(tmp_path / "index")
    search = ImageSearch.load(kept)
    embeddings = RunStore(tmp_path / "runs").embeddings(record)["test"].numpy()
    assert np.allclose(search.embed(images.test.images), embeddings, rtol=1e-4, atol=1e-5)
    answer = search.nearest(folder / images.test.paths[5], k=3)
    assert (
        answer.place[0] == 5
        and answer.distance[0] < 1e-2
        and answer["class"][0] == images.test.class_names[0]
    )
    assert answer.path[0] == images.test.paths[5] and answer.distance.is_monotonic_increasing
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ImageSearch.load("~/index").save("~/again") == tmp_path / "again"
    assert ImageSearch.load("~/again").paths == search.paths
    shutil.copy(folder / images.test.paths[5], tmp_path / "query.png")
    assert search.nearest("~/query.png", k=1).place.tolist() == [5]
    assert len(search.nearest("~/query.png", k=10**6)) == len(images.test.paths)
    with pytest.raises(StudyError, match="k must be at least 1, got 0"):
        search.nearest("~/query.png", k=0)
    with pytest.raises(StudyError, match="there is no image"):
        search.nearest(folder / "none.png")
    with pytest.raises(StudyError, match="query.png/index cannot be written to.*another folder"):
        search.save("~/query.png/index")
    with torch.no_grad():
        search.model.linear.weight.add_(1)
    shutil.copy(search.save(tmp_path / "other") / "weights.safetensors", kept)
    with pytest.raises(StudyError, match="weights.* has changed, or is of another index"):
        ImageSearch.load(kept)
    (kept / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(StudyError, match="is not a saved index that can be read"):
        ImageSearch.load(kept)
    (kept / "gallery.faiss").unlink()
    with pytest.raises(StudyError, match="lacks gallery.faiss"):
        ImageSearch.load(kept)


def test_a_small_folder_gets_a_small_batch(folder):
    asked = "quick", folder, 0, "Triplet", [0], True, RunStore()
    changes = {"images_per_class": 2, "batch_size": 200}
    row = experiments.your_images(*asked, **changes)[0]
    assert row["config"].batch_size == 2 * 16
    row = experiments.your_images(*asked, processes=3, **changes)[0]
    assert row["config"].batch_size == 30  # which three can share

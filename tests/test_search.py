"""A model kept with its index: saved, loaded, searched; and the folder that is drawn."""

import shutil

import numpy as np
import pytest

from mdr_core.data import image_cache
from mdr_core.data.dataset import load_dataset
from mdr_core.errors import StudyError
from mdr_core.runs.store import RunStore
from mdr_core.search import ImageSearch
from mdr_core.study import drawn_folder, experiments


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return drawn_folder.make(tmp_path_factory.mktemp("drawn") / "folder")


def test_the_drawn_folder_is_written_once(folder):
    images = load_dataset(f"folder:{folder}", image_size=32)
    assert (
        len(images.train.class_names) == len(images.test.class_names) == drawn_folder.CLASSES // 2
    )
    before = sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*.png"))
    assert drawn_folder.make(folder.parent) == folder
    assert before == sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*.png"))
    new = drawn_folder.new_image(folder, images.test, drawn=True)
    assert new.parent.name == images.test.class_names[-1]
    copy = drawn_folder.new_image(folder, images.test, drawn=False)
    assert np.array_equal(
        image_cache.pixels(copy, 32, "copy"), images.test.images[0].permute(1, 2, 0).numpy()
    )


def test_saved_loaded_and_searched(folder, tmp_path, monkeypatch):
    row = experiments.your_images(
        "quick",
        folder,
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
    (kept / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(StudyError, match="is not a saved index that can be read"):
        ImageSearch.load(kept)
    (kept / "gallery.faiss").unlink()
    with pytest.raises(StudyError, match="lacks gallery.faiss"):
        ImageSearch.load(kept)


def test_a_small_folder_gets_a_small_batch(folder):
    asked = "quick", folder, "Triplet", [0], True, RunStore()
    row = experiments.your_images(*asked, images_per_class=2)[0]
    assert row["config"].batch_size == 40
    row = experiments.your_images(*asked, images_per_class=2, processes=3)[0]
    assert row["config"].batch_size == 39  # which three can share

"""A model kept with its index: saved, loaded, searched by images of any kind."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mdr_core.config import Config
from mdr_core.data.dataset import load_dataset
from mdr_core.errors import StudyError
from mdr_core.evaluation import epoch
from mdr_core.profiles import QUICK
from mdr_core.runs import local
from mdr_core.search import CONFIG, FILES, ImageSearch
from tests.test_retrieval import autocast, default_type


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Class folders of drawn characters, 32 of 10 images."""
    folder, drawn = tmp_path_factory.mktemp("drawn"), load_dataset("drawn").train
    some = drawn.of_classes(range(32))
    for number, (image, label) in enumerate(zip(some.images, some.labels.tolist(), strict=True)):
        (place := folder / some.class_names[label]).mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def stored(folder, tmp_path_factory):
    """A stored run on the drawn folder, and the images it was tested on."""
    changes = {"weights": "random", "epochs": 1, "iterations": 2, "mdr_weight": 0.2}
    config = QUICK.replace(dataset=f"folder:{folder}", **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MDR_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield local.train(config), load_dataset(config.dataset, image_size=32).test


@pytest.fixture
def search(stored):
    return ImageSearch.of_run(*stored)


def pixels_of(images, number):
    return images.images[number].permute(1, 2, 0).numpy()


def test_an_indexed_image_is_found_after_saving_and_loading(
    folder, stored, search, tmp_path, monkeypatch
):
    record, images = stored
    search.model = torch.compile(search.model, backend="eager")  # is saved as the one that it was
    search = ImageSearch.load(search.save(tmp_path / "index"))
    config = Config(**record["config"])
    embeddings = epoch.embed_images(config, search.model, images.images)
    indexed = search.index.reconstruct_n(0, search.index.ntotal)
    assert np.allclose(indexed, embeddings.numpy(), rtol=1e-4, atol=1e-5)
    path = folder / images.paths[5]
    answer = search.nearest(path, k=3)
    assert answer.columns.tolist() == ["class", "path", "distance", "place"]
    assert answer.place[0] == 5 and answer.distance[0] < 1e-2
    assert answer["class"][0] == images.class_names[0] and answer.path[0] == images.paths[5]
    assert answer.distance.is_monotonic_increasing and len(answer) == 3
    assert len(search.nearest(path, k=10**6)) == search.index.ntotal == len(images.paths)
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(path, tmp_path / "query.png")
    assert ImageSearch.load("~/index").save("~/again") == tmp_path / "again"
    assert ImageSearch.load("~/again").nearest("~/query.png", k=1).place.tolist() == [5]


def test_an_image_in_memory_and_k_of_any_kind_are_taken(folder, stored, search):
    path = folder / stored[1].paths[5]
    expected = search.nearest(path, k=3)
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    pixels = np.asarray(image)
    tensor, file = torch.from_numpy(pixels.copy()), io.BytesIO(path.read_bytes())
    for given in (str(path), image, pixels, tensor, file):
        for k in (3, np.int64(3), torch.tensor(3), 3.0):
            assert search.nearest(given, k).equals(expected)
    turned = image.rotate(90, expand=True)  # as a telephone keeps it: EXIF says to turn it back
    turned.getexif()[0x0112] = 6
    turned.save(file := io.BytesIO(), "PNG", exif=turned.getexif())
    assert search.nearest(Image.open(file), k=3).equals(expected)


@pytest.mark.parametrize("around", [default_type, autocast])
def test_the_caller_s_types_change_no_distance(stored, search, tmp_path, around):
    kept, image = search.save(tmp_path / "index"), pixels_of(stored[1], 5)
    with around():
        answers = [each.nearest(image) for each in (search, ImageSearch.load(kept))]
        answers.append(ImageSearch.of_run(*stored).nearest(image))
    assert all(answer.place[0] == 5 and answer.distance[0] < 1e-3 for answer in answers)


def test_any_index_of_faiss_is_trained_searched_and_kept(stored, search, tmp_path, monkeypatch):
    monkeypatch.setattr("mdr_core.search.TRAINING", 150)  # of more: a sample
    image, exact = pixels_of(stored[1], 5), search
    for factory in ("PCA16,IVF4,SQ8", "IVF8,Flat"):
        search = ImageSearch.of_run(*stored, factory)
        few = search.nearest(image, k=10**6)  # of one list
        assert 1 <= len(few) < search.index.ntotal and few.place[0] == 5
        again = ImageSearch.load(search.save(tmp_path / factory))
        assert again.nearest(image, k=10).equals(search.nearest(image, k=10))
    search.index.nprobe = 8  # of eight lists
    assert search.nearest(image, k=10).place.equals(exact.nearest(image, k=10).place)
    for factory in ("Flatt", "IVF4096,Flat"):  # unknown; more lists than images
        with pytest.raises(StudyError, match=f"faiss refuses the index '{factory}'"):
            ImageSearch.of_run(*stored, factory)


def test_what_cannot_be_searched_is_refused(folder, stored, search):
    for k in (0, -1, 2.5, np.float32(0.5)):
        with pytest.raises(StudyError, match="k must be a whole number of at least 1"):
            search.nearest(folder / stored[1].paths[5], k)
    for image in (b"bytes", None, np.zeros((4, 4, 3)), torch.zeros(4)):
        with pytest.raises(StudyError, match="give an image's path, a PIL image, or RGB|8 bits"):
            search.nearest(image)
    with pytest.raises(StudyError, match="none.png"):
        search.nearest(folder / "none.png")


def test_a_kept_index_is_whole_or_refused(search, tmp_path):
    kept = search.save(tmp_path / "index")
    with torch.no_grad():
        search.model.linear.weight.add_(1)
    search.index.reset()
    other = search.save(tmp_path / "other")
    good = {name: (kept / name).read_bytes() for name in FILES}
    for name, content in good.items():
        for bad in (None, b"", b"nothing", content[:-1], (other / name).read_bytes()):
            (kept / name).unlink() if bad is None else (kept / name).write_bytes(bad)
            with pytest.raises(StudyError, match="is no saved index that can be read"):
                ImageSearch.load(kept)
        (kept / name).write_bytes(content)
    about = json.loads(good[CONFIG])
    (kept / CONFIG).write_text(json.dumps(about | {"names": about["names"][1:]}))
    with pytest.raises(StudyError, match="a file has changed"):
        ImageSearch.load(kept)

"""Datasets: official layouts in folders and zip files, fingerprints, the cache, the real data."""

import shutil

import pytest
import torch

from mdr_core.data import catalog, image_cache
from mdr_core.data.dataset import load_dataset
from mdr_core.files import REPOSITORY
from tests import trees
from tests.trees import refused

SHARED = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache and a data root, ``tmp_path``, of the test's own."""
    monkeypatch.setenv("MDR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path))
    return tmp_path / "cache" / "decoded"


@pytest.mark.parametrize("place", ["bare", "named", "zip"])
def test_cub_from_folder_named_folder_and_zip(tmp_path, place):
    top = trees.cub(tmp_path / "cub50" if place == "named" else tmp_path)
    if place == "zip":
        trees.zipped(top, tmp_path / "cub50.zip")
    birds = load_dataset("cub50", image_size=8)
    names = [name[4:].replace("_", " ") for name in trees.BIRDS]
    assert [*birds.train.class_names] == names[:3] and [*birds.test.class_names] == names[3:]
    assert birds.test.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert birds.test.labels.dtype == torch.int64 and birds.train.images.dtype == torch.uint8
    assert birds.train.images.shape == (9, 3, 8, 8)
    for split in (birds.train, birds.test):
        assert split.images.is_contiguous(memory_format=torch.channels_last)
    assert birds.train.paths[0] == f"images/{trees.BIRDS[0]}/Black_footed_Albatross_0000.jpg"


def test_a_zip_goes_before_a_named_folder_and_that_before_the_bare_one(tmp_path):
    trees.cub(tmp_path, trees.BIRDS[:4])
    assert len(load_dataset("cub50", 8).train.class_names) == 2
    trees.cub(tmp_path / "cub50", trees.BIRDS[:5])
    assert len(load_dataset("cub50", 8).test.class_names) == 3
    trees.zipped(trees.cub(tmp_path / "other"), tmp_path / "cub50.zip")
    assert len(load_dataset("cub50", 8).train.class_names) == 3
    assert len(load_dataset("cub200", 8).train.class_names) == 2  # the bare folder, no other's zip


def test_cars_from_a_zip_file_in_the_official_layout(tmp_path):
    trees.zipped(trees.cars(tmp_path), tmp_path / "stanford_cars.zip")
    cars = load_dataset("cars196", 8)
    assert cars.train.class_names == trees.CARS[:2] and cars.test.class_names == trees.CARS[2:]
    for split in (cars.train, cars.test):
        assert torch.bincount(split.labels).tolist() == [4, 4]
    assert load_dataset("cars50", 8).fingerprint == cars.fingerprint  # of the same files


def test_products_in_the_official_split(tmp_path):
    trees.products(tmp_path)
    products = load_dataset("sop", 8)
    assert products.train.class_names == ("bicycle 1", "chair 2", "bicycle 3")
    assert products.test.class_names == ("chair 4", "bicycle 5") and products.gallery is None
    assert products.test.labels.tolist() == [0, 0, 1, 1]
    assert products.test.paths[0] == "chair_final/4_0.JPG"


def test_clothes_have_a_gallery_of_their_own(tmp_path):
    top = trees.clothes(tmp_path)
    clothes = load_dataset("inshop", 8)
    assert clothes.train.class_names == ("id_1", "id_2")
    assert clothes.test.class_names == clothes.gallery.class_names == ("id_3", "id_4")
    assert clothes.test.labels.tolist() == clothes.gallery.labels.tolist() == [0, 1, 1]
    assert clothes.gallery.paths[0].endswith("05_front.jpg")
    trees.tree(top, {clothes.gallery.paths[0]: trees.image_bytes(99, "JPEG")})
    assert load_dataset("inshop", 8).fingerprint != clothes.fingerprint


def test_of_classes_relabels_in_the_order_given(tmp_path):
    trees.cub(tmp_path)
    train = load_dataset("cub50", 8).train
    part = train.of_classes([2, 0])
    assert part.class_names == ("Sooty Albatross", "Black footed Albatross")
    assert part.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert torch.equal(part.images[3:], train.images[6:])
    assert part.paths == train.paths[:3] + train.paths[6:]


def test_hold_out_takes_the_last_training_classes_of_those_of_cub50(tmp_path):
    trees.cub(tmp_path, tuple(f"{i:03d}.Bird_{i}" for i in range(1, 61)))
    whole = load_dataset("cub50", 8)
    assert whole.test.class_names[-1] == "Bird 50"  # of the whole CUB, the first fifty
    held = whole.hold_out(2)
    assert held.train.class_names + held.test.class_names == whole.train.class_names
    assert held.test.labels.tolist() == [0, 0, 0, 1, 1, 1] and held.fingerprint == whole.fingerprint
    for count in (1, 24):
        assert "hold_out" in refused(whole.hold_out, count)


def test_the_fingerprint_is_that_of_files_labels_names_and_size_wherever_they_lie(
    tmp_path, monkeypatch
):
    def of(root: str, size: int = 8) -> str:
        monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path / root))
        return load_dataset("cub50", size).fingerprint

    top = trees.cub(tmp_path / "one")
    first = of("one")
    for copy in ("two", "three"):
        shutil.copytree(tmp_path / "one", tmp_path / copy)
    (tmp_path / "two" / "CUB_200_2011").rename(tmp_path / "two" / "cub50")  # under another name
    trees.zipped(tmp_path / "three" / "CUB_200_2011", tmp_path / "three" / "cub50.zip")
    assert of("one") == of("two") == of("three") == first != of("one", 9)

    found = {first}
    for name, old, new in (
        ("classes.txt", b"Sooty", b"Snowy"),  # the same images under another class name
        ("image_class_labels.txt", b"3 1\n", b"3 2\n"),
        (f"images/{trees.BIRDS[0]}/{trees.BIRDS[0][4:]}_0000.jpg", b"\xff\xd9", b"\xff\xd9\0"),
    ):
        (top / name).write_bytes((top / name).read_bytes().replace(old, new, 1))
        found.add(of("one"))
    monkeypatch.setattr("mdr_core.data.dataset.DECODING", image_cache.DECODING + 1)
    assert len({*found, of("one")}) == 5


def test_images_are_decoded_once_and_no_reader_changes_the_cache(tmp_path, cache, monkeypatch):
    trees.cub(tmp_path)
    first = load_dataset("cub50", 8)
    (array,) = cache.glob("*.npy")
    stored, train = array.read_bytes(), first.train.images.clone()
    first.train.images[0] = 0
    with monkeypatch.context() as patch:
        patch.setattr(image_cache, "pixels", None)  # nothing is decoded
        again = load_dataset("cub50", 8)
    assert torch.equal(again.train.images, train) and again.fingerprint == first.fingerprint
    assert array.read_bytes() == stored
    trees.tree(tmp_path / "CUB_200_2011", {first.train.paths[0]: trees.image_bytes(100, "JPEG")})
    changed = load_dataset("cub50", 8).train.images  # is seen at once
    assert not torch.equal(changed[0], train[0]) and torch.equal(changed[1:], train[1:])


def test_errors_are_one_line_that_says_what_to_do(tmp_path, cache):
    missing = refused(load_dataset, "cub50")
    assert "cub50.zip or cub50/ or CUB_200_2011.zip or CUB_200_2011/" in missing
    assert all(what in missing for what in (str(tmp_path), "CUB-200-2011", "MDR_DATA_ROOT"))
    assert "make download DATASET=cub200 fetches it" in refused(load_dataset, "cub200")
    assert all(name in refused(load_dataset, "birds") for name in catalog.NAMES)
    assert "is no folder or good zip" in refused(load_dataset, f"folder:{tmp_path / 'absent'}")

    top = trees.cub(tmp_path)
    broken = top / "images" / trees.BIRDS[4] / "Rusty_Blackbird_0001.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    line = refused(load_dataset, "cub50", 8)
    assert "005.Rusty_Blackbird/Rusty_Blackbird_0001.jpg cannot be decoded" in line
    assert not list(cache.iterdir())
    broken.unlink()
    line = refused(load_dataset, "cub50", 8)
    assert "No such file" in line and "Rusty_Blackbird_0001.jpg" in line and "restore" in line
    broken.write_bytes(whole)
    labels = top / "image_class_labels.txt"
    listed = labels.read_text()
    labels.write_text(listed.replace("17 6\n18 6", "17 5\n18 5"))
    assert "with one image: ['Yellow headed Blackbird']" in refused(load_dataset, "cub50", 8)
    for wrong in ("four 2\n", "4 9\n", "4\n", "4 x\n", '"\n', ""):
        labels.write_text(listed.replace("4 2\n", wrong, 1))
        line = refused(load_dataset, "cub50", 8)
        assert f"{top} is not cub50 in its official layout" in line and "fetch it anew" in line


@pytest.mark.parametrize(
    "name, classes, images, training",
    [("cub_mini", 10, 80, 40), ("cub50", 50, 2889, 1402), ("cub200", 200, 11788, 5864),
     ("cars196", 196, 16185, 8054)],
)  # fmt: skip
def test_the_real_lists_have_the_official_counts(monkeypatch, name, classes, images, training):
    if not (SHARED / f"{name}.zip").exists():
        pytest.skip(f"{name}.zip is not in {SHARED}")
    monkeypatch.setenv("MDR_DATA_ROOT", str(SHARED))
    folder, rows = catalog.listed(name)
    assert (rows.number.nunique(), len(rows), rows.file.nunique()) == (classes, images, images)
    assert (rows.number.rank(method="dense") <= classes // 2).sum() == training
    assert all((folder / file).exists() for file in rows.file)
    if name == "cub_mini":  # what stored runs were trained on
        assert load_dataset("cub_mini", 32).fingerprint.startswith("beab420c8a68bb4e")

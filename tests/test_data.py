"""Datasets: official layouts in folders and zip files, fingerprints, the cache, the real data."""

import errno
import os
import shutil
import signal
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from mdr_core.data import catalog, fingerprint, folders, image_cache
from mdr_core.data.dataset import duplicates, load_dataset
from mdr_core.files import REPOSITORY
from tests import trees
from tests.processes import started
from tests.trees import refused

SHARED = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache and a data root, ``tmp_path``, of the test's own."""
    monkeypatch.setenv("MDR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path))
    return tmp_path / "cache" / "decoded"


def load(root: Path, name: str, size: int = 8):
    """Load a dataset below another data root."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MDR_DATA_ROOT", str(root))
        return load_dataset(name, size)


@pytest.mark.parametrize("place", ["bare", "named", "zip"])
def test_cub_from_folder_named_folder_and_zip(tmp_path, capsys, place):
    top = trees.cub(tmp_path / "cub50" if place == "named" else tmp_path)
    if place == "zip":
        trees.zipped(top, tmp_path / "cub50.zip")
    birds = load_dataset("cub50", image_size=8)
    said = capsys.readouterr().err
    assert said == "cub50 has 6 classes and 18 images here, officially 50 and 2889\n"
    names = [name[4:].replace("_", " ") for name in trees.BIRDS]
    assert [*birds.train.class_names] == names[:3] and [*birds.test.class_names] == names[3:]
    assert birds.test.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert birds.test.labels.dtype == torch.int64 and birds.train.images.dtype == torch.uint8
    assert birds.train.families.tolist() == [0, 0, 0] and birds.test.families.tolist() == [1, 2, 2]
    assert birds.train.images.shape == (9, 3, 8, 8)
    for split in (birds.train, birds.test):
        assert split.images.is_contiguous(memory_format=torch.channels_last)
    assert birds.train.paths[0].endswith(f"images/{trees.BIRDS[0]}/Black_footed_Albatross_0000.jpg")
    assert len(birds.fingerprint) == 64


def test_a_zip_goes_before_a_named_folder_and_that_before_the_bare_one(tmp_path):
    trees.cub(tmp_path, trees.BIRDS[:4])
    assert len(load_dataset("cub50", 8).train.class_names) == 2
    trees.cub(tmp_path / "cub50", trees.BIRDS[:5])
    assert len(load_dataset("cub50", 8).test.class_names) == 3
    trees.zipped(trees.cub(tmp_path / "other"), tmp_path / "cub50.zip")
    assert len(load_dataset("cub50", 8).train.class_names) == 3
    assert len(load_dataset("cub200", 8).train.class_names) == 2  # the bare folder, no other's zip


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("variant", ["legacy", "devkit"])
def test_cars_in_both_official_layouts(tmp_path, variant, archive):
    top = trees.cars(tmp_path, variant)
    if archive:
        trees.zipped(top, tmp_path / "stanford_cars.zip")
    cars = load_dataset("cars196", 8)
    assert cars.train.class_names == trees.CARS[:2] and cars.test.class_names == trees.CARS[2:]
    for split in (cars.train, cars.test):
        assert torch.bincount(split.labels).tolist() == [4, 4]
    assert cars.train.families.tolist() == [0, 1] and cars.test.families.tolist() == [1, 2]
    assert load_dataset("cars50", 8).fingerprint == cars.fingerprint  # of the same files


@pytest.mark.parametrize("there", ["legacy", "devkit"])
def test_of_two_lists_of_cars_the_one_is_read_whose_images_are_there(tmp_path, there):
    trees.cars(tmp_path / "one", there)
    alone = load(tmp_path / "one", "cars196")
    for variant in ("legacy", "devkit"):
        top = trees.cars(tmp_path / "both", variant)
    for folder in ("car_ims",) if there == "devkit" else ("cars_train", "cars_test"):
        shutil.rmtree(top / folder)
    both = load(tmp_path / "both", "cars196")
    assert both.fingerprint == alone.fingerprint and both.train.paths == alone.train.paths


def test_products_in_the_official_split(tmp_path):
    trees.products(tmp_path)
    products = load_dataset("sop", 8)
    assert products.train.class_names == ("bicycle 1", "chair 2", "bicycle 3")
    assert products.test.class_names == ("chair 4", "bicycle 5") and products.gallery is None
    assert products.test.labels.tolist() == [0, 0, 1, 1]
    assert products.test.paths[0].endswith("chair_final/4_0.JPG")
    assert products.train.families[0] == products.test.families[1] != products.test.families[0]


def test_clothes_have_a_gallery_of_their_own(tmp_path):
    top = trees.clothes(tmp_path)
    clothes = load_dataset("inshop", 8)
    assert clothes.train.class_names == ("id_1", "id_2")
    assert clothes.test.class_names == clothes.gallery.class_names == ("id_3", "id_4")
    assert clothes.test.labels.tolist() == clothes.gallery.labels.tolist() == [0, 1, 1]
    assert clothes.gallery.paths[0].endswith("05_front.jpg")
    trees.tree(top, {clothes.gallery.paths[0]: trees.image_bytes(99, "JPEG")})
    assert load_dataset("inshop", 8).fingerprint != clothes.fingerprint


@pytest.mark.parametrize(
    "more, line",
    [
        (("id_5 query",), "in one of query and gallery alone"),
        (("id_1 query", "id_1 gallery"), "classes in both training and test"),
        (("id_1 validation",), "status 'validation'"),
    ],
)
def test_clothes_of_a_wrong_list(tmp_path, more, line):
    trees.clothes(tmp_path, (*trees.CLOTHES, *more))
    assert line in refused(load_dataset, "inshop", 8)


def test_the_whole_of_cub_gives_cub50_its_first_fifty_classes(tmp_path):
    trees.cub(tmp_path, tuple(f"{i:03d}.Bird_{i}" for i in range(1, 61)), each=2)
    found = load_dataset("cub50", 8)
    assert len(found.train.class_names) == len(found.test.class_names) == 25
    assert found.test.class_names[-1] == "Bird 50"


def test_of_classes_relabels_in_the_order_given(tmp_path):
    trees.cub(tmp_path)
    train = load_dataset("cub50", 8).train
    part = train.of_classes([2, 0])
    assert part.class_names == ("Sooty Albatross", "Black footed Albatross")
    assert part.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert torch.equal(part.images[3:], train.images[6:])
    assert part.paths == train.paths[:3] + train.paths[6:]


def test_hold_out_takes_the_last_training_classes(tmp_path):
    trees.cub(tmp_path, tuple(f"{i:03d}.Bird_{i}" for i in range(1, 13)))
    whole = load_dataset("cub50", 8)
    held = whole.hold_out(2)
    assert held.train.class_names + held.test.class_names == whole.train.class_names
    assert held.test.labels.tolist() == [0, 0, 0, 1, 1, 1] and held.fingerprint == whole.fingerprint
    for count in (1, 5):
        assert "hold_out" in refused(whole.hold_out, count)


def test_the_fingerprint_is_that_of_files_labels_names_and_size_wherever_they_lie(
    tmp_path, monkeypatch
):
    top = trees.cub(tmp_path / "one")
    of = lambda root, size=8: load(tmp_path / root, "cub50", size).fingerprint  # noqa: E731
    first = of("one")
    assert of("one") == first  # kept beside the cache
    for copy in ("two", "three"):
        shutil.copytree(tmp_path / "one", tmp_path / copy)
    (tmp_path / "two" / "CUB_200_2011").rename(tmp_path / "two" / "cub50")  # under another name
    trees.zipped(tmp_path / "three" / "CUB_200_2011", tmp_path / "three" / "cub50.zip")
    assert of("two") == of("three") == first != of("one", 9)

    def changed(name: str, old: bytes, new: bytes) -> str:
        content = (top / name).read_bytes()
        (top / name).write_bytes(content.replace(old, new, 1))
        found = of("one")
        (top / name).write_bytes(content)
        assert of("one") == first
        return found

    image = f"images/{trees.BIRDS[0]}/Black_footed_Albatross_0000.jpg"
    different = [
        changed("classes.txt", b"Sooty", b"Snowy"),  # the same images under another class name
        changed("image_class_labels.txt", b"3 1\n", b"3 2\n"),
        changed(image, b"\xff\xd9", b"\xff\xd9\0"),  # another byte, and the same pixels
    ]
    monkeypatch.setattr(fingerprint, "DECODING", fingerprint.DECODING + 1)
    assert len({first, *different, of("one")}) == 5


def test_the_fingerprint_depends_on_the_split_and_on_exif():
    train = fingerprint.SplitContent("train", ["a", "b"], [0, 1], ("x", "y"))
    test = train._replace(split="test")
    of = fingerprint.data_fingerprint
    assert of([train], 8, False) == of([train], 8, False)
    others = of([test], 8, False), of([train], 8, True), of([train, test], 8, False)
    assert of([train], 8, False) not in others


def test_the_pixels_do_not_enter_the_fingerprint(tmp_path, cache, monkeypatch):
    """Two installations share a run whose pixels differ in the last place."""
    trees.cub(tmp_path)
    one, decode = load_dataset("cub50", 8), image_cache.pixels
    shutil.rmtree(cache)
    monkeypatch.setattr(image_cache, "pixels", lambda *a: decode(*a) ^ 1)
    other = load_dataset("cub50", 8)
    assert not torch.equal(one.train.images, other.train.images)
    assert one.fingerprint == other.fingerprint


def counted(monkeypatch, seconds: float = 0) -> list:
    """Return the list of the images that are decoded from now on."""
    calls, original = [], image_cache.pixels

    def pixels(*arguments):
        calls.append(arguments)
        time.sleep(seconds)
        return original(*arguments)

    monkeypatch.setattr(image_cache, "pixels", pixels)
    return calls


def test_the_cache_is_used_and_a_torn_one_replaced(tmp_path, cache, monkeypatch):
    trees.cub(tmp_path)
    first = load_dataset("cub50", 8)
    train, test = first.train.images.clone(), first.test.images.clone()  # their file is torn below
    calls, (stored,) = counted(monkeypatch), cache.iterdir()
    assert torch.equal(load_dataset("cub50", 8).train.images, train) and not calls
    whole = stored.read_bytes()
    for torn in whole[:-100], b"", b"not an array", whole.replace(b"8, 8", b"4, 4"):
        calls.clear()
        stored.write_bytes(torn)
        again = load_dataset("cub50", 8)
        assert len(calls) == 18 and torch.equal(again.test.images, test)
    again.train.images[0] = 0  # a reader's own affair: the file stays as it is
    assert stored.read_bytes() == whole


@pytest.mark.parametrize("archive", [False, True])
def test_a_changed_image_is_seen_at_once(tmp_path, monkeypatch, archive):
    def load_images(number: int):
        top = trees.cub(tmp_path)
        trees.tree(top / "images" / trees.BIRDS[0], {
            "Black_footed_Albatross_0000.jpg": trees.image_bytes(number, "JPEG")
        })  # fmt: skip
        if archive:
            trees.zipped(top, tmp_path / "cub50.zip")
        return load_dataset("cub50", 8).train.images.clone()

    one, two = load_images(100), load_images(101)
    assert not torch.equal(one[0], two[0]) and torch.equal(one[1:], two[1:])


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, cache, monkeypatch):
    trees.cub(tmp_path)

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device): set MDR_CACHE" in refused(load_dataset, "cub50", 8)
    assert not list(cache.iterdir())


def test_of_two_that_need_the_images_one_decodes_them(tmp_path, cache, monkeypatch):
    trees.zipped(trees.cub(tmp_path), tmp_path / "cub50.zip")
    calls = counted(monkeypatch, 0.01)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: load_dataset("cub50", 8), range(2))
    assert len(calls) == 18 and one.fingerprint == two.fingerprint
    assert len([*(cache.parent / "unpacked").iterdir()]) == 1 and not list(cache.glob("*.lock"))


def killed_decoding(root: Path) -> None:
    os.environ |= {"MDR_CACHE": str(root / "cache"), "MDR_DATA_ROOT": str(root)}
    original, calls = image_cache.pixels, []

    def pixels(*arguments):
        calls.append(arguments)
        if len(calls) > 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    image_cache.pixels = pixels
    load_dataset("cub50", 8)


def test_a_killed_decoding_leaves_nothing_that_is_trusted(tmp_path, cache):
    trees.cub(tmp_path)
    with started(killed_decoding, tmp_path) as process:
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [p.suffix for p in cache.iterdir()].count(".tmp") == 1 and not list(cache.glob("*.npy"))
    load_dataset("cub50", 8)
    assert [p.suffix for p in cache.iterdir()] == [".npy"]


def test_errors_are_one_line_that_says_what_to_do(tmp_path, cache):
    missing = refused(load_dataset, "cub50")
    assert "cub50.zip or cub50/ or CUB_200_2011.zip or CUB_200_2011/" in missing
    assert all(what in missing for what in (str(tmp_path), "CUB-200-2011", "MDR_DATA_ROOT"))
    assert all(name in refused(load_dataset, "birds") for name in catalog.NAMES)
    assert "no folder or zip" in refused(load_dataset, f"folder:{tmp_path / 'absent'}")
    for name in ("cars196", "cars50"):
        line = refused(load_dataset, name)
        assert "404" in line and "car_ims/ and cars_annos.mat" in line and "cars_train/" in line

    top = trees.cub(tmp_path)
    broken = top / "images" / trees.BIRDS[4] / "Rusty_Blackbird_0001.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    line = refused(load_dataset, "cub50", 8)
    assert "005.Rusty_Blackbird/Rusty_Blackbird_0001.jpg cannot be decoded" in line
    assert not list(cache.glob("*.npy")) and not list(cache.glob("*.tmp"))
    broken.unlink()
    line = refused(load_dataset, "cub50", 8)
    assert "Rusty_Blackbird_0001.jpg cannot be read (No such file" in line
    broken.write_bytes(whole)

    labels = top / "image_class_labels.txt"
    listed = labels.read_text()
    for old, new, line in (
        ("17 6\n18 6", "17 5\n18 5", "fewer than 2 images in class 'Yellow headed Blackbird'"),
        ("4 2\n", "four 2\n", "do not list the same images"),
        ("4 2\n", "3 2\n", "do not list the same images"),
        ("4 2\n", "4 9\n", "do not list the same images"),
        ("4 2\n", "4\n", "image_class_labels.txt, line 4: expected 2 words"),
    ):
        labels.write_text(listed.replace(old, new, 1))
        assert line in refused(load_dataset, "cub50", 8)
    labels.unlink()
    line = refused(load_dataset, "cub50", 8)
    assert "lacks image_class_labels.txt" in line and "official layout" in line


def test_malformed_matlab_files_are_said(tmp_path):
    top = trees.cars(tmp_path, "devkit")
    train = top / "devkit" / "cars_train_annos.mat"
    trees.annotations(train, "fname", ["00001.jpg", "00002.jpg"], [1, 5])
    said = [refused(load_dataset, "cars196", 8)]
    savemat(train, {"other": 1})
    said.append(refused(load_dataset, "cars196", 8))
    train.write_bytes(b"no matlab file at all, but long enough to hold a header" * 10)
    said.append(refused(load_dataset, "cars196", 8))
    assert all("cars_train_annos.mat holds no annotations" in s for s in said)
    savemat(top / "devkit" / "cars_meta.mat", {"other": 1})
    assert "cars_meta.mat holds no" in refused(load_dataset, "cars196", 8)


@pytest.mark.parametrize("path", ["../../../outside.jpg", "{}/outside.jpg"])
def test_a_listed_path_cannot_leave_the_dataset(tmp_path, path):
    top = trees.cub(tmp_path)
    trees.tree(tmp_path, {"outside.jpg": trees.image_bytes(0, "JPEG")})
    listed = (top / "images.txt").read_text().splitlines()
    listed[0] = f"1 {path.format(tmp_path)}"
    (top / "images.txt").write_text("\n".join(listed))
    assert "outside.jpg cannot be read (it is outside)" in refused(load_dataset, "cub50", 8)


def shared(monkeypatch, name: str) -> Path:
    """Return a real dataset's folder, or skip the test."""
    if not (SHARED / f"{name}.zip").exists():
        pytest.skip(f"{name}.zip is not in {SHARED}")
    monkeypatch.setenv("MDR_DATA_ROOT", str(SHARED))
    return catalog.find(name)


def test_the_real_cub_mini(monkeypatch, capsys):
    shared(monkeypatch, "cub_mini")
    birds = load_dataset("cub_mini", 32)
    for split in (birds.train, birds.test):
        assert torch.bincount(split.labels).tolist() == [8] * 5
    assert birds.fingerprint.startswith("beab420c8a68bb4e")  # what stored runs were trained on
    assert birds.train.class_names[0] == "Black footed Albatross" and not capsys.readouterr().err


@pytest.mark.parametrize(
    "name, training, pairs, of_two_classes",
    [("cub50", 1402, 0, 0), ("cub200", 5864, 1, 0), ("cars196", 8054, 38, 36)],
)
def test_the_real_lists_have_the_official_counts_and_duplicates(
    monkeypatch, name, training, pairs, of_two_classes
):
    """Their lists and the zip files' checksums, which need no decoding: seconds, not minutes."""
    folder, known = shared(monkeypatch, name), catalog.KNOWN[name]
    rows = known.read(folder)
    assert (rows.number.nunique(), len(rows), rows.file.nunique()) == (
        known.classes, known.images, known.images,
    )  # fmt: skip
    assert {*rows.file} <= {*folders.files_of(folder)}
    half = rows.number < known.classes // 2
    assert {*rows.number} == {*range(known.classes)} and half.sum() == training
    with zipfile.ZipFile(SHARED / f"{name}.zip") as archive:
        rows["digest"] = [archive.getinfo(file).CRC for file in rows.file]
    found = duplicates(rows.assign(split=np.where(half, "train", "test")))
    assert found[:2] == (pairs, of_two_classes)

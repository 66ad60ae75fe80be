"""A user's own folders and zip files: what is a class, what is read, what is refused and how."""

import re
import unicodedata
import zipfile
from pathlib import Path

import pytest

from mdr_core.data import catalog
from mdr_core.data.dataset import load_dataset
from mdr_core.errors import StudyError
from tests.trees import image_bytes, refused, tree, zipped

FOUR = [f"{c}/{i}.png" for c in "abcd" for i in "12"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MDR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pack(folder: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / "z.zip", "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return folder / "z.zip"


def classes(path: Path, class_level: int = 0) -> dict[str, str]:
    """Return file -> class."""
    rows, _ = catalog.class_folders(catalog.unpacked(path), class_level)
    return dict(zip(rows.file, rows["name"], strict=True))


def load(path: Path, options: str = ""):
    return load_dataset(f"folder:{path}{options}", image_size=8)


def test_any_folder_of_class_folders_packed_or_not(tmp_path, cache):
    things = [f"{c}/{i}.png" for c in ("b c", "a", "日本", "<b>é") for i in "12"]
    path = tree(tmp_path / "things", [*things, "__MACOSX/._0.png", ".hidden/0.png"])
    one = load(path)
    assert {*one.train.class_names, *one.test.class_names} == {"<b>é", "a", "b c", "日本"}
    packed = load(zipped(path, tmp_path / "things.zip"))
    assert packed.fingerprint == one.fingerprint
    assert packed.train.paths == tuple(f"things/{path}" for path in one.train.paths)
    assert len([*(cache / "unpacked").iterdir()]) == 1


def test_the_level_of_the_classes_is_part_of_a_folder_s_name(tmp_path):
    birds = tree(tmp_path / "1", [f"birds/{b}/front/{i}.png" for b in "abcd" for i in "12"])
    line = refused(classes, birds)
    assert "two folders hold a folder front" in line and "class_level=1" in line
    assert {*classes(birds, 1).values()} == {*"abcd"}
    assert {*classes(birds, 2).values()} == {f"{b}/front" for b in "abcd"}
    assert "2 folders deep" in refused(classes, birds, 3)
    omniglot = [f"A{a}/c{a}{c}/{i}.png" for a in "12" for c in "12" for i in "12"]
    assert load(tree(tmp_path / "2", omniglot)).train.class_names == ("A1/c11", "A1/c12")
    deep = tree(tmp_path / "3", FOUR + [name.replace("/", "/side/") for name in FOUR])
    line = refused(load, deep)
    assert re.search("[abcd]/[12].png and [abcd]/side/[12].png", line) and "class_level=1" in line
    found = load(deep, ",class_level=1")
    assert found.train.class_names == ("a", "b") and len(found.test.labels) == 8


def split_already(root: Path, first: str) -> Path:
    names = [f"{f}/{c}/{i}.png" for f in first.split() for c in "abcdef" for i in "12"]
    return tree(root / "in", names)


@pytest.mark.parametrize("first", [
    "training_set/training_set test_set/test_set", "train holdout", "dev eval",
    "seg_train seg_test", "train_images test_images", "Train Test Validation",
])  # fmt: skip
def test_folders_that_are_split_already_hold_their_classes_once(tmp_path, first):
    assert {*classes(split_already(tmp_path, first)).values()} == {*"abcdef"}


@pytest.mark.parametrize("odd", ["contents.png", "crow/@eaDir/0.png", "crow/extra/more/0.png"])
def test_mixed_depths_are_refused_with_the_two_paths(tmp_path, odd):
    path = tree(tmp_path / "in", [f"{c}/{i}.png" for c in ("crow", "owl") for i in "12"] + [odd])
    line = refused(classes, path)
    assert str(path) in line and odd in line and re.search("(crow|owl)/[12].png", line)


@pytest.mark.parametrize("names, unread", [
    ([], ""), (["1.png", "2.png"], ""), (["a/b/1.png", "a/b/2.png"], ""),
    (["a/1.HEIC", "b/2.HEIC"], "2 files (.HEIC)"), (["a/1", "b/2"], "2 files (no ending)"),
    (["a/1.jpg_large", "b/2.CR2"], "2 files (.CR2, .jpg_large)"),
])  # fmt: skip
def test_a_folder_without_images_in_class_folders_is_refused(tmp_path, names, unread):
    (tmp_path / "in").mkdir()
    line = refused(classes, tree(tmp_path / "in", names))
    assert "no images in two or more class folders" in line and "<class>/<image>.jpg" in line
    assert unread in line and ("not read" in line) == bool(unread)


def test_too_few_classes_or_images_and_a_torn_image_are_said(tmp_path):
    path = tree(tmp_path / "in", FOUR[:6])
    assert "1 classes to train" in refused(load, path)
    assert "with one image: ['d', 'e']" in refused(load, tree(path, ["d/1.png", "e/1.png"]))
    tree(path, [*FOUR, "e/2.png"])
    assert "b/3.png cannot be decoded" in refused(load, tree(path, {"b/3.png": b"torn"}))


def test_a_line_says_what_is_a_class_and_what_is_not_read(tmp_path, capsys):
    names = [f"top/{s}/{c}/{i}.png" for s in ("test", "train") for c in "abcdef" for i in "12"]
    path = tree(tmp_path / "in", names)
    load(tree(path, {"top/train/g/1.heic": b"", "top/README": b"", ".DS_Store": b""}))
    assert capsys.readouterr().err == (
        f"{path}: 24 images of 6 classes (a to f); merged: test, train; "
        "not read: 2 files (.heic, no ending)\n"
    )


@pytest.mark.parametrize("kind, ending", [
    ("JPEG", "jfif"), ("JPEG", "jpe"), ("PPM", "pgm"), ("TIFF", "tif"), ("WEBP", "webp"),
    ("AVIF", "avif"), ("BMP", "BMP"), ("JPEG2000", "jp2"), ("TGA", "tga"), ("GIF", "Gif"),
])  # fmt: skip
def test_formats_of_photographs_are_read(tmp_path, kind, ending):
    names = [name.replace("png", ending) for name in FOUR]
    files = {name: image_bytes(number, kind) for number, name in enumerate(names)}
    found = load(tree(tmp_path / "in", files))
    assert len(found.train.labels) == len(found.test.labels) == 4


@pytest.mark.parametrize("outside", ["a/../../b/1.png", "/b/1.png", "../../b/1.png"])
def test_nothing_of_a_zip_is_written_outside(tmp_path, cache, outside):
    folder = catalog.unpacked(pack(tmp_path, {"a/1.png": b"1", outside: b"2"}))
    assert (folder / "a/1.png").read_bytes() == b"1" and not (tmp_path / "b").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"cache", "z.zip"} and not Path("/b").exists()
    assert [*(cache / "unpacked").iterdir()] == [folder]


def test_a_damaged_zip_is_said_and_leaves_nothing(tmp_path, cache):
    path = pack(tmp_path, dict.fromkeys(FOUR, b"content of the file"))
    content = path.read_bytes()
    for damaged in (content.replace(b"content", b"contend", 1), content[:-9], b"no zip"):
        path.write_bytes(damaged)
        assert "z.zip is no folder or good zip file" in refused(catalog.unpacked, path)
        assert not [*(cache / "unpacked").iterdir()]
    path.write_bytes(content)
    assert len(catalog.files_of(catalog.unpacked(path))) == 8


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    load(tree(tmp_path / "in", FOUR))
    assert len(load(Path("~/in")).train.labels) == 4
    assert "is no folder" in refused(load_dataset, "folder:~nobody_of_this_name/in")


def test_a_name_in_two_unicode_forms_is_one_class(tmp_path):
    forms = [unicodedata.normalize(form, "Café が") for form in ("NFC", "NFD")]
    path = tree(tmp_path / "in", [f"{c}/{i}.png" for c in ("a", "z", *forms) for i in range(2)])
    assert {*classes(path).values()} == {"a", "z", forms[0]}
    assert {*classes(zipped(path, tmp_path / "in.zip")).values()} == {"a", "z", forms[0]}


def test_all_classes_train_on_a_folder_s_images_and_on_no_other_dataset(tmp_path):
    path = tree(tmp_path / "in", [f"{c}/{i}.png" for c in "abcd" for i in (0, 1)])
    half, whole = (load_dataset(f"{kind}folder:{path}", 8) for kind in ("", "all:"))
    assert (half.train.class_names, whole.train.class_names) == (("a", "b"), tuple("abcd"))
    assert whole.train.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert whole.test.paths == half.test.paths and whole.train.paths[4:] == half.test.paths
    for name in ("drawn", "omniglot"):
        with pytest.raises(StudyError, match=f"unknown dataset 'all:{name}'"):
            load_dataset(f"all:{name}", 32)

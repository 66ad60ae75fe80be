"""A user's own folders and zip files: what is a class, what is read, what is refused and how."""

import ast
import os
import re
import stat
import unicodedata
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdr_core.data import folders, layouts
from mdr_core.data.dataset import load_dataset
from mdr_core.files import REPOSITORY
from tests.trees import image_bytes, refused, tree, zipped

WORDS = st.sampled_from(["crow", "owl", "é", "日本", "a b", "front", "x.y", "<b>", "2,5", "test"])
SOME = settings(max_examples=40, deadline=None)
FOUR = [f"{c}/{i}.png" for c in "abcd" for i in "12"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MDR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pack(path: Path, members: dict[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there
        for name, content in members.items():
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            file.writestr(info, content, info.compress_type)
    return path


def classes(path: Path, class_level: int = 0) -> dict[str, str]:
    """Return file -> class."""
    rows, _ = layouts.class_folders(folders.unpacked(path), class_level)
    return dict(zip(rows.file, rows["name"], strict=True))


def load(path: Path, options: str = ""):
    return load_dataset(f"folder:{path}{options}", image_size=8)


@st.composite
def trees_of_classes(draw) -> tuple[dict[str, str], int]:
    """Files with the classes that they belong to, and the classes' level."""
    depth = draw(st.integers(1, 3))
    paths = st.lists(WORDS, min_size=depth, max_size=depth).map("/".join)
    names = draw(
        st.lists(paths, min_size=2, max_size=6, unique=True).filter(
            lambda names: len({name.split("/")[0] for name in names}) > 1
        )
    )
    top = "".join(f"{word}/" for word in draw(st.lists(WORDS, max_size=2)))
    splits = draw(st.sampled_from([[""], ["train/", "test/"], ["Training/", "val/", "TEST/"]]))
    files = [
        (f"{top}{split}{name}/{i}.jpg", name) for name in names for split in splits for i in "01"
    ]
    return dict(files), depth


@SOME
@given(trees_of_classes(), st.booleans())
def test_a_class_is_the_path_below_what_holds_all(tmp_path_factory, made, archive):
    folder, (files, depth) = tmp_path_factory.mktemp("t"), made
    content = dict.fromkeys(files, b"")
    path = pack(folder / "t.zip", content) if archive else tree(folder / "t", content)
    assert classes(path, depth) == files


def test_any_folder_of_class_folders_packed_or_not(tmp_path, cache):
    things = [f"{c}/{i}.png" for c in ("b c", "a", "d'e", "f&g") for i in "12"]
    path = tree(tmp_path / "things", [*things, "__MACOSX/._0.png", ".hidden/0.png"])
    one = load(path)
    assert one.train.class_names == ("a", "b c") and one.test.class_names == ("d'e", "f&g")
    assert one.train.families is None and one.train.of_classes([1]).families is None
    packed = load(zipped(path, tmp_path / "things.zip"))
    assert packed.fingerprint == one.fingerprint
    assert packed.train.paths == tuple(f"things/{path}" for path in one.train.paths)
    assert len([*(cache / "unpacked").iterdir()]) == 1


def test_the_level_of_the_classes_is_part_of_a_folder_s_name(tmp_path, capsys):
    birds = tree(tmp_path / "1", [f"birds/{b}/front/{i}.png" for b in "abcd" for i in "12"])
    assert "a and b hold folders of the same name" in (line := refused(classes, birds))
    assert "class_level=1" in line
    assert {*classes(birds, 1).values()} == {*"abcd"}
    assert {*classes(birds, 2).values()} == {f"{b}/front" for b in "abcd"}
    assert "at most 2" in refused(classes, birds, 3)
    omniglot = [f"A{a}/c{a}{c}/{i}.png" for a in "12" for c in "12" for i in "12"]
    assert load(tree(tmp_path / "2", omniglot)).train.class_names == ("A1/c11", "A1/c12")
    deep = tree(tmp_path / "3", FOUR + [name.replace("/", "/side/") for name in FOUR])
    line = refused(load, deep)
    assert re.search("[abcd]/[12].png and [abcd]/side/[12].png", line) and "class_level=1" in line
    capsys.readouterr()
    found = load(deep, ",class_level=1")
    assert found.train.class_names == ("a", "b") and len(found.test.labels) == 8
    said = capsys.readouterr().err
    assert said == f"{deep}: 16 images of 4 classes (a, b, c, d)\n"


PRESPLIT = [
    ("train", "val"), ("training_set/training_set", "test_set/test_set"), ("train", "holdout"),
    ("seg_train/seg_train", "seg_test/seg_test"), ("train_images", "test_images"),
    ("images-train", "images-val"), ("Train", "Test", "Validation"),
]  # fmt: skip


@pytest.mark.parametrize("first", PRESPLIT, ids=" ".join)
def test_folders_that_are_split_already_hold_their_classes_once(tmp_path, first):
    path = tree(
        tmp_path / "in", [f"{f}/{c}/{i}.png" for f in first for c in "abcdef" for i in "12"]
    )
    assert {*classes(path).values()} == {*"abcdef"}


@pytest.mark.parametrize(
    "first",
    [("part1", "part2"), ("train", "more"), ("test", "train", "val", "extra")],
    ids=" ".join,
)
def test_what_may_be_split_already_is_refused(tmp_path, first):
    path = tree(
        tmp_path / "in", [f"{f}/{c}/{i}.png" for f in first for c in "abcdef" for i in "12"]
    )
    line = refused(classes, path)
    assert str(path) in line and first[0] in line and ("put each" in line or "remove it" in line)
    if len(first) > 2:
        assert "extra" in refused(classes, path, 1)


def test_words_that_begin_like_splits_are_classes(tmp_path):
    names = [
        f"{a}/{b}/{i}.png" for a, b in (("test_tubes", "x"), ("train_cars", "y")) for i in "12"
    ]
    assert {*classes(tree(tmp_path, names)).values()} == {"test_tubes/x", "train_cars/y"}


@pytest.mark.parametrize("level", [0, 1])
def test_images_beside_the_class_folders_of_another_split_are_named(tmp_path, level):
    path = tree(tmp_path / "in", [f"train/{name}" for name in FOUR] + ["test/1.png", "test/2.png"])
    line = refused(classes, path, level)
    assert re.search("test/[12].png", line) and "class_level=1" not in line


@pytest.mark.parametrize("name", ["Café", "が"])
@pytest.mark.parametrize("archive", [False, True])
def test_a_name_in_two_unicode_forms_is_one_class(tmp_path, name, archive):
    forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    beside = [f"{c}/{i}.png" for c in ("a", "z", *forms) for i in range(2)]
    split = [f"{s}/{c}/1.png" for s, form in zip(("train", "val"), forms, strict=True)
             for c in ("a", "z", form)]  # fmt: skip
    for number, names in enumerate((beside, split)):
        path = tree(tmp_path / f"{number}", names)
        path = zipped(path, tmp_path / f"{number}.zip") if archive else path
        assert {*classes(path).values()} == {"a", "z", forms[0]}


@pytest.mark.parametrize("odd", ["contents.png", "crow/@eaDir/0.png", "crow/extra/more/0.png"])
def test_mixed_depths_are_refused_with_the_two_paths(tmp_path, odd):
    path = tree(tmp_path / "in", [f"{c}/{i}.png" for c in ("crow", "owl") for i in "12"] + [odd])
    line = refused(classes, path)
    assert str(path) in line and odd in line and re.search("(crow|owl)/[12].png", line)
    assert "move or remove" in line


@pytest.mark.parametrize(
    "names, unread",
    [
        ([], ""), (["1.png", "2.png"], ""), (["a/b/1.png", "a/b/2.png"], ""),
        (["a/1.HEIC", "b/2.HEIC"], "2 files (.heic)"), (["a/1", "b/2"], "2 files (no ending)"),
        (["a/1.jpg_large", "b/2.CR2"], "2 files (.cr2, .jpg_large)"),
    ],
)  # fmt: skip
def test_a_folder_without_images_in_class_folders_is_refused(tmp_path, names, unread):
    (tmp_path / "in").mkdir()
    line = refused(classes, tree(tmp_path / "in", names))
    assert "no images in two or more class folders: expected <class>/<image>.jpg" in line
    assert line.endswith(unread and f"not read: {unread}")


def test_all_that_is_wrong_with_a_folder_is_told_at_once(tmp_path):
    line = refused(load, tree(tmp_path / "three", FOUR[:6]))
    assert "has 1 classes to train: at least 2 are needed" in line
    line = refused(load, tree(tmp_path / "few", [f"{c}/1.png" for c in "efghi"] + FOUR))
    assert "fewer than 2 images in class 'e', 'f', 'g' and 2 more" in line
    broken = {f"{c}/3.png": b"torn" for c in "abcd"}
    line = refused(load, tree(tree(tmp_path / "torn", FOUR), broken))
    assert line.count("cannot be decoded") == 3 and line.endswith("and 1 more files")


def test_a_line_says_what_is_a_class_and_what_is_not_read(tmp_path, capsys):
    names = [f"top/{s}/{c}/{i}.png" for s in ("test", "train") for c in "abcdef" for i in "12"]
    path = tree(tmp_path / "in", names)
    load(tree(path, {"top/train/g/1.heic": b"", "top/README": b"", ".DS_Store": b""}))
    assert capsys.readouterr().err == (
        f"{path}: 24 images of 6 classes (a, b, c, ... f); test and train are merged; "
        "not read: 2 files (.heic, no ending)\n"
    )


def test_links_are_followed_and_loops_refused(tmp_path):
    real = tree(tmp_path / "real", [f"{c}/{i}.png" for c in "abc" for i in "12"])
    elsewhere = tree(tmp_path / "elsewhere", ["1.png", "2.png"])
    (real / "d").symlink_to(elsewhere, target_is_directory=True)
    (real / "c" / "3.png").symlink_to(elsewhere / "1.png")
    (tmp_path / "link").symlink_to(real, target_is_directory=True)
    assert sorted(classes(tmp_path / "link").values()) == [*"aabbcccdd"]
    for place in (elsewhere / "up", real / "e"):  # a loop, or a class read twice
        place.symlink_to(real if place.name == "up" else elsewhere, target_is_directory=True)
        assert "remove the link" in refused(classes, real)
        place.unlink()
    (real / "a" / "9.png").symlink_to(tmp_path / "gone")
    assert "a/9.png cannot be read" in refused(load, real)


def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    path, scan = tree(tmp_path / "in", ["a/1.png", "b/1.png"]), os.scandir

    def denied(folder):  # the superuser may read everything
        if str(folder).endswith("b"):
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", denied)
    assert f"{path}/b cannot be read (Permission denied): allow" in refused(classes, path)


@pytest.mark.parametrize(
    "kind, ending",
    [
        ("JPEG", "jfif"), ("JPEG", "jpe"), ("PPM", "pgm"), ("TIFF", "tif"), ("WEBP", "webp"),
        ("AVIF", "avif"), ("BMP", "BMP"), ("JPEG2000", "jp2"), ("TGA", "tga"), ("GIF", "Gif"),
    ],
)  # fmt: skip
def test_what_pillow_reads_is_read(tmp_path, kind, ending):
    names = [name.replace("png", ending) for name in FOUR]
    files = {name: image_bytes(number, kind) for number, name in enumerate(names)}
    found = load(tree(tmp_path / "in", files))
    assert len(found.train.labels) == len(found.test.labels) == 4


@SOME
@given(
    st.lists(st.tuples(WORDS, st.integers(0, 9)), min_size=2, max_size=6, unique=True), st.data()
)
def test_members_of_zips_are_read_however_their_names_are_written(tmp_path_factory, files, data):
    names = [f"{word}/{number}.png" for word, number in files]
    ways = st.sampled_from([
        lambda n: n, lambda n: f"./{n}", lambda n: n.replace("/", "\\"),
        lambda n: n.replace("/", "//"), lambda n: f".\\{n}",
    ])  # fmt: skip
    members = {data.draw(ways)(name): name.encode() for name in names}
    folder = tmp_path_factory.mktemp("z")
    found = folders.unpacked(pack(folder / "z.zip", {"crow/": b"", **members}))
    assert folders.files_of(found) == sorted(names)
    assert [(found / name).read_bytes().decode() for name in names] == names
    twice = zipfile.ZipInfo(data.draw(ways)(names[0]))
    line = refused(folders.unpacked, pack(folder / "twice.zip", {**members, twice: b""}))
    assert names[0] in line and "stands twice" in line


def special(name: str, mode: int = 0, method: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr, info.compress_type = mode << 16, method
    return info


@pytest.mark.parametrize(
    "member, line",
    [
        (special("a/../../b/1.png"), "leads out"),
        (special("/etc/1.png"), "leads out"),
        (special("..\\b\\1.png"), "leads out"),
        (special("a/link.png", stat.S_IFLNK | 0o777), "is a link"),
        (special("a/2.png", 0, zipfile.ZIP_DEFLATED), "times as large"),
    ],
    ids=["up", "absolute", "Windows", "link", "bomb"],
)
def test_unsafe_zips_are_not_unpacked(tmp_path, cache, member, line):
    path = pack(tmp_path / "z.zip", {"a/1.png": b"1", member: b"0" * 10**5})
    assert line in refused(folders.unpacked, path)
    assert not [*(cache / "unpacked").iterdir()] and not (tmp_path / "b").exists()


def test_a_file_inside_a_zip_has_a_largest_size(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MOST_BYTES", 4)
    assert "a/2.png is over" in refused(
        folders.unpacked, pack(tmp_path / "z.zip", {"a/1.png": b"1234", "a/2.png": b"12345"})
    )


def test_a_damaged_zip_is_said_and_leaves_nothing(tmp_path, cache):
    path = pack(tmp_path / "z.zip", dict.fromkeys(FOUR, b"content of the file"))
    content = path.read_bytes()
    for damaged in (content.replace(b"content", b"contend", 1), content[:-9], b"no zip"):
        path.write_bytes(damaged)
        assert "z.zip cannot be unpacked" in refused(folders.unpacked, path)
        assert not [*(cache / "unpacked").iterdir()]
    path.write_bytes(content)
    assert len(folders.files_of(folders.unpacked(path))) == 8


def test_names_that_are_not_utf_8_are_refused(tmp_path):
    for encoding in ("utf-8", "cp437"):  # in a zip file without the flag that says which
        raw = "ó".encode(encoding)
        path = pack(tmp_path / "z.zip", {f"cr{'~' * len(raw)}w/1.png": b""})
        path.write_bytes(path.read_bytes().replace(b"~" * len(raw), raw))
        if encoding == "utf-8":
            assert folders.files_of(folders.unpacked(path)) == ["crów/1.png"]
    assert "names in UTF-8" in refused(folders.unpacked, path)
    for name in (b"caf\xe9/1.png", b"a/\xff.png"):
        folder = os.fsencode(tmp_path) + b"/" + name[:1]
        os.makedirs(os.path.dirname(os.path.join(folder, name)))
        open(os.path.join(folder, name), "w").close()
        line = refused(classes, Path(os.fsdecode(folder)))
        assert "is not UTF-8: rename it" in line and "\\udc" in line


def test_no_text_is_read_or_written_in_the_locale_s_encoding():
    for path in REPOSITORY.glob("mdr_core/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            named = {keyword.arg for keyword in node.keywords}
            in_bytes = [ast.dump(argument) for argument in node.args[1:2]]
            binary = "b'" in str(in_bytes) or re.search(
                "Image|tarfile|request", ast.dump(node.func)
            )
            if name in ("open", "read_text", "write_text") and not binary:
                assert "encoding" in named, f"{path}, line {node.lineno}"


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    load(tree(tmp_path / "in", FOUR))
    assert len(load(Path("~/in")).train.labels) == 4
    assert "no folder" in refused(load_dataset, "folder:~nobody_of_this_name/in")


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=8))
def test_duplicates_are_counted_by_content(tmp_path_factory, copies):
    """``copies``: the class, and the content, of further images."""
    folder = tmp_path_factory.mktemp("d")
    images = [(label, 10 * label + i) for label in range(4) for i in range(2)] + copies
    files = {f"{c}/{i}.bmp": image_bytes(n, "BMP") for i, (c, n) in enumerate(images)}
    found = load(tree(folder, files)).duplicates
    pairs = [(a, b) for i, (a, x) in enumerate(images) for b, y in images[:i] if x == y]
    of_two_classes = sum(a != b for a, b in pairs)
    of_two_splits = sum((a < 2) != (b < 2) for a, b in pairs)
    assert found[:3] == (len(pairs), of_two_classes, of_two_splits)
    assert len({files[path] for path in found.example}) == bool(pairs)


def test_duplicates_are_said_once(tmp_path, capsys):
    path = tree(tmp_path / "in", FOUR)
    load(tree(path, {"d/copy.png": image_bytes(0)}))
    said = capsys.readouterr().err.splitlines()[1:]
    assert len(said) == 1 and "a/1.png and d/copy.png; they distort Recall@1: remove one" in said[0]

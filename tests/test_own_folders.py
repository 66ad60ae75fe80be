"""A user's own folders and zip files: what is a class, what is read, what is refused and how."""

import ast
import io
import os
import re
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mdr_core.data import layouts
from mdr_core.data.dataset import load_dataset
from mdr_core.data.source import Source
from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY

WORDS = st.sampled_from(["crow", "owl", "é", "日本", "a b", "front", "x.y", "<b>", "2,5", "test"])
SOME = settings(max_examples=40, deadline=None)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MDR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


def image_bytes(number: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def tree(root: Path, files: dict[str, bytes] | list[str]) -> Path:
    """Write files, each of its own content where only names are given."""
    if not isinstance(files, dict):
        files = {name: image_bytes(number) for number, name in enumerate(files)}
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def pack(path: Path, members: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there
        for number, name in enumerate(members):
            file.writestr(zipfile.ZipInfo(name), str(number))
    return path


def classes(path: Path, class_level: int = 0) -> dict[str, str]:
    """Return file -> class."""
    found = layouts.class_folders(Source(path), class_level)
    return {
        file: found.class_names[label]
        for file, label in zip(found.files, found.labels.tolist(), strict=True)
    }


def refused(act, *arguments) -> str:
    """Return the one line that it ends with."""
    with pytest.raises(StudyError) as caught:
        act(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@st.composite
def trees(draw) -> dict[str, str]:
    """Files with the classes that they belong to."""
    depth = draw(st.integers(1, 3))
    paths = st.lists(WORDS, min_size=depth, max_size=depth).map("/".join)
    names = draw(
        st.lists(paths, min_size=2, max_size=6, unique=True).filter(
            lambda names: len({name.split("/")[0] for name in names}) > 1
        )
    )
    top = "".join(f"{word}/" for word in draw(st.lists(WORDS, max_size=2)))
    splits = draw(st.sampled_from([[""], ["train/", "test/"], ["Training/", "val/", "TEST/"]]))
    return {
        f"{top}{split}{name}/{i}.jpg": name for name in names for split in splits for i in range(2)
    }


@SOME
@given(trees(), st.booleans())
def test_a_class_is_the_path_below_what_holds_all(tmp_path_factory, files, archive):
    folder = tmp_path_factory.mktemp("t")
    path = pack(folder / "t.zip", [*files]) if archive else tree(folder, dict.fromkeys(files, b""))
    assert classes(path) == files


def test_the_examples_of_nested_folders(tmp_path):
    birds = tree(tmp_path / "1", [f"birds/{b}/front/{i}.png" for b in "ab" for i in "12"])
    assert set(classes(birds).values()) == {"a/front", "b/front"}
    assert set(classes(birds, 1).values()) == {"a", "b"}
    omniglot = tree(
        tmp_path / "2",
        [f"Alphabet_{a}/character0{c}/{i}.png" for a in "AB" for c in "12" for i in "12"],
    )
    assert len(set(classes(omniglot).values())) == 4
    assert set(classes(omniglot, 1).values()) == {"Alphabet_A", "Alphabet_B"}
    loaded = load_dataset(f"folder:{omniglot}", image_size=8)
    assert loaded.train.class_names == ("Alphabet_A/character01", "Alphabet_A/character02")
    assert "give a smaller class_level" in refused(classes, omniglot, 3)


def test_the_level_of_the_classes_is_part_of_a_folder_s_name(tmp_path, capsys):
    names = [f"{c}/{view}{i}.png" for c in "abcd" for view in ("", "side/") for i in "12"]
    path = tree(tmp_path / "birds", names)
    line = refused(load_dataset, f"folder:{path}", None, 8)
    assert re.search("[abcd]/[12].png and [abcd]/side/[12].png", line) and "class_level=1" in line
    found = load_dataset(f"folder:{path},class_level=1", image_size=8)
    assert found.train.class_names == ("a", "b") and len(found.test.labels) == 8
    said = capsys.readouterr().err
    assert said == f"{path}: 16 images, each folder is a class: 4 (a, b, c, d)\n"
    flat = tree(tmp_path / "flat", [n for n in names if "side" not in n])
    assert load_dataset(f"folder:{flat}", image_size=8).fingerprint != found.fingerprint


@pytest.mark.parametrize("odd", ["contents.png", "crow/@eaDir/0.png", "crow/extra/more/0.png"])
def test_mixed_depths_are_refused_with_the_two_paths(tmp_path, odd):
    path = tree(tmp_path / "in", [f"{c}/{i}.png" for c in ("crow", "owl") for i in "12"] + [odd])
    line = refused(classes, path)
    assert str(path) in line and odd in line and re.search("(crow|owl)/[12].png", line)
    assert "move or remove" in line


@pytest.mark.parametrize(
    "names", [[], ["notes.txt"], ["1.png", "2.png"], ["a/b/1.png", "a/b/2.png"]]
)
def test_a_folder_without_class_folders_is_refused(tmp_path, names):
    (tmp_path / "in").mkdir()
    line = refused(classes, tree(tmp_path / "in", names))
    assert "no images in two or more class folders: expected <class>/<image>.jpg" in line


def test_all_that_is_wrong_with_a_folder_is_told_at_once(tmp_path):
    three = tree(tmp_path / "three", [f"{c}/{i}.png" for c in "abc" for i in "12"])
    line = refused(lambda path: load_dataset(f"folder:{path}", image_size=8), three)
    assert "has 3 classes, 1 of them to train: at least 4 are needed, 2 to train" in line
    alone = [f"{c}/1.png" for c in "abcde"] + [f"{c}/{i}.png" for c in "fghij" for i in "12"]
    line = refused(
        lambda path: load_dataset(f"folder:{path}", image_size=8), tree(tmp_path / "few", alone)
    )
    assert "class 'a', 'b', 'c' and 2 more of" in line and "at least 2 of every class" in line
    broken = {f"{c}/{i}.png": image_bytes(i + ord(c)) for c in "abcd" for i in (1, 2)}
    broken |= {f"{c}/3.png": b"torn" for c in "abcd"}
    line = refused(
        lambda path: load_dataset(f"folder:{path}", image_size=8), tree(tmp_path / "torn", broken)
    )
    assert line.count("cannot be decoded") == 3 and line.endswith("and 1 more files")


def test_a_line_says_what_is_a_class_and_what_is_not_read(tmp_path, capsys):
    names = [f"top/{s}/{c}/{i}.png" for s in ("test", "train") for c in "abcdef" for i in "12"]
    files = {name: image_bytes(number) for number, name in enumerate(names)}
    files |= {"top/train/g/1.heic": b"", "top/README": b"", ".DS_Store": b""}
    path = tree(tmp_path / "in", files)
    load_dataset(f"folder:{path}", image_size=8)
    assert capsys.readouterr().err == (
        f"{path}: 24 images, each folder below top/ (test and train merged) is a class: "
        "6 (a, b, c, ... f); not read: 2 files (.heic, no ending), as top/README\n"
    )


def test_links_are_followed_and_loops_refused(tmp_path):
    real = tree(tmp_path / "real", [f"{c}/{i}.png" for c in "abc" for i in "12"])
    elsewhere = tree(tmp_path / "elsewhere", ["1.png", "2.png"])
    (real / "d").symlink_to(elsewhere, target_is_directory=True)
    (real / "c" / "3.png").symlink_to(elsewhere / "1.png")
    (tmp_path / "link").symlink_to(real, target_is_directory=True)
    found = classes(tmp_path / "link")
    assert sorted(found.values()) == [*"aabbcccdd"]
    (elsewhere / "up").symlink_to(real, target_is_directory=True)
    assert "d/up/ links to a folder that holds it: remove the link" in refused(Source, real)
    (elsewhere / "up").unlink()
    for name in ("a/9.png", "e"):  # an image, or a class
        (real / name).symlink_to(tmp_path / "gone")
        line = refused(Source, real)
        assert f"{real}: {name} leads to nothing" in line and "remove it" in line
        (real / name).unlink()


def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    path, scan = tree(tmp_path / "in", ["a/1.png", "b/1.png"]), os.scandir

    def denied(folder):  # the superuser may read everything
        if os.fsencode(folder).rstrip(b"/").endswith(b"b"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", denied)
    line = refused(Source, path)
    assert (
        line
        == f"{path}: folder b/ cannot be read (Permission denied): allow reading it, or remove it"
    )


@pytest.mark.parametrize(
    "kind, ending",
    [
        ("JPEG", "jfif"), ("JPEG", "jpe"), ("PPM", "pgm"), ("TIFF", "tif"), ("WEBP", "webp"),
        ("AVIF", "avif"), ("BMP", "BMP"), ("JPEG2000", "jp2"), ("TGA", "tga"), ("GIF", "Gif"),
    ],
)  # fmt: skip
def test_what_pillow_reads_is_read(tmp_path, kind, ending):
    names = [f"{c}/{i}.{ending}" for c in "abcd" for i in "12"]
    files = {name: image_bytes(number, kind) for number, name in enumerate(names)}
    found = load_dataset(f"folder:{tree(tmp_path / 'in', files)}", image_size=8)
    assert len(found.train.labels) == len(found.test.labels) == 4


@SOME
@given(
    st.lists(st.tuples(WORDS, st.integers(0, 9)), min_size=2, max_size=6, unique=True), st.data()
)
def test_members_of_zips_are_read_however_their_names_are_written(tmp_path_factory, files, data):
    names = [f"{word}/{number}.png" for word, number in files]
    ways = st.sampled_from([
        lambda n: n, lambda n: f"./{n}", lambda n: n.replace("/", "\\"), lambda n: f"/{n}",
        lambda n: n.replace("/", "//"), lambda n: f".\\{n}",
    ])  # fmt: skip
    written = [data.draw(ways)(name) for name in names]
    folder = tmp_path_factory.mktemp("z")
    source = Source(pack(folder / "z.zip", ["./", "crow/", "owl\\", *written]))
    assert sorted(source.files) == sorted(names)
    assert [source.read(name) for name in names] == [str(3 + i).encode() for i in range(len(names))]
    twice = pack(folder / "twice.zip", [*written, data.draw(ways)(names[0])])
    assert f"{names[0]} stands twice in the zip file" in refused(Source, twice)


def test_a_member_that_leads_out_of_the_zip_is_refused(tmp_path):
    path = pack(tmp_path / "z.zip", ["a/1.png", "a/../../b/1.png"])
    assert "../b/1.png leads out of the zip file" in refused(Source, path)


def test_zips_of_other_encodings(tmp_path):
    """UTF-8 names without the flag that says so, and those of old Windows programs."""
    for encoding in ("utf-8", "cp437"):
        raw = "ó".encode(encoding)
        path = pack(tmp_path / "z.zip", [f"cr{'~' * len(raw)}w/1.png"])
        path.write_bytes(path.read_bytes().replace(b"~" * len(raw), raw))
        assert [*Source(path).files] == ["crów/1.png"]
        assert Source(path).read("crów/1.png") == b"0"


def test_names_that_are_not_utf_8_are_refused(tmp_path):
    for name in (b"caf\xe9/1.png", b"a/\xff.png"):
        folder = os.fsencode(tmp_path) + b"/" + name[:1]
        os.makedirs(os.path.dirname(os.path.join(folder, name)))
        open(os.path.join(folder, name), "w").close()
        line = refused(Source, Path(os.fsdecode(folder)))
        assert "is not UTF-8: rename it" in line and "\\x" in line
    assert "is not UTF-8" in refused(Source, Path("caf\udce9"))


LISTED = """
import sys
from pathlib import Path
from mdr_core.data import layouts
found = layouts.class_folders(layouts.Source(Path(sys.argv[1])))
print(ascii(found.class_names), len(layouts.Source(Path(sys.argv[1])).read(found.files[0])))
"""


@pytest.mark.parametrize("locale", [{"PYTHONUTF8": "1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_names_are_utf_8_whatever_the_locale(tmp_path, locale):
    path = tree(tmp_path / "in", {"日本/1.png": b"1234", "œuf/1.png": b"1"})
    environment = os.environ | {"PYTHONCOERCECLOCALE": "0"} | locale
    command = [sys.executable, "-c", LISTED, str(path)]
    said = subprocess.check_output(command, env=environment, cwd=REPOSITORY, text=True)
    assert said == f"{ascii(('œuf', '日本'))} 1\n"


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
    monkeypatch.setenv("MDR_CACHE", "~/kept")
    names = [f"{c}/{i}.png" for c in "abcd" for i in "12"]
    tree(tmp_path / "in", names)
    load_dataset("folder:~/in", image_size=8)
    assert len([*(tmp_path / "kept" / "decoded").glob("*.npy")]) == 1
    monkeypatch.setenv("MDR_DATA_ROOT", "~/data")
    assert str(tmp_path / "data") in refused(load_dataset, "cub200")
    assert "no folder" in refused(load_dataset, "folder:~nobody_of_this_name/in")


@pytest.mark.parametrize("swap", ["renamed", "overwritten"])
def test_other_content_of_the_same_size_and_time_is_noticed(tmp_path, swap):
    names = [f"{c}/{i}.bmp" for c in "abcd" for i in "12"]
    files = {name: image_bytes(number, "BMP") for number, name in enumerate(names)}
    path = tree(tmp_path / "in", files)
    for name in names:
        os.utime(path / name, (1e9, 1e9))
    before = load_dataset(f"folder:{path}", image_size=8)
    one, two = path / names[0], path / names[2]
    if swap == "renamed":
        one.rename(tmp_path / "x")
        two.rename(one)
        (tmp_path / "x").rename(two)
    else:
        first = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(first)
        os.utime(one, (1e9, 1e9))
        os.utime(two, (1e9, 1e9))
    after = load_dataset(f"folder:{path}", image_size=8)
    assert after.fingerprint != before.fingerprint
    assert (after.train.images[0] == before.train.images[2]).all()
    assert (after.train.images[0] != before.train.images[0]).any()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=8))
def test_duplicates_are_counted_by_content(tmp_path_factory, copies):
    """``copies``: the class, and the content, of further images."""
    folder = tmp_path_factory.mktemp("d")
    images = [(label, 10 * label + i) for label in range(4) for i in range(2)] + copies
    files = {f"{c}/{i}.bmp": image_bytes(n, "BMP") for i, (c, n) in enumerate(images)}
    found = load_dataset(
        f"folder:{tree(folder / 'in', files)}", None, 8, folder / "cache"
    ).duplicates
    pairs = [(a, b) for i, (a, x) in enumerate(images) for b, y in images[:i] if x == y]
    of_two_classes = sum(a != b for a, b in pairs)
    of_two_splits = sum((a < 2) != (b < 2) for a, b in pairs)
    assert found[:3] == (len(pairs), of_two_classes, of_two_splits)
    assert len({files[path] for path in found.example}) == bool(pairs)


def test_duplicates_are_said_once(tmp_path, capsys):
    files = {f"{c}/{i}.png": image_bytes(ord(c) + 9 * i) for c in "abcd" for i in range(2)}
    path = tree(tmp_path / "in", files | {"d/copy.png": files["a/0.png"]})
    load_dataset(f"folder:{path}", image_size=8)
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"folder:{path}: 1 pair(s) of image files are equal, 1 of them in two classes, 1 in a "
        "training and a test class, as a/0.png and d/copy.png; they distort Recall@1: "
        "remove one of each pair"
    ]


@pytest.mark.parametrize("name, pairs, of_two_classes", [("cub200", 1, 0), ("cars196", 38, 36)])
def test_the_real_duplicates(name, pairs, of_two_classes):
    """By the files' checksums in the zip file alone, which tell as much and need no decoding."""
    path = REPOSITORY.parent / "shared" / "data" / f"{name}.zip"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    from mdr_core.data.catalog import KNOWN
    from mdr_core.data.dataset import Split, duplicates

    source = Source(path)
    listing = KNOWN[name].read(source)
    labels = listing.labels
    split = Split(labels, layouts.np.asarray(labels), listing.class_names, tuple(listing.files))
    digest = {file: str(source.stamp(file)) for file in listing.files}
    found = duplicates({"train": split}, digest)
    assert found[:2] == (pairs, of_two_classes)

"""Reading datasets: official layouts in folders and zip files, the cache, errors, the real data."""

import errno
import io
import os
import shutil
import signal
import time
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from mdr_core.data import catalog, fingerprint, image_cache, layouts, source
from mdr_core.data.dataset import load_dataset
from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY
from tests.processes import started

BIRDS = (
    "001.Black_footed_Albatross",
    "002.Laysan_Albatross",
    "003.Sooty_Albatross",
    "004.Groove-billed_Ani",
    "005.Rusty_Blackbird",
    "006.Yellow_headed_Blackbird",
)
CARS = (
    "AM General Hummer SUV 2000",
    "Acura RL Sedan 2012",
    "Acura TL Sedan 2012",
    "Audi S4 Sedan 2012",
)
SHARED = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own, and no data root but the one that the test gives."""
    monkeypatch.setenv("MDR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MDR_DATA_ROOT", raising=False)
    return tmp_path / "cache" / "decoded"


@pytest.fixture(autouse=True)
def small_is_expected():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*officially.*")
        yield


def picture(path: Path, number: int, mode="RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def cub_tree(root: Path, birds=BIRDS, each=3) -> Path:
    top = root / "CUB_200_2011"
    listed = [f"{bird}/{bird[4:]}_{n:04d}.jpg" for bird in birds for n in range(each)]
    for number, name in enumerate(listed):
        picture(top / "images" / name, number)
    lines = lambda values: "".join(f"{i} {v}\n" for i, v in enumerate(values, start=1))  # noqa: E731
    (top / "images.txt").write_text(lines(listed))
    (top / "image_class_labels.txt").write_text(
        lines(1 + birds.index(name.split("/")[0]) for name in listed)
    )
    (top / "classes.txt").write_text(lines(birds))
    return top


def annotations(path: Path, field: str, names: list[str], classes: list[int], **more) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.zeros(
        (1, len(names)), dtype=[("bbox_x1", object), ("class", object), (field, object)]
    )
    for i, (name, number) in enumerate(zip(names, classes, strict=True)):
        rows[0, i] = (1, number, name)
    savemat(path, {"annotations": rows} | more)


def cars_tree(root: Path, variant: str) -> Path:
    """``legacy``: car_ims and cars_annos.mat; ``devkit``: cars_train and cars_test."""
    top, meta = root / "stanford_cars", {"class_names": np.array([CARS], dtype=object)}
    names, classes = [f"{i:05d}.jpg" for i in range(1, 9)], [1, 2, 3, 4, 4, 3, 2, 1]
    if variant == "legacy":
        names, classes = [f"car_ims/{i:06d}.jpg" for i in range(1, 17)], classes * 2
        annotations(top / "cars_annos.mat", "relative_im_path", names, classes, **meta)
        for number, name in enumerate(names):
            picture(top / name, number)
        return top
    (top / "devkit").mkdir(parents=True)
    savemat(top / "devkit" / "cars_meta.mat", meta)
    annotations(top / "devkit" / "cars_train_annos.mat", "fname", names, classes)
    annotations(top / "cars_test_annos_withlabels.mat", "fname", names, classes)
    for part in ("cars_train", "cars_test"):
        for number, name in enumerate(names):
            picture(top / part / name, number + 100 * (part == "cars_test"))
    return top


def zipped(tree: Path, path: Path) -> Path:
    """A zip of a tree, with entries for the folders themselves, as the shared ones have."""
    with zipfile.ZipFile(path, "w") as out:
        for p in [tree, *sorted(tree.rglob("*"))]:
            out.write(p, p.relative_to(tree.parent))
    shutil.rmtree(tree)
    return path


@pytest.mark.parametrize("place", ["bare", "named", "zip"])
def test_cub_from_folder_named_folder_and_zip(tmp_path, place):
    root = tmp_path / "root"
    tree = cub_tree(root / "cub50" if place == "named" else root)
    if place == "zip":
        zipped(tree, root / "cub50.zip")
    with pytest.warns(
        UserWarning, match="cub50 has 6 classes and 18 images here, officially 50 and 2889"
    ):
        birds = load_dataset("cub50", root, image_size=8)
    assert birds.train.class_names == (
        "Black footed Albatross",
        "Laysan Albatross",
        "Sooty Albatross",
    )
    assert birds.test.class_names == (
        "Groove-billed Ani",
        "Rusty Blackbird",
        "Yellow headed Blackbird",
    )
    assert (
        birds.test.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        and birds.test.labels.dtype == torch.int64
    )
    assert birds.train.families.tolist() == [0, 0, 0] and birds.test.families.tolist() == [1, 2, 2]
    assert birds.train.images.shape == (9, 3, 8, 8) and birds.train.images.dtype == torch.uint8
    assert birds.train.images.is_contiguous(memory_format=torch.channels_last)
    assert birds.test.images.is_contiguous(memory_format=torch.channels_last)
    assert birds.train.paths[0].endswith(
        "images/001.Black_footed_Albatross/Black_footed_Albatross_0000.jpg"
    )
    assert len(birds.fingerprint) == 64


def test_a_zip_goes_before_a_named_folder_and_that_before_the_bare_one(tmp_path):
    cub_tree(tmp_path, BIRDS[:4])
    assert len(load_dataset("cub50", tmp_path, 8).train.class_names) == 2
    cub_tree(tmp_path / "cub50", BIRDS[:5])
    assert len(load_dataset("cub50", tmp_path, 8).test.class_names) == 3
    zipped(cub_tree(tmp_path / "other"), tmp_path / "cub50.zip")
    assert len(load_dataset("cub50", tmp_path, 8).train.class_names) == 3
    assert (
        len(load_dataset("cub200", tmp_path, 8).train.class_names) == 2
    )  # the bare folder, not another dataset's zip


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("variant", ["legacy", "devkit"])
def test_cars_in_both_official_layouts(tmp_path, variant, archive):
    tree = cars_tree(tmp_path, variant)
    if archive:
        zipped(tree, tmp_path / "stanford_cars.zip")
    cars = load_dataset("cars196", tmp_path, 8)
    assert cars.train.class_names == CARS[:2] and cars.test.class_names == CARS[2:]
    for split in (cars.train, cars.test):
        assert torch.bincount(split.labels).tolist() == [4, 4]
    assert cars.train.families.tolist() == [0, 1] and cars.test.families.tolist() == [1, 2]


@pytest.mark.parametrize("there", ["legacy", "devkit"])
def test_of_two_lists_of_cars_the_one_is_read_whose_images_are_there(tmp_path, there):
    cars_tree(tmp_path / "one", there)
    alone = load_dataset("cars196", tmp_path / "one", 8)
    for variant in ("legacy", "devkit"):
        tree = cars_tree(tmp_path / "both", variant)
    for folder in ("car_ims",) if there == "devkit" else ("cars_train", "cars_test"):
        shutil.rmtree(tree / folder)
    both = load_dataset("cars196", tmp_path / "both", 8)
    assert both.fingerprint == alone.fingerprint and both.train.paths == alone.train.paths


def products_tree(root: Path) -> Path:
    top = root / "Stanford_Online_Products"
    for part, numbers in (("train", (1, 2, 3)), ("test", (4, 5))):
        lines = ["image_id class_id super_class_id path"]
        for number in numbers:
            for n in range(2):
                path = f"{'bicycle' if number % 2 else 'chair'}_final/{number}_{n}.JPG"
                picture(top / path, 10 * number + n)
                lines.append(f"{2 * number + n} {number} {1 + number % 2} {path}")
        (top / f"Ebay_{part}.txt").write_text("\n".join(lines) + "\n")
    return top


@pytest.mark.parametrize("archive", [False, True])
def test_products_in_the_official_split(tmp_path, archive):
    tree = products_tree(tmp_path)
    if archive:
        zipped(tree, tmp_path / "sop.zip")
    products = load_dataset("sop", tmp_path, 8)
    assert (
        products.train.class_names == ("bicycle 1", "chair 2", "bicycle 3")
        and products.gallery is None
    )
    assert products.test.class_names == (
        "chair 4",
        "bicycle 5",
    ) and products.test.labels.tolist() == [0, 0, 1, 1]
    assert products.test.paths[0].endswith("chair_final/4_0.JPG")
    assert products.train.families[0] == products.test.families[1] != products.test.families[0]


@pytest.mark.parametrize("name, lines", [("sop", 1), ("inshop", 1), ("inshop", 2)])
def test_a_list_without_its_header_is_the_same_list(tmp_path, name, lines):
    top = products_tree(tmp_path) if name == "sop" else clothes_tree(tmp_path, CLOTHES)
    whole = load_dataset(name, tmp_path, 8)
    for path in top.rglob("*.txt"):  # with a byte order mark, as editors put it
        path.write_text("\ufeff" + path.read_text().split("\n", lines)[lines], encoding="utf-8")
    assert load_dataset(name, tmp_path, 8).fingerprint == whole.fingerprint


def clothes_tree(root: Path, rows: list[tuple[str, str]]) -> Path:
    """``rows``: (item, status); one image each."""
    top = root / "In-shop Clothes Retrieval Benchmark"
    lines = [str(len(rows)), "image_name item_id evaluation_status"]
    for n, (item, status) in enumerate(rows):
        path = f"img/WOMEN/Dresses/{item}/{n:02d}_front.jpg"
        picture(top / "Img" / path, n)
        lines.append(f"{path} {item}   {status}")
    (top / "Eval").mkdir(parents=True)
    (top / "Eval" / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return top


CLOTHES = [
    ("id_3", "query"),
    ("id_1", "train"),
    ("id_1", "train"),
    ("id_2", "train"),
    ("id_2", "train"),
    ("id_3", "gallery"),
    ("id_4", "query"),
    ("id_4", "gallery"),
    ("id_4", "gallery"),
    ("id_4", "query"),
]


def test_clothes_have_a_gallery_of_their_own(tmp_path):
    top = clothes_tree(tmp_path, CLOTHES)
    clothes = load_dataset("inshop", tmp_path, 8)
    assert clothes.train.class_names == ("id_1", "id_2")
    assert clothes.test.class_names == clothes.gallery.class_names == ("id_3", "id_4")
    assert clothes.test.labels.tolist() == [0, 1, 1] and clothes.gallery.labels.tolist() == [
        0,
        1,
        1,
    ]
    assert clothes.gallery.paths[0].endswith("05_front.jpg")
    first = clothes.fingerprint
    picture(top / clothes.gallery.paths[0], 99)
    assert (
        load_dataset("inshop", tmp_path, 8).fingerprint != first
    )  # the gallery's images are the data's, too


def test_a_run_searches_the_gallery(tmp_path, monkeypatch):
    from mdr_core.runs.store import RunStore
    from mdr_core.study import profiles

    clothes_tree(tmp_path, CLOTHES)
    config = profiles.QUICK.replace(
        dataset="inshop",
        weights="random",
        epochs=1,
        iterations=1,
        batch_size=4,
        images_per_class=2,
        ks=(1, 3),
    )
    store = RunStore(tmp_path / "runs", tmp_path)
    record = store.run(config)
    assert (
        record["history"][-1]["test_recall@3"] == 100.0
    )  # the gallery holds three images, one of each query's class at least
    embeddings = store.embeddings(record)
    assert embeddings["test"].shape == (3, 64) and embeddings["gallery"].shape == (3, 64)
    assert embeddings["gallery_labels"].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "rows, line",
    [
        ([*CLOTHES, ("id_5", "query")], "not of the same classes"),
        ([*CLOTHES, ("id_1", "query"), ("id_1", "gallery")], "classes in both training and test"),
        ([*CLOTHES, ("id_1", "validation")], "status 'validation'"),
    ],
)
def test_clothes_of_a_wrong_list(tmp_path, rows, line):
    clothes_tree(tmp_path, rows)
    with pytest.raises(StudyError, match=line):
        load_dataset("inshop", tmp_path, 8)


@pytest.mark.parametrize("archive", [False, True])
def test_any_folder_of_class_folders(tmp_path, archive):
    for number, kind in enumerate(("b c", "a", "d'e", "f&g")):
        for i in range(2):
            picture(tmp_path / "things" / kind / f"{i}.png", 10 * number + i)
    picture(tmp_path / "things" / "__MACOSX" / "._0.png", 0)
    path = tmp_path / "things"
    if archive:
        path = zipped(path, tmp_path / "things.zip")
    things = load_dataset(f"folder:{path}", image_size=8)
    assert things.train.class_names == ("a", "b c") and things.test.class_names == ("d'e", "f&g")
    assert things.train.families is None and things.train.of_classes([1]).families is None


def test_grey_palette_and_cmyk_images_become_rgb_resized_by_lanczos(tmp_path):
    for kind in "abcd":
        for i, (mode, ending) in enumerate(
            [("L", "png"), ("P", "png"), ("CMYK", "jpg"), ("RGBA", "png")]
        ):
            picture(tmp_path / "in" / kind / f"{i}.{ending}", i, mode)
    train = load_dataset(f"folder:{tmp_path / 'in'}", image_size=8).train
    grey = train.images[0]
    assert torch.equal(grey[0], grey[1]) and not torch.equal(train.images[1][0], train.images[1][1])
    with Image.open(tmp_path / "in" / "a" / "0.png") as image:
        expected = np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.LANCZOS))
    assert np.array_equal(grey.permute(1, 2, 0).numpy(), expected)


def test_a_reader_s_photographs_are_turned_as_their_exif_says(tmp_path):
    for kind in "abcd":
        for i in range(2):
            picture(tmp_path / "in" / kind / f"{i}.png", i)
    image, exif = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)), Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "in" / "a" / "0.png", exif=exif)
    turned = torch.from_numpy(np.asarray(image).copy()).rot90(-1)
    assert torch.equal(
        load_dataset(f"folder:{tmp_path / 'in'}", image_size=4).train.images[0].permute(1, 2, 0),
        turned,
    )
    assert np.array_equal(
        image_cache.pixels(tmp_path / "in" / "a" / "0.png", 4, "", upright=False), np.asarray(image)
    )  # an official dataset's is not


def test_of_classes_relabels_in_the_order_given(tmp_path):
    cub_tree(tmp_path)
    train = load_dataset("cub50", tmp_path, 8).train
    part = train.of_classes([2, 0])
    assert part.class_names == ("Sooty Albatross", "Black footed Albatross")
    assert part.labels.tolist() == [1, 1, 1, 0, 0, 0] and torch.equal(
        part.images[3:], train.images[6:]
    )
    assert part.paths == train.paths[:3] + train.paths[6:]


def test_hold_out_takes_the_last_training_classes(tmp_path):
    cub_tree(tmp_path, tuple(f"{i:03d}.Bird_{i}" for i in range(1, 13)))
    whole = load_dataset("cub50", tmp_path, 8)
    held = whole.hold_out(2)
    assert (
        held.train.class_names == whole.train.class_names[:4]
        and held.test.class_names == whole.train.class_names[4:]
    )
    assert held.test.labels.tolist() == [0, 0, 0, 1, 1, 1] and held.fingerprint == whole.fingerprint
    for count in (1, 5):
        with pytest.raises(StudyError, match="hold_out"):
            whole.hold_out(count)


def test_the_fingerprint_is_that_of_files_labels_names_split_and_size_wherever_they_lie(
    tmp_path, monkeypatch
):
    tree = cub_tree(tmp_path / "one")
    of = lambda root, size=8: load_dataset("cub50", tmp_path / root, size).fingerprint  # noqa: E731
    first = of("one")
    assert of("one") == first  # kept beside the cache
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert of("two") == first
    shutil.copytree(tmp_path / "one", tmp_path / "three")
    zipped(tmp_path / "three" / "CUB_200_2011", tmp_path / "three" / "cub50.zip")
    assert of("three") == first  # unpacked or not
    (tmp_path / "four").mkdir()
    shutil.move(tmp_path / "two" / "CUB_200_2011", tmp_path / "four" / "cub50")
    assert of("four") == first  # under another name
    assert of("one", 9) != first

    def changed(path: Path, content: bytes) -> str:
        kept = path.read_bytes()
        path.write_bytes(content)
        found = of("one")
        path.write_bytes(kept)
        assert of("one") == first
        return found

    names, labels, image = (
        tree / "classes.txt",
        tree / "image_class_labels.txt",
        tree / "images" / BIRDS[0] / "Black_footed_Albatross_0000.jpg",
    )
    pixels = image_cache.pixels(image, 8, "")
    different = [
        changed(
            names, names.read_bytes().replace(b"Sooty", b"Snowy")
        ),  # the same images under another class name
        changed(labels, labels.read_bytes().replace(b"3 1\n", b"3 2\n", 1)),  # another label
        changed(image, image.read_bytes() + b"\0"),  # another byte, and the same pixels
    ]
    image.write_bytes(image.read_bytes() + b"\0")
    assert np.array_equal(image_cache.pixels(image, 8, ""), pixels)
    image.write_bytes(image.read_bytes()[:-1])
    monkeypatch.setattr(fingerprint, "DECODING", fingerprint.DECODING + 1)
    assert len({first, *different, of("one")}) == 5


def test_the_fingerprint_depends_on_the_split_and_on_exif():
    train = fingerprint.SplitContent("train", ["a", "b"], [0, 1], ("x", "y"))
    test = train._replace(split="test")
    one = fingerprint.data_fingerprint([train], 8, False)
    assert fingerprint.data_fingerprint([train], 8, False) == one
    assert one not in (
        fingerprint.data_fingerprint([test], 8, False),
        fingerprint.data_fingerprint([train], 8, True),
        fingerprint.data_fingerprint([train, test], 8, False),
    )


def test_other_versions_of_the_decoder_have_other_files(tmp_path, cache, monkeypatch):
    cub_tree(tmp_path)
    load_dataset("cub50", tmp_path, 8)
    [first] = cache.glob("*.npy")
    monkeypatch.setattr(fingerprint, "DECODING", fingerprint.DECODING + 1)
    load_dataset("cub50", tmp_path, 8)
    assert len(list(cache.glob("*.npy"))) == 2 and first.exists()


def test_the_pixels_do_not_enter_the_fingerprint(tmp_path, cache, monkeypatch):
    """Two installations share a run whose pixels differ in the last place."""
    cub_tree(tmp_path)
    one, decode = load_dataset("cub50", tmp_path, 8), image_cache.pixels
    shutil.rmtree(cache)
    monkeypatch.setattr(image_cache, "pixels", lambda *a: decode(*a) ^ 1)
    other = load_dataset("cub50", tmp_path, 8)
    assert (
        not torch.equal(one.train.images, other.train.images)
        and one.fingerprint == other.fingerprint
    )


def test_the_cache_is_used_and_a_torn_one_replaced(tmp_path, cache, monkeypatch):
    cub_tree(tmp_path)
    first = load_dataset("cub50", tmp_path, 8)
    train, test = (
        first.train.images.clone(),
        first.test.images.clone(),
    )  # the file below them is about to be torn
    (stored,) = cache.glob("*.npy")
    (note,) = cache.glob("*.json")
    assert not list(cache.glob("*.tmp"))
    calls = []
    original = image_cache.pixels
    monkeypatch.setattr(image_cache, "pixels", lambda *a: calls.append(a) or original(*a))
    again = load_dataset("cub50", tmp_path, 8)
    assert not calls and torch.equal(again.train.images, train)
    for torn in (stored.read_bytes()[:-100], b"", b"not an array"):
        calls.clear()
        stored.write_bytes(torn)
        again = load_dataset("cub50", tmp_path, 8)
        assert len(calls) == 18 and torch.equal(again.test.images, test)
        assert again.fingerprint == first.fingerprint
    again.train.images[0] = 0  # a reader's own affair: the file stays as it is
    note.write_text('{"about"')
    assert load_dataset("cub50", tmp_path, 8).fingerprint == first.fingerprint


@pytest.mark.parametrize("fault", ["no room", "half written"])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, cache, monkeypatch, fault):
    cub_tree(tmp_path)

    def write(file, content, offset):
        if fault == "no room":
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(content) // 2

    monkeypatch.setattr(os, "pwrite", write)
    with pytest.raises(StudyError, match="cannot be made.*[Nn]o space left.*MDR_CACHE"):
        load_dataset("cub50", tmp_path, 8)
    assert not list(cache.iterdir())


def test_of_two_that_need_the_images_one_decodes_them(tmp_path, cache, monkeypatch):
    cub_tree(tmp_path)
    calls, original = [], image_cache.pixels
    monkeypatch.setattr(
        image_cache, "pixels", lambda *a: (calls.append(a), time.sleep(0.01), original(*a))[-1]
    )
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: load_dataset("cub50", tmp_path, 8), range(2))
    assert (
        len(calls) == 18 and one.fingerprint == two.fingerprint and not list(cache.glob("*.lock"))
    )


def killed_decoding(root: Path) -> None:
    original, calls = image_cache.pixels, []
    image_cache.pixels = lambda *a: (
        os.kill(os.getpid(), signal.SIGKILL)
        if len(calls) > 4
        else (calls.append(a), original(*a))[1]
    )
    load_dataset("cub50", root, 8, root / "cache")


def test_a_killed_decoding_leaves_nothing_that_is_trusted(tmp_path, cache):
    cub_tree(tmp_path)
    with started(killed_decoding, tmp_path) as process:
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [p.suffix for p in cache.iterdir()].count(".tmp") == 1 and not list(cache.glob("*.npy"))
    load_dataset("cub50", tmp_path, 8)
    assert sorted(p.suffix for p in cache.iterdir()) == [".json", ".npy"]


def test_what_unpacks_to_far_more_than_an_image_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("a/1.jpg", "b/1.jpg"):
            file.writestr(name, b"0" * 5000)
    monkeypatch.setattr(source, "MOST", 4000)
    with pytest.raises(StudyError, match="would unpack to more than"):
        load_dataset(f"folder:{tmp_path / 'bomb.zip'}", image_size=8)


def test_the_whole_of_cub_gives_cub50_its_first_fifty_classes(tmp_path):
    cub_tree(tmp_path, birds=[f"{i:03d}.Bird_{i}" for i in range(1, 61)], each=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_dataset("cub50", tmp_path, 8)
    assert (
        len(found.train.class_names) == len(found.test.class_names) == 25
        and found.test.class_names[-1] == "Bird 50"
    )


def test_the_cache_s_place(tmp_path, cache):
    cub_tree(tmp_path)
    load_dataset("cub50", tmp_path, 8, cache_root=tmp_path / "elsewhere")
    assert list((tmp_path / "elsewhere").rglob("*.npy")) and not cache.exists()


def test_the_data_root_comes_from_the_environment(tmp_path, monkeypatch):
    cub_tree(tmp_path)
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path))
    assert len(load_dataset("cub50", image_size=8).train.class_names) == 3


def test_errors_are_one_line_that_says_what_to_do(tmp_path):
    def line(name, size=8):
        with pytest.raises(StudyError) as caught:
            load_dataset(name, tmp_path, size)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    missing = line("cub50")
    assert (
        "cub50.zip or cub50/ or CUB_200_2011/" in missing and str(tmp_path) in missing
    )  # what, where ...
    assert (
        "CUB-200-2011" in missing and "MDR_DATA_ROOT" in missing and "data_root" in missing
    )  # ... and how
    assert all(name in line("birds") for name in catalog.NAMES)
    assert "no folder or zip" in line(f"folder:{tmp_path / 'absent'}")

    tree = cub_tree(tmp_path)
    broken = tree / "images" / BIRDS[4] / "Rusty_Blackbird_0001.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    assert "005.Rusty_Blackbird/Rusty_Blackbird_0001.jpg cannot be decoded" in line("cub50")
    assert not list((tmp_path / "cache").rglob("*.npy")) and not list(
        (tmp_path / "cache").rglob("*.tmp")
    )
    broken.unlink()
    assert "lacks" in line("cub50") and "Rusty_Blackbird_0001.jpg" in line("cub50")
    broken.write_bytes(whole)

    listed = (tree / "image_class_labels.txt").read_text()
    (tree / "image_class_labels.txt").write_text(listed.replace("17 6\n18 6", "17 5\n18 5"))
    assert "too few images in class 'Yellow headed Blackbird' of cub50" in line("cub50")
    (tree / "image_class_labels.txt").write_text(listed.replace("4 2\n", "four 2\n", 1))
    assert "image_class_labels.txt, line 4" in line("cub50")
    (tree / "image_class_labels.txt").write_text(listed.replace("4 2\n", "3 2\n", 1))
    assert "image_class_labels.txt, line 4: number 3 stands there twice" in line("cub50")
    (tree / "image_class_labels.txt").write_text(listed.replace("4 2\n", "4 9\n", 1))
    assert "image 4 of images.txt" in line("cub50")
    (tree / "image_class_labels.txt").unlink()
    assert "image_class_labels.txt" in line("cub50") and "official layout" in line("cub50")


def test_a_damaged_zip_is_said(tmp_path):
    path = zipped(cub_tree(tmp_path), tmp_path / "cub50.zip")
    with zipfile.ZipFile(path) as z:
        info = z.getinfo("CUB_200_2011/images.txt")
    content = bytearray(path.read_bytes())
    content[info.header_offset + 60] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(StudyError, match="images.txt cannot be read"):
        load_dataset("cub50", tmp_path, 8)
    path.write_bytes(b"no zip")
    with pytest.raises(StudyError, match="neither a folder nor a zip"):
        load_dataset("cub50", tmp_path, 8)


def test_malformed_matlab_files_are_said(tmp_path):
    tree = cars_tree(tmp_path, "devkit")
    train = tree / "devkit" / "cars_train_annos.mat"
    annotations(train, "fname", ["00001.jpg", "00002.jpg"], [1, 5])
    with pytest.raises(
        StudyError, match="cars_train_annos.mat, annotation 2: class 5 is not one of 1 to 4"
    ):
        load_dataset("cars196", tmp_path, 8)
    savemat(train, {"other": 1})
    with pytest.raises(StudyError, match="cars_train_annos.mat has no annotations"):
        load_dataset("cars196", tmp_path, 8)
    train.write_bytes(b"no matlab file at all, but long enough to hold a header" * 10)
    with pytest.raises(StudyError, match="cars_train_annos.mat is not a MATLAB file"):
        load_dataset("cars196", tmp_path, 8)
    savemat(tree / "devkit" / "cars_meta.mat", {"other": 1})
    with pytest.raises(StudyError, match="cars_meta.mat has no class_names"):
        load_dataset("cars196", tmp_path, 8)


def test_a_listed_path_cannot_leave_the_source(tmp_path):
    tree = cub_tree(tmp_path / "root")
    picture(tmp_path / "outside.jpg", 0)
    listed = (tree / "images.txt").read_text().splitlines()
    listed[0] = "1 ../../../outside.jpg"
    (tree / "images.txt").write_text("\n".join(listed))
    with pytest.raises(StudyError, match="lacks"):
        load_dataset("cub50", tmp_path / "root", 8)


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not in {SHARED}")
    return path


def test_the_real_cub_mini():
    shared("cub_mini.zip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the official counts
        birds = load_dataset("cub_mini", SHARED, 32)
    for split in (birds.train, birds.test):
        assert torch.bincount(split.labels).tolist() == [8] * 5
    assert birds.train.class_names[0] == "Black footed Albatross"


@pytest.mark.parametrize(
    "name, reader, half",
    [
        ("cub50", layouts.cub, (25, 1402)),
        ("cub200", layouts.cub, (100, 5864)),
        ("cars196", layouts.cars, (98, 8054)),
    ],
)
def test_the_real_lists_have_the_official_counts(name, reader, half):
    """Their lists only, not decoded: seconds, not minutes. ``half``: training classes, images."""
    archive = layouts.Source(shared(f"{name}.zip"))
    files, labels, names, *_ = reader(archive)
    classes, images = catalog.KNOWN[name][1:3]
    assert (len(names), len(files), len(set(files))) == (classes, images, images)
    assert set(files) <= set(archive.files) and set(labels.tolist()) == set(range(classes))
    assert (classes // 2, int((labels < classes // 2).sum())) == half
    image_cache.pixels(io.BytesIO(archive.read(files[-1])), 32, "")

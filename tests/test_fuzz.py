"""Foreign input ends in no traceback but a StudyError: configurations, stored runs, checkpoints,
weights, indices, tables of runs, class folders, trees, images, zip members, lists, archives.

The tests try a few examples each; ``python -m tests.test_fuzz 10`` tries new ones for ten minutes,
or ``python -m tests.test_fuzz 10 tree lists`` of these targets alone.
"""

import contextlib
import copy
import functools
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mdr_core import search, training
from mdr_core.config import Config, from_dict
from mdr_core.data import download, image_cache
from mdr_core.data.dataset import load_dataset
from mdr_core.errors import StudyError
from mdr_core.networks import backbones
from mdr_core.report.parameters import MARK, checked_parameters
from mdr_core.runs import store
from mdr_core.runs.store import RunStore
from mdr_core.study import archive, profiles
from tests.test_data import CLOTHES, cars_tree, clothes_tree, cub_tree, products_tree

TINY = profiles.QUICK.replace(
    weights="random", backbone="small_resnet_narrow", epochs=0, train_images=60
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)
NAMES = st.sampled_from([*Config().to_dict(), "sedes"])


@functools.cache
def material() -> dict:
    """Return what is to be spoilt: a stored run, an index, a table of runs, images, an archive."""
    folder = Path(tempfile.mkdtemp())
    record = RunStore(folder / "runs").run(TINY)
    stored = folder / "runs" / record["key"]
    index = search.ImageSearch.of_run(
        record, folder / "runs", RunStore().dataset(TINY).test.of_classes(range(4))
    ).save(folder / "index")
    trained = io.BytesIO()
    torch.save({"model": {"a": torch.zeros(3)}, "history": [{"epoch": 0}]}, trained)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(stored / "run.json", "CUB_200_2011/images.txt")
    picture = {}
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"):
        buffer = io.BytesIO()
        Image.effect_noise((20, 16), 50).convert("RGB").save(buffer, kind)
        picture[kind] = buffer.getvalue()
    cub_tree(folder / "official" / "cub_mini", each=2)
    cars_tree(folder / "official" / "cars196", "devkit")
    cars_tree(folder / "official" / "cars196", "legacy")
    products_tree(folder / "official" / "sop")
    clothes_tree(folder / "official" / "inshop", CLOTHES)
    found = {
        "index": {p.name: p.read_bytes() for p in index.iterdir()},
        "run": {p.name: p.read_bytes() for p in stored.iterdir()},
        "key": record["key"],
        "table": archive.to_table([store.stored(stored)]).to_csv(index=False).encode(),
        "checkpoint": trained.getvalue(),
        "tgz": packed.getvalue(),
        "pictures": picture,
        "official": {
            tree.name: {
                str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob("*") if p.is_file()
            }
            for tree in (folder / "official").iterdir()
        },
    }
    shutil.rmtree(folder)
    return found


@st.composite
def spoilt(draw, good: bytes) -> bytes:
    """Bytes cut, overwritten, or foreign."""
    kind = draw(st.sampled_from(["cut", "overwritten", "overwritten", "grown", "foreign"]))
    if kind == "foreign":
        return draw(st.binary(max_size=200))
    if kind == "cut":
        return good[: draw(st.integers(0, len(good)))]
    if kind == "grown":
        place = draw(st.integers(0, len(good)))
        return good[:place] + draw(st.binary(min_size=1, max_size=20)) + good[place:]
    changed = bytearray(good)
    near = draw(st.sampled_from([64, 1024, len(good)]))  # heads matter most
    for _ in range(draw(st.integers(1, 6))):
        changed[draw(st.integers(0, min(near, len(good)) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def one_spoilt(draw, files: dict[str, bytes]) -> dict[str, bytes]:
    name = draw(st.sampled_from(sorted(files)))
    return files | {name: draw(spoilt(files[name]))}


def configuration(draw, folder):
    config = from_dict(draw(st.dictionaries(NAMES, JSON, max_size=5)))
    training.start(
        config.replace(backbone="small_resnet_narrow", weights="random", dim=8, device="cpu")
    )


def stored_run(draw, folder):
    """Spoilt bytes, and well-formed JSON of a wrong shape."""
    good = material()["run"]
    if draw(st.booleans()):
        record = copy.deepcopy(json.loads(good["run.json"]))
        place = draw(
            st.sampled_from(
                [
                    record,
                    record["config"],
                    record["files"],
                    record["history"][0],
                    record["provenance"],
                ]
            )
        )
        place[draw(st.sampled_from(sorted(place)))] = draw(JSON)
        files = good | {"run.json": json.dumps(record).encode()}
    else:
        files = one_spoilt(draw, good)
    store.stored(written(folder / material()["key"], files), TINY)


def checkpoint(draw, folder):
    written(folder, {"run/checkpoint.pt": draw(spoilt(material()["checkpoint"]))})
    store.checkpoint(folder / "run")


def weights(draw, folder):
    name = draw(st.sampled_from(["w.pth", "w.safetensors"]))
    good = material()["checkpoint"] if name == "w.pth" else material()["run"]["weights.safetensors"]
    path = written(folder, {name: draw(spoilt(good))}) / name
    backbones.backbone("small_resnet_narrow", str(path))


def saved_index(draw, folder):
    search.ImageSearch.load(written(folder, one_spoilt(draw, material()["index"]))).embed(
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    )


def table_of_runs(draw, folder):
    written(folder, {"runs.csv": draw(spoilt(material()["table"]))})
    archive.restore(folder, RunStore(folder / "store"))


def class_folder(draw, folder):
    """Any names, any bytes."""
    words = st.text(
        st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8
    ).filter(lambda w: w not in (".", ".."))
    pictures = material()["pictures"]
    for number in range(draw(st.integers(0, 4))):
        parent = draw(words)
        for i in range(draw(st.integers(0, 3))):
            good = draw(st.sampled_from(sorted(pictures)))
            content = pictures[good] if draw(st.booleans()) else draw(spoilt(pictures[good]))
            ending = draw(st.sampled_from(["jpg", "png", "txt"]))
            name = f"{parent}/{number}{i}{draw(words)}.{ending}"
            with contextlib.suppress(OSError):  # the file system does not take the name
                written(folder / "images", {name: content})
    load_dataset(f"folder:{folder / 'images'}", image_size=16, cache_root=folder / "cache")


SEGMENTS = st.sampled_from([
    *(b"a", b"b", b"c", b"d", b"train", b"test", b"Val", b"@eaDir", b".hidden", b"__MACOSX"),
    *("é".encode(), b"caf\xe9", b"a b", b"x\ny", b"back\\slash", b"<b>", b"%s{}", b"lost+found"),
])  # fmt: skip
ENDINGS = st.sampled_from([b".png", b".JPG", b".tif", b".pgm", b".heic", b".txt", b".webp", b""])


def tree(draw, folder):
    """Class folders, and odd names, depths, and links to files, folders, nothing and in loops."""
    root, pictures = os.fsencode(folder) + b"/images", material()["pictures"]
    made = [b"%s/%d" % (name, n) for name in (b"a", b"b", b"c", b"d") for n in (0, 1)]
    below = b"/".join([root, *draw(st.lists(SEGMENTS, max_size=2))])
    files = [b"%s/%s.png" % (below, name) for name in made]
    for number in range(draw(st.integers(0, 3))):
        place = b"/".join([draw(st.sampled_from(made))[:1], *draw(st.lists(SEGMENTS, max_size=2))])
        files.append(b"%s/%s/odd%d%s" % (below, place, number, draw(ENDINGS)))
    for number, file in enumerate(files):
        os.makedirs(os.path.dirname(file), exist_ok=True)
        if number < len(made) or draw(st.booleans()):
            with open(file, "wb") as out:
                out.write(pictures[draw(st.sampled_from(sorted(pictures)))])
        else:
            os.symlink(draw(st.sampled_from([b"gone", file, root, files[0], below + b"/a"])), file)
    level = draw(st.sampled_from(["", "", ",class_level=1", ",class_level=2", ",class_level=0"]))
    load_dataset(f"folder:{folder / 'images'}{level}", None, 8, folder / "cache")


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"]
MODES += ["I;16", "I;16B", "La", "RGBa"]
KINDS = ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "AVIF", "PPM", "JPEG2000", "TGA", "ICO"]


def one_image(draw, folder):
    """Any mode, depth, size, transparency, EXIF and format, whole or spoilt: square RGB."""
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    mode, kind = draw(st.sampled_from(MODES)), draw(st.sampled_from(KINDS))
    image = Image.new(mode, (width, height))
    size = len(image.tobytes())
    pattern = draw(st.binary(min_size=1, max_size=64))
    image.frombytes((pattern * (size // len(pattern) + 1))[:size])
    if mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    options = {}
    if draw(st.booleans()):
        options["transparency"] = draw(st.sampled_from([0, 7, 255, bytes(range(256)), (1, 2, 3)]))
    if draw(st.booleans()):
        options["exif"] = b"Exif\0\0MM\0*\0\0\0\x08" + draw(st.binary(max_size=60))
    stream = io.BytesIO()
    try:
        image.save(stream, kind, **options)
    except Exception:  # noqa: BLE001 - the format does not have this mode or option
        return
    content = stream.getvalue() if draw(st.booleans()) else draw(spoilt(stream.getvalue()))
    found = image_cache.pixels(io.BytesIO(content), 8, "it", draw(st.booleans()))
    assert found.shape == (8, 8, 3) and found.dtype == np.uint8


def zip_members(draw, folder):
    """Any names, twice, in any compression; the file whole or spoilt."""
    words = st.text(st.sampled_from("ab./\\:é\n"), min_size=1, max_size=6)
    stream, pictures = io.BytesIO(), material()["pictures"]
    with zipfile.ZipFile(stream, "w", draw(st.sampled_from([0, 8, 12, 14]))) as file:
        for number in range(draw(st.integers(8, 10))):
            name = f"{'abcd'[number % 4]}/{number}.jpg"
            name = draw(words) + name if not draw(st.integers(0, 9)) else name
            file.writestr(zipfile.ZipInfo(name), pictures[draw(st.sampled_from(sorted(pictures)))])
    content = stream.getvalue() if draw(st.booleans()) else draw(spoilt(stream.getvalue()))
    written(folder, {"images.zip": content})
    load_dataset(f"folder:{folder / 'images.zip'}", None, 8, folder / "cache")


def decoded_cache(draw, folder):
    """A stored array or its digests spoilt: not taken, or of the right shape and length."""
    array, digests = io.BytesIO(), ["0" * 64, "0" * 64]
    np.save(array, np.zeros((2, 8, 8, 3), np.uint8))
    head = array.getvalue()[:128]  # before the pixels
    odd = st.builds(lambda value: json.dumps(value).encode(), JSON | st.lists(JSON, min_size=2))
    files = {"x.npy": draw(spoilt(head)) + array.getvalue()[128:], "x.json": b""}
    if draw(st.booleans()):
        files["x.npy"] = array.getvalue()
    files["x.json"] = draw(odd | spoilt(json.dumps(digests).encode()))
    found = image_cache.cached(written(folder, files) / "x.npy", (2, 8, 8, 3))
    assert found is None or (
        found[0].shape == (2, 8, 8, 3)
        and isinstance(found[1], list)
        and all(len(digest) >= 64 for digest in found[1])
    )


def lists(draw, folder):
    """A dataset in an official layout, one of its files spoilt."""
    name = draw(st.sampled_from(sorted(material()["official"])))
    files = material()["official"][name]
    listed = {path: content for path, content in files.items() if not path.lower().endswith(".jpg")}
    written(folder / "data" / name, files | one_spoilt(draw, listed))
    if draw(st.booleans()):  # as a zip file, which may be spoilt itself
        packed = Path(shutil.make_archive(str(folder / name), "zip", folder / "data"))
        shutil.rmtree(folder / "data")
        good = packed.read_bytes()
        content = draw(spoilt(good)) if draw(st.booleans()) else good
        written(folder / "data", {f"{name}.zip": content})
    load_dataset(name, folder / "data", 16, folder / "cache")


def downloaded(draw, folder):
    written(folder, {"x.tgz": draw(spoilt(material()["tgz"]))})
    download.unpack([folder / "x.tgz"], folder / "unpacked")


def parameters(draw, folder):
    cells = [
        "",
        MARK + "\nseeds = [0]  # a\nlr = -1.0  # b\nname = ''  # c",
        "# Parameters\nlr = 1\n",
        "",
    ]
    values = st.fixed_dictionaries({"seeds": JSON, "lr": JSON, "name": JSON})
    checked_parameters({"In": cells} | draw(values))


TARGETS = [
    configuration,
    stored_run,
    checkpoint,
    weights,
    saved_index,
    table_of_runs,
    class_folder,
    tree,
    one_image,
    zip_members,
    decoded_cache,
    lists,
    downloaded,
    parameters,
]


def trial(target, draw) -> None:
    """One example: it works, or it ends in a StudyError of one line."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                target(draw, Path(folder))
        except StudyError as problem:
            assert "\n" not in str(problem).strip(), problem
    assert time.process_time() - began < 30, "this took too long"


@pytest.mark.parametrize("examples", [10, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.__name__)
def test_no_traceback_from_below(target, examples):
    fuzz(target, examples)


def fuzz(target, examples: int, fixed: bool = True) -> None:
    material()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=fixed,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(drawn):
        trial(target, drawn.draw)

    run()


if __name__ == "__main__":
    until, done = time.monotonic() + 60 * float(sys.argv[1]), 0
    chosen = [target for target in TARGETS if target.__name__ in (sys.argv[2:] or target.__name__)]
    while time.monotonic() < until:
        for target in chosen:
            fuzz(target, 50, fixed=False)
            done += 50
    print(f"{done} examples over {len(chosen)} targets: no traceback, nothing hung")

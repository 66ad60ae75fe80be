"""Foreign input ends in no traceback but a StudyError: configurations, stored runs, weights,
indices, class folders, images, zip files, lists."""

import contextlib
import copy
import functools
import io
import json
import os
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
from mdr_core.runs.store import RunStore
from PIL import Image

from mdr_core import training
from mdr_core.config import Config, from_dict
from mdr_core.data import image_cache
from mdr_core.data.dataset import load_dataset
from mdr_core.errors import StudyError
from mdr_core.networks import backbones
from mdr_core.search import ImageSearch
from tests.test_data import CLOTHES, cars_tree, clothes_tree, cub_tree, products_tree

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
NAMES = st.sampled_from([*Config().to_dict(), "sedes"])
SEGMENTS = st.sampled_from([
    *(b"a", b"b", b"c", b"d", b"train", b"test", b"Val", b"@eaDir", b".hidden", b"__MACOSX"),
    *("é".encode(), b"caf\xe9", b"a b", b"x\ny", b"back\\slash", b"<b>", b"%s{}", b"lost+found"),
])  # fmt: skip
ENDINGS = st.sampled_from([b".png", b".JPG", b".tif", b".pgm", b".heic", b".txt", b".webp", b""])
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I;16"]
KINDS = ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "AVIF", "PPM", "JPEG2000", "TGA", "ICO"]
KEPT = tempfile.TemporaryDirectory()  # what all examples spoil a copy of, as long as they run


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@functools.cache
def pictures() -> list[bytes]:
    """Return an image in each of the usual formats."""
    found = []
    for kind in KINDS[:6]:
        buffer = io.BytesIO()
        Image.effect_noise((20, 16), 50).convert("RGB").save(buffer, kind)
        found.append(buffer.getvalue())
    return found


@functools.cache
def stored() -> tuple[Config, dict, dict[str, bytes], dict[str, bytes]]:
    """Return a run of four class folders: its settings, record, files, and those of its index."""
    folder, png = Path(KEPT.name), pictures()[0]
    written(folder / "images", {f"{name}/{i}.png": png for name in "abcd" for i in range(2)})
    config = Config(
        dataset=f"folder:{folder / 'images'}", image_size=32, crop=32, resize=32, dim=8,
        backbone="small_resnet_narrow", weights="random", epochs=0, batch_size=4,
        images_per_class=2, device="cpu",
    )  # fmt: skip
    record = RunStore(folder / "runs").run(config)
    gallery = load_dataset(config.dataset, image_size=32).test
    index = ImageSearch.of_run(record, folder / "runs", gallery).save(folder / "index")
    return config, record, contents(folder / "runs" / record["key"]), contents(index)


@functools.cache
def official() -> dict[str, dict[str, bytes]]:
    """Return small datasets in the official layouts by name."""
    folder = Path(KEPT.name) / "official"
    cub_tree(folder / "cub_mini", each=2)
    cars_tree(folder / "cars196", "devkit")
    cars_tree(folder / "cars196", "legacy")
    products_tree(folder / "sop")
    clothes_tree(folder / "inshop", CLOTHES)
    return {tree.name: contents(tree) for tree in sorted(folder.iterdir())}


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


def maybe_spoilt(draw, good: bytes) -> bytes:
    return draw(spoilt(good)) if draw(st.integers(0, 9)) > 7 else good


def one_spoilt(draw, files: dict[str, bytes]) -> dict[str, bytes]:
    name = draw(st.sampled_from(sorted(files)))
    return files | {name: draw(spoilt(files[name]))}


def configuration(draw, folder):
    values = draw(st.dictionaries(NAMES, JSON, max_size=5))
    small = {"backbone": "small_resnet_narrow", "weights": "random", "dim": 8, "device": "cpu"}
    training.start(from_dict(values).replace(**small))


def stored_run(draw, folder):
    """Spoilt bytes, JSON of a wrong shape, or a foreign checkpoint: the same numbers, anew."""
    config, expected, good, _ = stored()
    record = copy.deepcopy(json.loads(good["run.json"]))
    place = draw(st.sampled_from([record, record["config"], record["files"], record["history"][0]]))
    place[draw(st.sampled_from(sorted(place)))] = draw(JSON)
    shape = good | {"run.json": json.dumps(record).encode()}
    torch.save({"model": {"a": torch.zeros(3)}, "history": [{"epoch": 0}]}, folder / "state")
    checkpoint = {"checkpoint.pt": draw(spoilt((folder / "state").read_bytes()))}
    files = draw(st.sampled_from([one_spoilt(draw, good), shape, checkpoint]))
    written(folder / "runs" / expected["key"], files)
    found = RunStore(folder / "runs").run(config)
    assert json.dumps(found["history"]) == json.dumps(expected["history"])


def weights(draw, folder):
    torch.save({"a": torch.zeros(3)}, folder / "w.pth")
    written(folder, {"w.safetensors": stored()[2]["weights.safetensors"]})
    path = draw(st.sampled_from([folder / "w.pth", folder / "w.safetensors"]))
    path.write_bytes(draw(spoilt(path.read_bytes())))
    backbones.backbone("small_resnet_narrow", str(path))


def saved_index(draw, folder):
    search = ImageSearch.load(written(folder, one_spoilt(draw, stored()[3])))
    search.embed(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def folders(draw, folder):
    """Class folders with odd names, depths and contents; links to files, nothing and in loops."""
    root = os.fsencode(folder) + b"/images"
    made = [b"%s/%d" % (name, n) for name in (b"a", b"b", b"c", b"d") for n in (0, 1)]
    nested = st.lists(SEGMENTS, max_size=2).map(b"/".join)
    below = b"%s/%s" % (root, draw(nested))
    files = [b"%s/%s.png" % (below, name) for name in made]
    for number in range(draw(st.integers(0, 3))):
        place = draw(st.sampled_from(made))[:1], draw(nested)
        files.append(b"%s/%s/%s/odd%d%s" % (below, *place, number, draw(ENDINGS)))
    for number, file in enumerate(files):
        os.makedirs(os.path.dirname(file), exist_ok=True)
        if number < len(made) or draw(st.booleans()):
            good = draw(st.sampled_from(pictures()))
            Path(os.fsdecode(file)).write_bytes(maybe_spoilt(draw, good))
        else:
            os.symlink(draw(st.sampled_from([b"gone", file, root, files[0], below + b"/a"])), file)
    load_dataset(f"folder:{folder / 'images'}", image_size=8)


def one_image(draw, folder):
    """Any mode, size, transparency, EXIF and format, whole or spoilt: square RGB."""
    edges = st.integers(1, 40)
    image = Image.new(draw(st.sampled_from(MODES)), (draw(edges), draw(edges)))
    size, pattern = len(image.tobytes()), draw(st.binary(min_size=1, max_size=64))
    image.frombytes((pattern * (size // len(pattern) + 1))[:size])
    if image.mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    options = {}
    if draw(st.booleans()):
        options["transparency"] = draw(st.sampled_from([0, 7, 255, bytes(range(256)), (1, 2, 3)]))
    if draw(st.booleans()):
        options["exif"] = b"Exif\0\0MM\0*\0\0\0\x08" + draw(st.binary(max_size=60))
    stream = io.BytesIO()
    try:
        image.save(stream, draw(st.sampled_from(KINDS)), **options)
    except Exception:  # noqa: BLE001 - the format does not have this mode or option
        return
    content = maybe_spoilt(draw, stream.getvalue())
    found = image_cache.pixels(io.BytesIO(content), 8, "it", draw(st.booleans()))
    assert found.shape == (8, 8, 3) and found.dtype == np.uint8


def zip_members(draw, folder):
    """Any names, twice, in any compression, out of the folder; the file whole or spoilt."""
    words = st.text(st.sampled_from("ab./\\:é\n"), min_size=1, max_size=6)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", draw(st.sampled_from([0, 8, 12, 14]))) as file:
        for number in range(draw(st.integers(8, 10))):
            before = draw(words | st.just("../../")) if not draw(st.integers(0, 9)) else ""
            member = zipfile.ZipInfo(f"{before}{'abcd'[number % 4]}/{number}.jpg")
            file.writestr(member, draw(st.sampled_from(pictures())))
    written(folder, {"images.zip": maybe_spoilt(draw, stream.getvalue())})
    try:
        load_dataset(f"folder:{folder / 'images.zip'}", image_size=8)
    finally:  # nothing was unpacked elsewhere
        assert {path.name for path in folder.iterdir()} <= {"images.zip", "cache"}


def lists(draw, folder):
    """A dataset in an official layout, one of its lists spoilt."""
    name, files = draw(st.sampled_from(sorted(official().items())))
    listed = {path: content for path, content in files.items() if not path.lower().endswith(".jpg")}
    written(folder / "data" / name, files | one_spoilt(draw, listed))
    load_dataset(name, image_size=16)


TARGETS = [configuration, stored_run, weights, saved_index, folders, one_image, zip_members, lists]


def trial(target, draw) -> None:
    """One example: it works, or it ends in a StudyError of one line."""
    began = time.process_time()
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        patch.setenv("MDR_DATA_ROOT", f"{folder}/data")
        patch.setenv("MDR_CACHE", f"{folder}/cache")
        try:
            target(draw, Path(folder))
        except StudyError as problem:
            assert "\n" not in str(problem).strip(), problem
    assert time.process_time() - began < 30, "this took too long"


@pytest.mark.parametrize("examples", [10, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.__name__)
def test_no_traceback_from_below(target, examples):
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(drawn):
        trial(target, drawn.draw)

    run()

"""Foreign input ends in no traceback but a StudyError: settings, runs, indices, lists."""

import contextlib
import copy
import functools
import io
import json
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdr_core import training
from mdr_core.config import Config
from mdr_core.data.dataset import load_dataset
from mdr_core.errors import StudyError
from mdr_core.runs import local
from mdr_core.search import ImageSearch
from tests import trees

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
FOUR = [f"{name}/{number}.png" for name in "abcd" for number in range(2)]
KEPT = tempfile.TemporaryDirectory()  # what all examples spoil a copy of, as long as they run


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@functools.cache
def stored() -> tuple[Config, dict, dict[str, bytes], dict[str, bytes]]:
    """Return a run of four class folders: its settings, record, files, and those of its index."""
    folder = Path(KEPT.name)
    config = Config(
        dataset=f"folder:{trees.tree(folder / 'images', FOUR)}", image_size=32, crop=32, resize=32,
        dim=8, backbone="small_resnet_narrow", weights="random", epochs=0, batch_size=4,
        images_per_class=2, device="cpu",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MDR_RUNS", str(folder / "runs"))
        record = local.train(config)
        gallery = load_dataset(config.dataset, image_size=32).test
        index = ImageSearch.of_run(record, gallery).save(folder / "index")
    return config, record, contents(Path(record["files"]["weights"]).parent), contents(index)


@st.composite
def spoilt(draw, good: bytes) -> bytes:
    """Bytes cut, overwritten, or foreign."""
    kind = draw(st.sampled_from(["cut", "overwritten", "overwritten", "foreign"]))
    if kind == "foreign":
        return draw(st.binary(max_size=200))
    if kind == "cut":
        return good[: draw(st.integers(0, len(good)))]
    changed = bytearray(good)
    near = draw(st.sampled_from([64, 1024, len(good)]))  # heads matter most
    for _ in range(draw(st.integers(1, 6))):
        changed[draw(st.integers(0, min(near, len(good)) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


def one_spoilt(draw, files: dict[str, bytes]) -> dict[str, bytes]:
    name = draw(st.sampled_from(sorted(files)))
    return files | {name: draw(spoilt(files[name]))}


def configuration(draw, folder):
    names = st.sampled_from([*Config().model_dump(), "sedes"])
    small = {"backbone": "small_resnet_narrow", "weights": "random", "dim": 8, "device": "cpu"}
    training.start(Config(**draw(st.dictionaries(names, JSON, max_size=5))).replace(**small))


def stored_run(draw, folder):
    """Spoilt bytes, or JSON of a wrong shape: refused, or the same numbers."""
    config, expected, good, _ = stored()
    record = copy.deepcopy(json.loads(good["run.json"]))
    place = draw(st.sampled_from([record, record["config"], record["history"][0]]))
    place[draw(st.sampled_from(sorted(place)))] = draw(JSON)
    shape = good | {"run.json": json.dumps(record).encode()}
    files = draw(st.sampled_from([one_spoilt(draw, good), shape]))
    trees.tree(folder / "runs" / expected["key"], files)
    assert json.dumps(local.train(config)["history"]) == json.dumps(expected["history"])


def saved_index(draw, folder):
    search = ImageSearch.load(trees.tree(folder, one_spoilt(draw, stored()[3])))
    search.nearest(np.zeros((32, 32, 3), np.uint8))


def lists(draw, folder):
    """A dataset in an official layout, one of its lists spoilt."""
    cub = trees.cub(folder / "data", each=2)
    path = draw(st.sampled_from(sorted(cub.glob("*.txt"))))
    path.write_bytes(draw(spoilt(path.read_bytes())))
    load_dataset("cub_mini", image_size=16)


TARGETS = [configuration, stored_run, saved_index, lists]


def trial(target, draw) -> None:
    """One example: it works, or it ends in a StudyError of one line."""
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for name in ("data_root", "cache", "runs"):
            patch.setenv(f"MDR_{name.upper()}", os.path.join(folder, name.removesuffix("_root")))
        try:
            target(draw, Path(folder))
        except StudyError as problem:
            assert "\n" not in str(problem).strip(), problem


@pytest.mark.parametrize("examples", [10, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.__name__)
def test_no_traceback_from_below(target, examples):
    options = {"deadline": None, "database": None, "derandomize": True}
    some = settings(max_examples=examples, suppress_health_check=list(HealthCheck), **options)
    some(given(st.data())(lambda drawn: trial(target, drawn.draw)))()
